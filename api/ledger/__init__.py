"""A small double-entry ledger: accounts, and transactions whose postings sum to zero in each currency.

What is authoritative
    The postings. No balance is stored: a balance is SUM(amount) over an account's postings, read through the index on
    (account_id, booked_on, amount). So balances cannot be wrong, and no request waits for another one's balance row. No
    lock is needed, because rows are only inserted, and an account's currency never changes.

What is promised
    * A transaction is stored with all its postings or not at all, and in each currency they sum to zero.
    * A posting has its account's currency; a composite foreign key enforces it for every client.
    * One `Idempotency-Key` makes one transaction. The unique constraint decides between concurrent requests; the
      loser reads what the winner committed. So after a 503, or without an answer, the same request with the same key is
      safe.
    * The same on PostgreSQL, MySQL, MariaDB and SQLite; `types`, `engines` and `outages` have the differences.
    * Pages are cut by key, not by offset, so new rows do not shift later pages.

What is not promised
    * Commit order. Ids are assigned before the commit, so a slow transaction may appear below newer ones.
    * That an account stays above zero: the ledger records; the client enforces limits.
"""

from .application import add_ledger
from .lifespan import ledger_lifespan
from .models import metadata

__all__ = ["add_ledger", "ledger_lifespan", "metadata"]
