"""The template database: migrated once, copied for each test."""

from tests.support.servers import Server, fetch


async def test_a_copy_is_at_head_and_its_own(server: Server, template: str, ledger_url: str) -> None:
    """The copy has the version of the template, and is another database."""
    version = "SELECT version_num FROM alembic_version"
    copied = await fetch(ledger_url, version)
    assert copied
    assert copied == server.execute(version, database=template)
    assert not ledger_url.endswith(f"/{template}")
