"""knex and node-pg-migrate, by their command lines, with migrations in JavaScript."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bench.laboratory import CACHE
from bench.peers.peer import Peer, built, needs, numbered

HOME = CACHE / "node"
MODULES = HOME / "node_modules"
KNEXFILE = """\
module.exports = {{
  client: "pg",
  connection: process.env.DATABASE_URL,
  migrations: {{ directory: {folder} }},
}};
"""


def _install(package: str) -> str:
    needs("node", "apt-get install nodejs npm (Node.js 20 or newer)")
    needs("npm", "apt-get install nodejs npm (Node.js 20 or newer)")
    built("node", ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"])
    version: str = json.loads((MODULES / package / "package.json").read_text())["version"]
    return version


def _write_knex(folder: Path, statements: Sequence[str]) -> None:
    text = "exports.up = (knex) => knex.raw({});\nexports.down = () => {{}};\n"
    numbered(folder / "migrations", "{number:06}_step.js", [text.format(json.dumps(each)) for each in statements])
    # next to its packages, because knex looks for them from there
    (folder / "knexfile.js").write_text(KNEXFILE.format(folder=json.dumps(str(folder / "migrations"))))
    (folder / "node_modules").symlink_to(MODULES)


def _write_node_pg_migrate(folder: Path, statements: Sequence[str]) -> None:
    text = "exports.up = (pgm) => {{ pgm.sql({}); }};\nexports.down = false;\n"
    numbered(folder / "migrations", "{number:013}_step.js", [text.format(json.dumps(each)) for each in statements])
    (folder / "node_modules").symlink_to(MODULES)


def _bin(package: str, key: str) -> str:
    description = json.loads((MODULES / package / "package.json").read_text())
    return str(MODULES / package / description["bin"][key])


KNEX = Peer(
    "knex",
    install=lambda: _install("knex"),
    write=_write_knex,
    command=lambda folder: ["node", _bin("knex", "knex"), "--knexfile", str(folder / "knexfile.js"), "migrate:latest"],
)
NODE_PG_MIGRATE = Peer(
    "node-pg-migrate",
    install=lambda: _install("node-pg-migrate"),
    write=_write_node_pg_migrate,
    command=lambda folder: [
        *["node", _bin("node-pg-migrate", "node-pg-migrate"), "up", "--advisory-lock-mode", "wait"],
        *["--migrations-dir", str(folder / "migrations")],
    ],
)
