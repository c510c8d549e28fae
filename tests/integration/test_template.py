"""The template database is migrated once and copied for each test."""

from tests.support.servers import Server, fetch


async def test_a_copy_of_the_template_is_a_database_at_head(server: Server, template: str, ledger_url: str) -> None:
    """A copy has the version of the template and is another database."""
    version = "SELECT version_num FROM alembic_version"
    copied = await fetch(ledger_url, version)
    assert copied
    assert copied == server.execute(version, database=template)
    assert not ledger_url.endswith(f"/{template}")
