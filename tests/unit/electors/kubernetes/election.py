"""Electors in memory: an election in which a hold can be stolen, and that can go silent or refuse."""

import asyncio

from api.migrations.errors import AccessRefused, ElectorUnreachable, HoldLost


class Election:
    """Elects one leader. No hold ends by time: the leader leads until it releases or is robbed."""

    def __init__(self) -> None:
        self.leader: str | None = None
        self.asked_for = 0
        """How often an instance asked for the hold."""
        self.silent = False
        """Whether requests get no answer."""
        self.refuses = False
        """Whether requests are refused."""
        self._holder: FakeElector | None = None

    def elector(self, instance: str) -> "FakeElector":
        """Return a new elector of that instance."""
        return FakeElector(self, instance)

    def rob(self, thief: str) -> None:
        """Make `thief` the leader; the previous leader notices."""
        robbed, self._holder, self.leader = self._holder, None, thief
        if robbed is not None:
            robbed.lose(f"this instance no longer has the hold, {thief} has it")

    def grant(self, elector: "FakeElector") -> bool:
        """Let it lead if there is no leader; returns whether it leads."""
        self.asked_for += 1
        if self.silent:
            raise ElectorUnreachable("no answer of the election")
        if self.refuses:
            raise AccessRefused("the election does not know this instance")
        if self.leader is None:
            self.leader, self._holder = elector.instance, elector
        return self._holder is elector

    def free(self, elector: "FakeElector") -> None:
        """End its lead, if it leads."""
        if self._holder is elector:
            self.leader = self._holder = None


class FakeElector:
    """An `Elector` of an `Election`."""

    def __init__(self, election: Election, instance: str) -> None:
        self.election = election
        self.instance = instance
        self._holds = False
        self._reason = ""
        self._gone = asyncio.Event()

    def lose(self, reason: str) -> None:
        """Mark the hold as lost."""
        self._reason = reason
        self._gone.set()

    async def try_acquire(self) -> bool:
        """Lead if there is no leader."""
        self._holds = self.election.grant(self)
        return self._holds

    async def confirm(self) -> None:
        """Check the hold; without an answer it is lost."""
        if self._gone.is_set():
            raise HoldLost(self._reason)
        if not self._holds:
            raise HoldLost("this instance does not lead")
        if self.election.silent:
            self.lose("the election did not confirm the hold")
            raise HoldLost(self._reason)

    async def lost(self) -> str:
        """Return the reason once the hold is lost."""
        await self._gone.wait()
        return self._reason

    async def ask(self) -> str | None:
        """Return the leader."""
        if self.election.silent:
            raise ElectorUnreachable("no answer")
        return self.election.leader

    async def rehearse(self) -> None:
        """Do nothing: a refusal shows when the elector asks."""

    async def leader(self) -> str | None:
        """Return the leader; None also without an answer."""
        return None if self.election.silent else self.election.leader

    async def release(self) -> None:
        """Release the hold."""
        self.election.free(self)
        self._holds = False
        self._gone.clear()
