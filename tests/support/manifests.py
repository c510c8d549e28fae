"""The deployment files (manifests, the app spec and compose files) as their readers see them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from api.migrations.settings import MigrationSettings

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
APP_SPEC = ROOT / ".do" / "app.yaml"
COMPOSE = ROOT / "docker-compose.yml"

KUSTOMIZATIONS = sorted(KUBERNETES.rglob("kustomization.yaml"))
MANIFESTS = sorted(path for path in KUBERNETES.rglob("*.yaml") if path not in KUSTOMIZATIONS)

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    """Return the documents of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def read(path: Path) -> Document:
    """Return the one document of a file."""
    (document,) = documents(path)
    return document


def named(items: list[Document], name: str) -> Document:
    """Return the one of `items` with that name."""
    (found,) = (item for item in items if item["name"] == name)
    return found


def pod(manifest: Document) -> Document:
    """Return the pod's spec of a Job or a Deployment."""
    spec: Document = manifest["spec"]["template"]["spec"]
    return spec


def container(manifest: Document) -> Document:
    """Return the one container of a Job or a Deployment."""
    (only,) = pod(manifest)["containers"]
    return dict(only)


def values(env: list[Document], name: str = "name") -> dict[str, str]:
    """Return a list of variables as a dict; one without a value of its own comes from elsewhere, and is empty here."""
    return {item[name]: item.get("value", "") for item in env}


def app_values(component: Document) -> dict[str, str]:
    """Return the variables that a component of the app spec sees."""
    return {**values(read(APP_SPEC)["envs"], "key"), **values(component["envs"], "key")}


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every set of variables that a deployment file gives to a process of this project, and where it stands."""
    for path in MANIFESTS:
        for manifest in documents(path):
            if "template" in manifest.get("spec", {}):
                yield str(path.relative_to(ROOT)), values(container(manifest)["env"])
    spec = read(APP_SPEC)
    for component in [*spec["jobs"], *spec["services"]]:
        yield f"{APP_SPEC.name} {component['name']}", app_values(component)
    for path in (COMPOSE, ROOT / "docker-compose.job.yml"):
        for name, service in read(path)["services"].items():
            # the database is not a process of this project
            if "MIGRATION_STRATEGY" in service.get("environment", {}):
                yield f"{path.name} {name}", service["environment"]


def grants() -> list[str]:
    """Return the statements of the guide for a first installation with two roles."""
    (box,) = re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs" / "MULTI_HOST_STRATEGY.md").read_text(), re.M | re.S)
    return str(box).splitlines()


def settings(given: dict[str, str]) -> MigrationSettings:
    """Return the settings that a process makes of these variables; those that come from elsewhere are left out."""
    plain = {name: value for name, value in given.items() if value and "$" not in value}
    own = {name.removeprefix("MIGRATION_").lower(): value for name, value in plain.items() if name != "DATABASE_URL"}
    return MigrationSettings.load(_env_file=None, **own)


def seconds(text: str) -> int:
    """Return the seconds of a duration such as 30s or 33m."""
    found = re.fullmatch(r"(\d+)([sm])", text)
    assert found, text
    return int(found[1]) * {"s": 1, "m": 60}[found[2]]
