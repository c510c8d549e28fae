"""A lock in Redis. Optional: without this folder the other strategies work."""
