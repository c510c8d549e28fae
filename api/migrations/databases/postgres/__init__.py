"""PostgreSQL: the session that holds the advisory lock, and everything that its server can be asked."""
