"""Makes text of other programs safe to show, to log and to store."""
