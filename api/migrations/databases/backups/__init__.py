"""Backups before a migration. Optional: without this folder the package migrates, and refuses `--backup`."""
