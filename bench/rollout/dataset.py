"""A ledger with many postings, in the schema of release 1, made by the server in seconds."""

from __future__ import annotations

import psycopg

from bench.rollout.targets import CURRENCY

POSTINGS_IN_A_TRANSACTION = 2
POSTINGS_OF_AN_ACCOUNT = 100

ACCOUNTS = """
INSERT INTO accounts (name, currency, created_at)
SELECT 'loaded ' || n, '{currency}', now() - interval '400 days' FROM generate_series(1, {accounts}) AS n
"""
TRANSACTIONS = """
INSERT INTO transactions (idempotency_key, request_digest, description, created_at, booked_on)
SELECT 'loaded-' || n, encode(sha256(n::text::bytea), 'hex'), 'loaded', at, (at AT TIME ZONE 'UTC')::date
FROM (SELECT n, now() - interval '1 year' * (1 - n::float8 / {transactions}) AS at
      FROM generate_series(1, {transactions}) AS n) AS each
"""
# the prime spreads the accounts; the two sides of a transaction are different accounts
POSTINGS = """
INSERT INTO postings (transaction_id, position, account_id, currency, amount)
SELECT id, side, 1 + (id * 7919 + side) % {accounts}, '{currency}', CASE side WHEN 0 THEN 100 ELSE -100 END
FROM transactions, generate_series(0, 1) AS side
"""


def fill(url: str, postings: int) -> int:
    """Insert that many postings, with their transactions and accounts; return the number of accounts."""
    accounts = max(2, postings // POSTINGS_OF_AN_ACCOUNT)
    sizes = {
        "accounts": accounts,
        "transactions": postings // POSTINGS_IN_A_TRANSACTION,
        "currency": CURRENCY,
    }
    # as on a replica: foreign keys are true by construction, and checking them takes longer than the rows
    statements = ["SET session_replication_role = replica", ACCOUNTS, TRANSACTIONS, POSTINGS]
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.format(**sizes).encode())
        connection.execute("VACUUM ANALYZE")
    return accounts
