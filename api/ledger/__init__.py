"""A small double-entry ledger: accounts, and transactions whose postings sum to zero in each currency.

Who is authoritative
    The postings. A balance is nowhere stored: it is SUM(amount) over an account's postings, read through the index
    on (account_id, amount). Nothing can drift apart, two posters never wait for one another's balance row, and no
    lock is needed: rows are only ever inserted, and an account's currency never changes.

What is promised
    * A transaction is there with all its postings or not at all, and in each currency they sum to zero.
    * A posting is in its account's currency: a composite foreign key says so too, whoever writes.
    * One `Idempotency-Key` makes one transaction. The unique constraint decides between concurrent requests, not a
      look before the insert; the loser reads what the winner committed. After a 503, or no answer at all, the same
      request with the same key is therefore always safe.
    * All this on PostgreSQL, MySQL, MariaDB and SQLite: `types`, `engines` and `outages` are where they differ.
    * Pages are cut by key, not by offset: rows that arrive while somebody pages move nothing.

What is not promised
    * Commit order. Ids are given out before the commit, so a slow transaction may appear below newer ones.
    * That an account stays above zero: a ledger records; limits are the business of whoever posts.
"""

from .lifespan import ledger_lifespan
from .models import metadata
from .routes import router

__all__ = ["ledger_lifespan", "metadata", "router"]
