"""Elects outside the database the instance that may try to migrate; the database's own lock decides which one runs."""
