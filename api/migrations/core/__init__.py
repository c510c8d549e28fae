"""Decides when an instance migrates, waits, serves or fails; imports only the standard library and `errors`."""
