"""Runs revisions with Alembic on the connection that holds the lock, and writes the history table."""
