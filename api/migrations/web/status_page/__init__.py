"""The page for browsers at `/health/migrations`. Optional: without this folder a browser gets JSON."""
