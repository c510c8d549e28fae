"""What `lint` sees of revisions that ask the database, and what it says if it cannot see everything."""

from tests.unit.cli.lint.conftest import Find

DROP = 'op.execute("DROP TABLE orders")'


def test_a_revision_that_reads_is_executed_with_empty_results(find: Find) -> None:
    """Queries have no rows, and the statements around them are found at their lines."""
    body = f"""
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT id FROM orders WHERE id > :id"), {{"id": 1}}).fetchall()
    for row in rows:
        connection.execute(sa.text("DROP TABLE customers"))
    assert connection.scalar(sa.text("SELECT 1")) is None
    assert list(connection.execute(sa.text("SELECT 1")).mappings()) == []
    with connection.begin_nested():
        {DROP}
    """
    [finding] = find(body)
    assert (finding.rule, finding.line) == ("drop-table", 21)


def test_the_inspector_knows_the_tables_of_earlier_revisions(find: Find) -> None:
    """A condition on the tables and columns that exist is decided by what the earlier revisions made."""
    body = """
    inspector = sa.inspect(op.get_bind())
    columns = {column["name"] for column in inspector.get_columns("orders")}
    if inspector.has_table("carts") and "code" in columns and not inspector.get_indexes("carts"):
        op.drop_column("orders", "code")
    if "nothing" in inspector.get_table_names():
        op.drop_table("nothing")
    """
    assert [finding.rule for finding in find(body)] == ["drop-column"]


def test_a_revision_that_needs_a_row_is_named_with_what_was_seen(find: Find) -> None:
    """What precedes the failing line is found, and the finding says that the rest was not seen."""
    dropped, stopped = find(f'{DROP}\nop.get_bind().execute(sa.text("SELECT 1")).one()\n{DROP}')
    assert (dropped.rule, stopped.rule, stopped.line) == ("drop-table", "not-rendered", dropped.line + 1)
    assert "NoResultFound: there is no database" in stopped.message


def test_a_loop_reports_each_table_once(find: Find) -> None:
    """One line that drops two tables, one of them twice, has two findings."""
    found = find('for name in ("orders", "carts", "carts"):\n    op.drop_table(name)')
    assert len(found) == 2
    assert len({finding.line for finding in found}) == 1


def test_autocommit_by_hand_is_no_transaction(find: Find) -> None:
    """A COMMIT as text, and the isolation level AUTOCOMMIT, end the transaction."""
    create = "CREATE INDEX CONCURRENTLY ix ON orders (id)"
    assert find(f'op.execute("COMMIT")\nop.execute("{create}")') == []
    by_level = f'op.get_bind().execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("{create}"))'
    assert find(by_level) == []


def test_the_helpers_of_alembic_know_the_offline_mode(find: Find) -> None:
    """`context.is_offline_mode()` and `op.get_context().as_sql` are true, and `-x` is given on."""
    body = f"""
    from alembic import context
    if context.is_offline_mode() and op.get_context().as_sql and context.get_x_argument() == []:
        {DROP}
    """
    assert [finding.rule for finding in find(body)] == ["drop-table"]


def test_a_loop_that_waits_for_a_row_ends(find: Find) -> None:
    """A revision that polls the database would run for ever without one; the finding says where it was stopped."""
    body = 'while not op.get_bind().scalar(sa.text("SELECT 1 FROM ready")):\n    op.execute("SELECT pg_sleep(1)")'
    [finding] = find(body)
    assert (finding.rule, "more than 5000 statements" in finding.message) == ("not-rendered", True)
