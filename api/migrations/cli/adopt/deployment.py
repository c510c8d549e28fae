"""What `adopt` finds about the deployment: commands that migrate before the server, and probes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .project import PACKAGE, Project
from .report import Change, Fact, Need

FILES = r"(.*\.)?Dockerfile(\..*)?|.*compose.*\.ya?ml|Procfile.*|.*\.sh|fly\.toml|railway\..*|app\.json|.*\.ya?ml"
LIVE, READY = "/health/live", "/health/ready"
_BETWEEN = r"[\"',\s]+"
UPGRADE = re.compile(
    rf"(?:\bpython3?{_BETWEEN}-m{_BETWEEN})?(?<![\w-])alembic{_BETWEEN}"
    rf"(?P<options>(?:-\S+{_BETWEEN}[^-\s]\S*{_BETWEEN})*)upgrade{_BETWEEN}heads?\b"
)
_SERVER = re.compile(r"\b(uvicorn|gunicorn|hypercorn|granian|fastapi\W+run)\b")
_APPLICATION = re.compile(r"\b([A-Za-z_][\w.]*):(\w+)\b")
_SCRIPT = re.compile(r"\b([A-Za-z_][\w/]*)\.py\b")
_WORKERS = r"--workers[\"',=\s]+([2-9]|1\d|\$)"
_RELEASE = re.compile(r"^\s*(release|release_command|preDeployCommand|pre_deploy)\b", re.I)
_PROBE = re.compile(r"\b(readiness|liveness|startup)Probe\s*:")
_PATH = re.compile(r"(\bpath\s*:\s*)([\"']?)([^\s\"',}]+)\2")


def files(project: Project) -> list[str]:
    """Return the files that may start the service."""
    return project.named(FILES)


def served(project: Project) -> set[tuple[str, str]]:
    """Return the module and the variable of each application that a server command names; of a path no variable."""
    lines = [line for path in files(project) for line in project.text(path).splitlines() if _SERVER.search(line)]
    named = {(module, name) for line in lines for module, name in _APPLICATION.findall(line)}
    return named | {(path.replace("/", "."), "") for line in lines for path in _SCRIPT.findall(line)}


def workers(project: Project) -> Iterator[Fact]:
    """Yield a fact for each server command with several worker processes."""
    for line in project.matches(files(project), _WORKERS):
        if _SERVER.search(line):
            advice = "several workers in one container hide a failed start; use one process in one container"
            yield Fact("server", Need.MAY, f"{advice}: {line}")


def commands(project: Project, *, has_lock: bool) -> tuple[list[Fact], list[Change]]:
    """Return what follows for each `alembic upgrade head`; `has_lock` says whether it acquires the lock already."""
    facts, changes = [], []
    for path in files(project):
        text = after = project.text(path)
        for found in reversed([*UPGRADE.finditer(text)]):
            number = text.count("\n", 0, found.start()) + 1
            line = text.splitlines()[number - 1]
            if line.lstrip().startswith("#"):
                continue
            need, message = _advice(path, line, text, has_lock)
            facts.append(Fact("command", need, f"{path}:{number} runs alembic upgrade head {message}"))
            after = after[: found.start()] + _replacement(found) + after[found.end() :]
        if after != text and not has_lock:
            changes.append(Change(path, text.encode(), after.encode(), "acquires the lock; or remove the command"))
    return facts, changes


def probes(project: Project) -> tuple[list[Fact], list[Change]]:
    """Return what follows for each probe of a Kubernetes manifest."""
    facts, changes = [], []
    for path in project.named(r".*\.ya?ml"):
        text = project.text(path)
        if not _PROBE.search(text):
            continue
        lines, wrong = text.splitlines(keepends=True), False
        for number, kind in _probed(lines):
            found, wanted = _PATH.search(lines[number]), READY if kind == "readiness" else LIVE
            if found is None or found[3] == wanted:
                continue
            facts.append(
                Fact(
                    "probe", Need.DO, f"{path}:{number + 1} {kind}Probe asks {found[3]}; for this service use {wanted}"
                )
            )
            if "{{" not in lines[number]:
                start, end = found.span(3)
                lines[number], wrong = lines[number][:start] + wanted + lines[number][end:], True
        if wrong:
            changes.append(Change(path, text.encode(), "".join(lines).encode(), "if the probes are this service's"))
        elif not any(path in fact.message for fact in facts):
            facts.append(
                Fact("probe", Need.OK, f"{path}: the probes ask the package's endpoints, or are no HTTP probes")
            )
    return facts, changes


def _advice(path: str, line: str, text: str, has_lock: bool) -> tuple[Need, str]:
    # a YAML file may describe several services
    with_server = _SERVER.search(line if path.endswith(("yml", "yaml")) else text)
    lock = "it acquires the instances' lock" if has_lock else "it acquires no lock"
    need = Need.MAY if has_lock else Need.DO
    if with_server and not _RELEASE.search(line):
        return need, f"before the server; {lock}. It may go, because the service migrates at start"
    keep = f"'python -m {PACKAGE} upgrade' with MIGRATION_STRATEGY=job for the service"
    return need, f"as a step of its own; {lock}. Keep {keep}, or remove it, because the service migrates at start"


def _replacement(found: re.Match[str]) -> str:
    if found["options"]:
        return found[0]
    if '"' in found[0] or "'" in found[0]:
        quote = '"' if '"' in found[0] else "'"
        return f"python{quote}, {quote}-m{quote}, {quote}{PACKAGE}{quote}, {quote}upgrade"
    return f"python -m {PACKAGE} upgrade"


def _probed(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the number of each line with the path of a probe, and the kind of the probe."""
    kind, indent = "", 0
    for number, line in enumerate(lines):
        begins = _PROBE.search(line)
        if begins is not None:
            kind, indent = begins[1], len(line) - len(line.lstrip())
        elif line.strip() and len(line) - len(line.lstrip()) <= indent:
            kind = ""
        if kind and _PATH.search(line[begins.end() if begins else 0 :]):
            yield number, kind
            kind = ""
