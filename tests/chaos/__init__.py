"""`./dev chaos`: real fleets on a real PostgreSQL suffer real faults, and the database shows what happened."""
