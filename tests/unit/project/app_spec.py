"""The problems of an app spec, by the platform's JSON Schema and by an addition to it.

The schema (its source is in `tests/data/README.md`) accepts every unknown key, and so does the platform, which ignores
a misspelt one silently. So each key is looked up in the schema.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

DATA = Path(__file__).resolve().parents[2] / "data"
PUBLISHED = json.loads((DATA / "do_app_spec.schema.json").read_text())
ADDITIONS = yaml.safe_load((DATA / "app_spec_additions.yaml").read_text())

LACKING = {
    "envs": "variables of all components: documented in the reference of the app spec",
    "alerts": "of the app: documented there too",
    "jobs.timeout": "of jobs that belong to a deployment: documented there too",
    "services.alerts": "of a component: documented there too",
}
"""Valid keys that the published schema lacks, with the reason; `ADDITIONS` has their shape."""


def problems(spec: dict[str, Any]) -> list[str]:
    """Return the problems of the spec, each with its place."""
    validators = map(jsonschema.Draft202012Validator, (PUBLISHED, ADDITIONS))
    errors = [error for validator in validators for error in validator.iter_errors(spec)]
    wrong = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]
    return wrong + [f"{key}: no such key" for key in unknown(PUBLISHED, spec) if key not in LACKING]


def unknown(schema: dict[str, Any], value: Any, place: str = "") -> Iterator[str]:
    """Yield the keys in `value`, at any depth, that `schema` does not name."""
    if isinstance(value, list):
        for item in value:
            yield from unknown(schema.get("items", {}), item, place)
    elif isinstance(value, dict):
        known = _properties(schema)
        for key, inner in value.items():
            there = f"{place}.{key}".removeprefix(".")
            if key in known:
                yield from unknown(known[key], inner, there)
            else:
                yield there


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    known = dict(schema.get("properties", {}))
    for part in schema.get("allOf", []):
        known |= _properties(part)
    return known
