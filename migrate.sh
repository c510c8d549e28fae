#!/bin/sh
# python -m api.migrations, with the project's Python, from the project's folder. Arguments, exit code and signals pass.
set -eu
cd -- "$(dirname -- "$0")"

# An active environment, .venv, or the image's Python, if it has the libraries. Their origin is asked for because our own
# folder alembic/ is found as well: without one.
ready() {
  "$1" -c 'import sys
from importlib.util import find_spec
sys.exit(not all(getattr(find_spec(name), "origin", None) for name in ("alembic", "asyncpg", "sqlalchemy", "pydantic_settings")))' 2>/dev/null
}

for python in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" .venv/bin/python python python3; do
  if [ -n "$python" ] && ready "$python"; then exec "$python" -m api.migrations "$@"; fi
done
if [ ! -x ./dev ]; then
  echo "migrate.sh: no Python here (active environment, .venv, python, python3) has alembic, asyncpg, sqlalchemy and" \
    "pydantic-settings: activate the environment of the service, or install them into one of these" >&2
  exit 2
fi
python=$(./dev python)
exec "$python" -m api.migrations "$@"
