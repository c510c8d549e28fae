"""What the ledger answers outside its endpoints: unknown paths and methods, slashes, bugs, and the OpenAPI document."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from api.ledger import add_ledger
from api.ledger.idempotency import KEY_PATTERN
from tests.integration.ledger_client import LedgerClient, refusal


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of an application with the ledger, without a database, and with a mounted application."""
    app = FastAPI()
    add_ledger(app)
    app.mount("/shop", FastAPI())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://ledger.test") as http:
        yield http


async def test_an_unknown_path_is_a_problem(http: httpx.AsyncClient) -> None:
    """No route has the path: the answer is 404 as a problem document."""
    assert refusal(await http.get("/nothing"), 404, "http")


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/transactions", "GET, POST"), ("/accounts", "POST"), ("/accounts/1", "GET"), ("/docs", "GET, HEAD")],
)
async def test_another_method_is_a_problem_and_all_methods_are_listed(
    http: httpx.AsyncClient, path: str, methods: str
) -> None:
    """The path has other methods: the answer is 405, and Allow has the methods of all its routes."""
    response = await http.delete(path)
    assert refusal(response, 405, "http") == f"{path} has no DELETE."
    assert response.headers["allow"] == f"{methods}, OPTIONS"


async def test_options_lists_the_methods_of_a_path(http: httpx.AsyncClient) -> None:
    """A client asks for the options of a path: the answer is 204, and Allow has every method."""
    response = await http.options("/transactions")
    assert (response.status_code, response.headers["allow"]) == (204, "GET, POST, OPTIONS")
    assert refusal(await http.options("/nothing"), 404, "http")


@pytest.mark.parametrize("path", ["/transactions/", "/accounts/1/", "//evil.example/", "//evil.example/accounts/1/"])
async def test_a_trailing_slash_is_not_redirected(http: httpx.AsyncClient, path: str) -> None:
    """A path has a slash too many and the Host is another server's: the answer is 404 and sends the client nowhere."""
    request = http.build_request("GET", f"http://ledger.test{path}", headers={"Host": "evil.example"})
    response = await http.send(request)
    assert refusal(response, 404, "http")
    assert "location" not in response.headers


async def test_a_bug_is_a_problem_without_the_exception(http: httpx.AsyncClient) -> None:
    """An endpoint raises an unexpected exception: the answer is 500 as a problem document that does not quote it."""
    detail = refusal(await http.get("/transactions"), 500, "http")
    assert detail == "The service has a bug; its log has the exception."


async def test_every_error_is_documented_as_a_problem(http: httpx.AsyncClient) -> None:
    """The OpenAPI document has each error of each operation with its media type and schema, and no other media type."""
    paths = (await http.get("/openapi.json")).json()["paths"]
    found = {}
    for operation in [operation for path in paths.values() for operation in path.values()]:
        answers = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        found[operation["operationId"]] = sorted(answers)
        for answer in answers.values():
            schema = {"$ref": "#/components/schemas/Problem"}
            assert answer["content"] == {"application/problem+json": {"schema": schema}}
    assert found == {
        "open_account": ["400", "409", "413", "422", "503"],
        "read_account": ["404", "422", "503"],
        "post_transaction": ["400", "413", "422", "503"],
        "list_transactions": ["400", "422", "503"],
    }


async def test_the_key_is_documented_as_required(http: httpx.AsyncClient) -> None:
    """The OpenAPI document says that the Idempotency-Key is required, and which keys are accepted."""
    [key] = (await http.get("/openapi.json")).json()["paths"]["/transactions"]["post"]["parameters"]
    assert (key["name"], key["in"], key["required"]) == ("Idempotency-Key", "header", True)
    assert key["schema"] == {"type": "string", "pattern": KEY_PATTERN}
    assert re.search(key["schema"]["pattern"], key["example"])


async def test_the_document_has_only_syntax_that_all_generators_read(http: httpx.AsyncClient) -> None:
    """The patterns have no lookahead, no class of Unicode and no anchor of one language, and limits are exact."""
    response = await http.get("/openapi.json")
    assert not re.search(r"\(\?|\\\\[AZzpPbBdDwWsS]", response.text)
    amount = response.json()["components"]["schemas"]["NewPosting"]["properties"]["amount"]
    assert (amount["minimum"], amount["exclusiveMaximum"]) == (-(2**63), 2**63)
    assert "e+18" not in response.text


async def test_the_endpoints_work_beside_the_handlers(client: LedgerClient) -> None:
    """The application's handlers leave the ledger's own errors their kinds."""
    assert refusal(await client.http.get("/accounts/4711"), 404, "unknown-account")
