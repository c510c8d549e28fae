"""Requests that schemathesis generates from the OpenAPI document, to the service of `api.main` on PostgreSQL.

The examples are the same in each run. For more of them, serve the ledger and run
`st run http://127.0.0.1:8000/openapi.json --checks all -n 1000`.
"""
