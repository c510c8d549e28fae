"""Decides when an instance migrates, waits, serves or fails. Imports the standard library and `errors` only."""
