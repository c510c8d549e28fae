"""`./dev chaos`: real fleets on a real PostgreSQL, with real faults; the database is asked what happened."""
