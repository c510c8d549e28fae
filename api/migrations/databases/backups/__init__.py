"""Backups before a migration. This folder is optional: without it the package refuses `--backup`."""
