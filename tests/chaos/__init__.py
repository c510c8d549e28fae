"""`./dev chaos`: fleets of real processes on a real PostgreSQL, with real faults; the database is asked what happened."""
