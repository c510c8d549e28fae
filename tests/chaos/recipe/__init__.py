"""The recipe that is written by hand: `pg_advisory_lock()` around `alembic upgrade head`, and its outcome under faults.

`instance` is what runs, `trees` the revisions it finds, `crew` starts and questions the processes; every module
called `scenarios_…` holds a few faults, each run for real on a fresh database.
"""
