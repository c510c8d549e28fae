"""The command `plan`: what `upgrade` would do: the statements, their table locks, rewrites and sizes."""
