"""The options of env.py and of the package are merged, or refused by name."""

from typing import Any

import pytest
import sqlalchemy as sa

from api.migrations.errors import ConfigurationError, ForeignConnection
from api.migrations.execution.env_options import (
    Target,
    VersionTable,
    agreed,
    merged,
    named,
    refuse_unnamed,
    scope_names,
)
from api.migrations.execution.env_search_path import first_schema

DEFAULT = VersionTable("alembic_version")
OURS = {"transaction_per_migration": True, "transactional_ddl": True, "version_table": "v", "on_version_apply": "ours"}


@pytest.mark.parametrize(
    ("options", "search_path", "expected"),
    [
        ({}, None, VersionTable("alembic_version")),
        ({"version_table": "shop"}, None, VersionTable("shop")),
        ({"version_table_schema": "core"}, None, VersionTable("alembic_version", "core")),
        ({}, "tenant", VersionTable("alembic_version", "tenant")),
        ({"version_table_schema": "core"}, "tenant", VersionTable("alembic_version", "core")),
        ({"version_table": None, "version_table_schema": None}, None, DEFAULT),
    ],
)
def test_the_version_table_comes_from_env_py_then_search_path_then_settings(
    options: dict[str, Any], search_path: str | None, expected: VersionTable
) -> None:
    """The version table's name comes from env.py, else from the search path, else from the settings."""
    assert named(options, DEFAULT, search_path) == expected


@pytest.mark.parametrize("variable", ["MIGRATION_VERSION_TABLE", "MIGRATION_VERSION_TABLE_SCHEMA"])
def test_a_setting_that_contradicts_env_py_is_refused(variable: str) -> None:
    """A version table in the settings that differs from env.py's is refused, and the error has both names."""
    table = VersionTable("shop", "core")
    options = {"version_table": "shop", "version_table_schema": "core"}
    same = {"MIGRATION_VERSION_TABLE": "shop", "MIGRATION_VERSION_TABLE_SCHEMA": "core"}
    assert agreed(table, options, {}) == agreed(table, options, same) == table
    with pytest.raises(ConfigurationError, match=rf"{variable}.*(shop|core).*the setting says other"):
        agreed(table, options, {variable: "other"})


def test_the_hooks_of_project_and_package_are_called() -> None:
    """The project's hooks, one or a list of them, are called before the package's."""
    assert merged({}, OURS)["on_version_apply"] == ("ours",)
    assert merged({"on_version_apply": "theirs"}, OURS)["on_version_apply"] == ("theirs", "ours")
    assert merged({"on_version_apply": ["one", "two"]}, OURS)["on_version_apply"] == ("one", "two", "ours")


def test_the_package_s_options_are_defaults() -> None:
    """The package's options are defaults for options that env.py omits or passes as None."""
    both = merged({"version_table": None, "version_table_pk": False, "compare_type": None}, OURS)
    assert (both["version_table"], both["version_table_pk"], both["compare_type"]) == ("v", False, None)


@pytest.mark.parametrize("option", ["transaction_per_migration", "transactional_ddl"])
def test_a_contradiction_to_a_required_option_is_refused(option: str) -> None:
    """An option of env.py that contradicts a required one is refused by name."""
    assert merged({option: True}, OURS)[option] is True
    with pytest.raises(ConfigurationError, match=f"{option}=False.*To fix"):
        merged({option: False}, OURS)


@pytest.mark.parametrize(
    ("search_path", "first"),
    [
        ("tenant_a", "tenant_a"),
        ("tenant_a, public", "tenant_a"),
        ('"Tenant ""B""", public', 'Tenant "B"'),
        ('"$user", public', "ann"),
        ("$user", "ann"),
        ("", None),
        ('""', None),
    ],
)
def test_the_first_schema_of_a_search_path_is_found(search_path: str, first: str | None) -> None:
    """The first schema of a search path is parsed from PostgreSQL's quoted form."""
    assert first_schema(search_path, "ann") == first


ONE, TWO = sa.make_url("postgresql://a/orders"), sa.make_url("postgresql://b/orders")


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ([Target(DEFAULT)], [None]),
        ([Target(VersionTable("v", "x")), Target(VersionTable("v", "y"))], ["schema x", "schema y"]),
        ([Target(DEFAULT, ONE, "orders"), Target(DEFAULT, TWO, "audit")], ["database orders", "database audit"]),
        ([Target(DEFAULT, ONE, "orders"), Target(DEFAULT, TWO, "orders")], ["database orders", "database orders (2)"]),
        (
            [
                Target(VersionTable("v", "x"), ONE, "a"),
                Target(VersionTable("v", "y"), ONE, "a"),
                Target(DEFAULT, TWO, "b"),
            ],
            ["database a, schema x", "database a, schema y", "database b"],
        ),
    ],
)
def test_each_version_table_has_a_name_of_its_own(targets: list[Target], names: list[str | None]) -> None:
    """Several version tables are named by schema and database, and no two have the same name."""
    assert scope_names(targets) == names


def test_a_database_url_that_names_none_of_them_is_refused() -> None:
    """env.py migrates several databases, and DATABASE_URL names another one: refused with all names."""
    targets = [Target(DEFAULT, ONE, "orders"), Target(DEFAULT, sa.make_url("postgresql://a/audit"), "audit")]
    refuse_unnamed(targets, "audit")
    with pytest.raises(ForeignConnection, match="audit, orders, but DATABASE_URL names other"):
        refuse_unnamed(targets, "other")
