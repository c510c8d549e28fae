"""Parses database URLs as platforms hand them out."""
