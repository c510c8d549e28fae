"""A real Redis for the tests, which can be killed, restarted, frozen and replicated."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from devtools.ports import HOST, free_port
from tests.support.pace import scaled
from tests.support.servers import program
from tests.support.waiting import FOREVER_SECONDS, wait_until

REMEDY = "apt-get install redis-server"

DURABLE = {"appendonly": "yes", "appendfsync": "always", "save": ""}
"""Redis answers only when data is on disk, so that a test decides whether a restart finds it."""
IN_NO_HURRY = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}


class RedisServer:
    """One redis-server on a port of its own, its files in `home`.

    Args:
        home: an empty folder.
        settings: further directives of redis.conf, such as `requirepass`.
    """

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        self.home = home
        self.port = free_port()
        self.password = settings.get("requirepass")
        self._binary = program("redis-server", REMEDY)
        self._settings = {"bind": HOST, "port": str(self.port), "dir": str(home), **DURABLE, **IN_NO_HURRY, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL, with the password if there is one."""
        return self.url_with(self.password)

    def url_with(self, password: str | None, user: str = "") -> str:
        """Return the URL with another password or none, and a user if one is given."""
        account = f"{user}:{password}@" if password is not None else ""
        return f"redis://{account}{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> Self:
        """Start the server and wait until it answers."""
        arguments = [word for name, value in self._settings.items() for word in (f"--{name}", value)]
        with (self.home / "log").open("ab") as log:
            command = [str(self._binary), *arguments]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.home)
        wait_until(self._answers, "redis-server answers")
        return self

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server with SIGTERM, as an operator does."""
        self._end(signal.SIGTERM)

    def restart(self, *, keep: bool) -> None:
        """Kill the server if it runs, and start it on the same port, with its data or without."""
        self.kill()
        if not keep:
            shutil.rmtree(self.home / "appendonlydir", ignore_errors=True)
        self.start()

    def freeze(self) -> None:
        """Send SIGSTOP: the server still accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT: the server answers all requests since `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def execute(self, *command: str | int) -> Any:
        """Return the answer to one command on a connection of its own; block, and fail if there is none within 2 s."""
        retry = Retry(NoBackoff(), 0)
        options: dict[str, Any] = {"socket_timeout": scaled(2), "retry": retry, "decode_responses": True}
        with redis.Redis.from_url(self.url, **options) as client:
            return client.execute_command(*command)

    def info(self, section: str) -> dict[str, Any]:
        """Return one section of INFO."""
        return dict(self.execute("INFO", section))

    def follows(self) -> bool:
        """Return whether the server is a replica that has its primary's data."""
        return self.info("replication").get("master_link_status") == "up"

    def _answers(self) -> bool:
        assert self._process is not None
        ended = self._process.poll()
        assert ended is None, f"redis-server ended with {ended}: {(self.home / 'log').read_text()}"
        try:
            return bool(self.execute("PING"))
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            # a frozen process would never receive a SIGTERM
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(timeout=FOREVER_SECONDS)
            self._process = None


@contextmanager
def running_redis(replica_of: RedisServer | None = None, **settings: str) -> Iterator[RedisServer]:
    """Start a Redis, or a replica in step; directives are written with underscores: `maxmemory_policy`."""
    directives = {name.replace("_", "-"): value for name, value in settings.items()}
    if replica_of is not None:
        directives["replicaof"] = f"{HOST} {replica_of.port}"
    with tempfile.TemporaryDirectory(prefix="redis-", ignore_cleanup_errors=True) as home:
        server = RedisServer(Path(home), directives)
        try:
            server.start()
            if replica_of is not None:
                wait_until(server.follows, "a replica in step")
            yield server
        finally:
            server.kill()
