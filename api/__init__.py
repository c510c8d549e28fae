"""The ledger service, and the package that migrates its database."""
