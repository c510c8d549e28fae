"""The operations of the ledger: one method for each endpoint, each in one database transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from . import cursor
from .balance import require_balanced, require_matching_accounts
from .database import Database, again_after_deadlock
from .errors import KeyReused, NumberTaken, UnknownAccount
from .idempotency import fingerprint
from .models import Account, Posting, Transaction
from .schemas import AccountView, NewAccount, NewPosting, NewTransaction, TransactionPage, TransactionView
from .types import exact_sum


@dataclass(frozen=True)
class Posted:
    """The transaction of a key, and whether an earlier request posted it."""

    transaction: TransactionView
    replayed: bool


class Ledger:
    """The ledger in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @again_after_deadlock
    async def open_account(self, request: NewAccount) -> AccountView:
        """Open an account; its balance is 0.

        Raises:
            NumberTaken: another account has its number.
        """
        account = Account(**request.model_dump(), created_at=_now())
        try:
            async with self._database.sessions(writing=True) as session:
                session.add(account)
        except IntegrityError:
            if request.number is None:
                raise
            raise NumberTaken(request.number) from None
        return _account_view(account, 0)

    @again_after_deadlock
    async def account(self, account_id: int, booked_until: date | None = None) -> AccountView:
        """Return an account and its balance, at the end of the day `booked_until` if given, from one snapshot.

        Raises:
            UnknownAccount: there is none with this id.
        """
        balance = select(exact_sum(Posting.amount)).where(Posting.account_id == Account.id)
        if booked_until is not None:
            balance = balance.where(Posting.booked_on <= booked_until)
        read = select(Account, balance.scalar_subquery()).where(Account.id == account_id)
        async with self._database.sessions() as session:
            row = (await session.execute(read)).one_or_none()
        if row is None:
            raise UnknownAccount(account_id)
        return _account_view(row[0], row[1])

    @again_after_deadlock
    async def post(self, request: NewTransaction, key: str) -> Posted:
        """Post a transaction once for each `key`.

        Raises:
            Unbalanced, UnknownPostingAccount, CurrencyMismatch: the postings are wrong; nothing was written.
            KeyReused: the key belongs to a transaction with another payload.
        """
        require_balanced(request.postings)
        try:
            transaction = await self._insert(request, key)
        except IntegrityError:
            # The insert waited for the request with the same key: that one is committed, and a new snapshot shows it.
            original = await self._find(key)
            if original is None:
                raise
            if original.request_sha256 != fingerprint(request):
                raise KeyReused(key, original.id) from None
            return Posted(TransactionView.model_validate(original), replayed=True)
        return Posted(TransactionView.model_validate(transaction), replayed=False)

    @again_after_deadlock
    async def page(self, limit: int, after: str) -> TransactionPage:
        """Return up to `limit` transactions below the cursor `after`, newest first; the newest if it is empty.

        Raises:
            CursorMalformed: `after` is not a cursor.
        """
        newest_first = select(Transaction).options(selectinload(Transaction.postings)).order_by(Transaction.id.desc())
        if after:
            newest_first = newest_first.where(Transaction.id < cursor.decode(after))
        async with self._database.sessions() as session:
            # one more than requested: if it exists, another page follows
            found = (await session.scalars(newest_first.limit(limit + 1))).all()
        shown = found[:limit]
        return TransactionPage(
            transactions=[TransactionView.model_validate(transaction) for transaction in shown],
            next_cursor=cursor.encode(shown[-1].id) if len(found) > limit else None,
        )

    async def _insert(self, request: NewTransaction, key: str) -> Transaction:
        transaction = _transaction(request, key, _now())
        async with self._database.sessions(writing=True) as session:
            require_matching_accounts(request.postings, await _currencies(session, request.postings))
            session.add(transaction)
        return transaction

    async def _find(self, key: str) -> Transaction | None:
        by_key = select(Transaction).options(selectinload(Transaction.postings)).filter_by(idempotency_key=key)
        async with self._database.sessions() as session:
            return await session.scalar(by_key)


async def _currencies(session: AsyncSession, postings: list[NewPosting]) -> dict[int, str]:
    """Return the currency of each account. No lock: accounts are not deleted and do not change currency."""
    named = {posting.account_id for posting in postings}
    rows = await session.execute(select(Account.id, Account.currency).where(Account.id.in_(named)))
    return {account_id: currency for account_id, currency in rows}


def _transaction(request: NewTransaction, key: str, now: datetime) -> Transaction:
    booked_on = request.booked_on or now.date()
    return Transaction(
        idempotency_key=key,
        # of the request as sent, because a replay after midnight still omits booked_on
        request_sha256=fingerprint(request),
        description=request.description,
        booked_on=booked_on,
        created_at=now,
        postings=[
            Posting(position=position, booked_on=booked_on, **posting.model_dump())
            for position, posting in enumerate(request.postings)
        ],
    )


def _account_view(account: Account, balance: int) -> AccountView:
    return AccountView(
        id=account.id,
        number=account.number,
        name=account.name,
        currency=account.currency,
        balance=balance,
        created_at=account.created_at,
    )


def _now() -> datetime:
    return datetime.now(UTC)
