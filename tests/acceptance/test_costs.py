"""What a revision costs beside its own statements, counted on the wire."""

from pathlib import Path

import pytest

from tests.acceptance.wire import wire
from tests.support import evidence
from tests.support.fleet import migrate
from tests.support.project import Revision, make_history

pytestmark = pytest.mark.acceptance

NAMES = ["c1", "c2", "c3", "c4"]


def test_a_further_revision_costs_four_statements(ledger_url: str, tmp_path: Path) -> None:
    """Beside its own statement: BEGIN, the version row, one that ends its attempt and begins the next one, COMMIT."""
    ini = make_history(tmp_path, *(Revision(name, f"op.execute('CREATE TABLE {name} ()')") for name in NAMES))
    with wire(ledger_url) as (server, url):
        code, output = migrate("upgrade", url=url, ini=ini)
        assert code == 0, output
    executed = [" ".join(statement.split()) for statement in server.statements]
    second, third = (executed.index(f"CREATE TABLE {name} ()") for name in ("c2", "c3"))
    between = [statement.split()[0].rstrip(";") for statement in executed[second:third]]
    assert between == ["CREATE", "UPDATE", "WITH", "COMMIT", "BEGIN"], executed[second:third]
    assert evidence.applied(ledger_url)[-4:] == NAMES
    assert evidence.running(ledger_url) == []
    assert server.connections == 3, "one reads, one locks and works, one verifies"
