"""Runs revisions: drives Alembic on a connection that it is given, and keeps the history table."""
