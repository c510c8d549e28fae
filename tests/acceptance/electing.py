"""Three instances that elect a leader: a database, a referee (Redis or a Lease), and the history that they run."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from subprocess import Popen

from tests.acceptance import portable
from tests.support import project
from tests.support.fleet import MARK, Instance, fleet, migrate, start_migrate, until_one_migrates, until_phase
from tests.support.places import Place, SqlitePlace, applied, marks, versions
from tests.support.project import Revision
from tests.support.referees import Referee
from tests.support.waiting import wait_until

SECONDS = 60.0
POLL = {"MIGRATION_POLL_SECONDS": "0.3"}


@dataclass
class Game:
    """One database and the referee that elects a leader for it."""

    place: Place
    referee: Referee
    ini: Path

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings of every instance."""
        return {**self.place.settings, **self.referee.settings, **POLL}

    def three(self, **settings: str) -> AbstractContextManager[list[Instance]]:
        """Start three instances of the service."""
        return fleet(3, self.place.url, ini=self.ini, first=1, **{**self.settings, **settings})

    def migrate(self, *words: str, **settings: str) -> tuple[int, str]:
        """Run `./migrate.sh …` to its end; return exit code and output."""
        return migrate(*words, url=self.place.url, ini=self.ini, **{**self.settings, **settings})

    def start(self, *words: str, **settings: str) -> "AbstractContextManager[Popen[str]]":
        """Start `./migrate.sh …` for a `with` block."""
        return start_migrate(*words, url=self.place.url, ini=self.ini, **{**self.settings, **settings})

    @contextmanager
    def at_work(self, **settings: str) -> "Iterator[Popen[str]]":
        """Run `./migrate.sh upgrade`, held in its revision."""
        with self.start("upgrade", MIGRATION_INSTANCE="script", **settings) as upgrade:
            portable.until_reached(self.ini)
            yield upgrade

    def begun(self, instances: Sequence[Instance]) -> tuple[Instance, list[Instance]]:
        """Wait until one instance is held in its revision and the others wait; return it and the others."""
        first = until_one_migrates(instances)
        wait_until(lambda: portable.until_reached(self.ini) == first.name, f"{first!r} held", seconds=10)
        others = [instance for instance in instances if instance is not first]
        until_phase(others, "waiting")
        return first, others

    def stop(self, instance: Instance) -> None:
        """Send SIGSTOP to the instance between two of its statements."""

        def stopped() -> bool:
            instance.kill(SIGSTOP)
            if not self.place.at_rest():
                instance.kill(SIGCONT)
                return False
            return True

        wait_until(stopped, f"{instance!r} stopped between two statements", seconds=10)

    def until_succeeded(self, first: Instance) -> str:
        """Wait until another instance is held in the revision; fail if two ever write at once. Returns its name."""
        reached = self.ini.parent / "reached"

        def another() -> bool:
            assert self.place.writers() <= 1
            return reached.read_text() not in {"", first.name}

        wait_until(another, f"a successor of {first.name}", seconds=SECONDS)
        return reached.read_text()

    def until_ready(self, instances: Sequence[Instance]) -> None:
        """Wait until all instances are ready; fail if two ever write at once."""

        def ready() -> bool:
            assert self.place.writers() <= 1
            return all(instance.ready() for instance in instances)

        wait_until(ready, f"{instances} ready", seconds=SECONDS)

    def assert_done(self) -> None:
        """Assert that every revision was applied once, the lock is free, and no instance leads."""
        assert applied(self.place) == project.revisions(self.ini)
        assert versions(self.place) == [project.head(self.ini)]
        assert marks(self.place) == sorted(set(marks(self.place)))
        wait_until(self.place.lock_is_free, "the lock free", seconds=10)
        wait_until(lambda: not self.referee.leader(), "nobody who leads", seconds=10)


def make_game(referee: Referee, place: Place, folder: Path, *extra: Revision) -> Game:
    """Make a game with these revisions; without any, with a held one and one after it."""
    if isinstance(place, SqlitePlace):
        place.need_volume()
    return Game(place, referee, portable.make_history(folder, *(extra or (portable.held(), portable.noted()))))


def said(instances: Sequence[Instance]) -> list[int]:
    """Return how often each instance has logged that it migrates."""
    return [instance.log().count(MARK) for instance in instances]
