"""Reads the SQL of revisions without a database: the statements of each, and what they do to which objects."""
