"""What stands behind `./dev`: the embedded PostgreSQL, the fleet of `./dev up`, and the lock of the requirements.

Nothing of the service imports this package.
"""
