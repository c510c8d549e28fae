"""PostgreSQL: the session that holds the advisory lock, its tables, and the checks of the server."""
