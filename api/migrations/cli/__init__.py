"""The commands of `migrate.sh`."""
