"""The service without migrations."""

from bench.apps.ready import noting
from bench.apps.service import create_app, pool

app = create_app(noting(pool))
