#!/bin/sh
# Runs python -m api.migrations in the project's folder, with the project's Python. Arguments, exit code and signals pass.
set -eu
cd -- "$(dirname -- "$0")"

# Whether this Python has the libraries. The project's folder alembic/ is found too, but has no origin.
ready() {
  "$1" -c 'import sys
from importlib.util import find_spec
sys.exit(not all(getattr(find_spec(name), "origin", None) for name in ("alembic", "asyncpg", "sqlalchemy", "pydantic_settings")))' 2>/dev/null
}

# while ./dev up runs, its database is used unless a URL is set
module=api.migrations
[ ! -f .data/database-url ] || module=devtools.other_terminal

for python in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" .venv/bin/python python python3; do
  if [ -n "$python" ] && ready "$python"; then exec "$python" -m "$module" "$@"; fi
done
if [ ! -x ./dev ]; then
  echo "migrate.sh: no Python (active environment, .venv, python, python3) has alembic, asyncpg, sqlalchemy and" \
    "pydantic-settings. To fix: activate the environment of the service, or install them there" >&2
  exit 2
fi
python=$(./dev python)
exec "$python" -m "$module" "$@"
