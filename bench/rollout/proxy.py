"""haproxy with deploy/haproxy/haproxy.cfg, in which only the ports and the list of instances are replaced."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError, Skipped
from bench.held import until
from bench.laboratory import ROOT
from bench.process import Program
from devtools.ports import HOST, is_free

CONFIGURATION = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
_BIND = re.compile(r"^( *)bind .*\n", re.MULTILINE)
_SERVERS = re.compile(r"(^ *server .*\n)+", re.MULTILINE)


def haproxy() -> str:
    """Return the path of haproxy.

    Raises:
        Skipped: it is not installed.
    """
    # Debian installs it where only root's PATH leads
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Skipped("haproxy is not installed", "apt-get install haproxy")
    return found


def configured(port: int, instances: Mapping[str, int]) -> str:
    """Return the configuration with haproxy's port and the instances' ports, all on this machine."""
    servers = "".join(f"    server {name} {HOST}:{number}\n" for name, number in instances.items())
    text = _BIND.sub(rf"\1bind {HOST}:{port}\n", CONFIGURATION.read_text())
    return _SERVERS.sub(servers, text)


@contextmanager
def running_haproxy(folder: Path, port: int, instances: Mapping[str, int]) -> Iterator[Program]:
    """Run haproxy until the end of the block; its output has one line for each failed request.

    Raises:
        Skipped: haproxy is not installed.
        BenchError: it did not start.
    """
    file = folder / "haproxy.cfg"
    file.write_text(configured(port, instances))
    program = Program([haproxy(), "-db", "-f", str(file)], os.environ, folder)
    try:
        until(lambda: program.has_ended or not is_free(port), "haproxy listens")
        if program.has_ended:
            raise BenchError(f"{program} exited with {program.code}: {program.last_words()}")
        yield program
    finally:
        program.end()
