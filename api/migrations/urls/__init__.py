"""Database URLs, as platforms hand them out."""
