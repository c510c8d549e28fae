"""Elects by a key in Redis. This folder is optional: the other strategies work without it."""
