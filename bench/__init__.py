"""`./dev bench`: measures this project beside bare Alembic, the usual recipe and other tools, in pairs in one run.

A measure is one module in `measures`, listed in `catalogue`. It gets a `Laboratory` and returns a `Table`, whose rows
say what must be reached. `README.md` says how to run it, and why each comparison is fair.
"""
