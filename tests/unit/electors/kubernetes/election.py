"""Electors in memory: an election that can be robbed, go silent, or refuse."""

import asyncio

from api.migrations.errors import AccessRefused, ElectorUnreachable, HoldLost


class Election:
    """What electors ask. Nothing ends by time here: who leads does so until it is released or robbed."""

    def __init__(self) -> None:
        self.leader: str | None = None
        self.asked_for = 0
        """How often an instance asked for the hold."""
        self.silent = False
        """From now on there is no answer."""
        self.refuses = False
        """From now on the answer is no."""
        self._holder: FakeElector | None = None

    def elector(self, instance: str) -> "FakeElector":
        """A new elector of that instance."""
        return FakeElector(self, instance)

    def rob(self, thief: str) -> None:
        """Somebody else leads from now on, and whoever did notices."""
        robbed, self._holder, self.leader = self._holder, None, thief
        if robbed is not None:
            robbed.lose(f"the hold is not ours any more, {thief} has it")

    def grant(self, elector: "FakeElector") -> bool:
        """Let it lead if nobody does; returns whether it leads."""
        self.asked_for += 1
        if self.silent:
            raise ElectorUnreachable("no answer of the election while asking who may migrate")
        if self.refuses:
            raise AccessRefused("the election does not know this instance")
        if self.leader is None:
            self.leader, self._holder = elector.instance, elector
        return self._holder is elector

    def free(self, elector: "FakeElector") -> None:
        """Nobody leads any more, if it was this one."""
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
        """The hold is gone."""
        self._reason = reason
        self._gone.set()

    async def try_acquire(self) -> bool:
        """Lead if nobody does."""
        self._holds = self.election.grant(self)
        return self._holds

    async def confirm(self) -> None:
        """Make sure that the hold is still ours; silence is a loss."""
        if self._gone.is_set():
            raise HoldLost(self._reason)
        if not self._holds:
            raise HoldLost("this instance does not lead")
        if self.election.silent:
            self.lose("nobody could say whether the hold is still ours")
            raise HoldLost(self._reason)

    async def lost(self) -> str:
        """Return once the hold is lost."""
        await self._gone.wait()
        return self._reason

    async def ask(self) -> str | None:
        """Who leads."""
        if self.election.silent:
            raise ElectorUnreachable("no answer")
        return self.election.leader

    async def rehearse(self) -> None:
        """Nothing: what it is refused is told when it asks."""

    async def leader(self) -> str | None:
        """Who leads, unless nobody says."""
        return None if self.election.silent else self.election.leader

    async def release(self) -> None:
        """Give the hold back."""
        self.election.free(self)
        self._holds = False
        self._gone.clear()
