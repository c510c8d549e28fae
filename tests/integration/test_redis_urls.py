"""Redis URLs with a socket, a database number or TLS, and the error for a wrong one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from api.migrations.electors.redis.elector import RedisElector
from api.migrations.errors import AccessRefused, MigrationError
from devtools.ports import HOST, free_port
from tests.support.redis_server import RedisServer
from tests.support.servers import program, self_signed

Servers = Callable[..., RedisServer]


async def elector_works(url: str) -> bool:
    """Return whether an elector with that URL acquires, confirms and releases a key."""
    elector = RedisElector(url, "fastapi-migrations:test", "first", 30)
    try:
        acquired = await elector.try_acquire()
        await elector.confirm()
        return acquired
    finally:
        await elector.release()


async def test_a_url_with_a_socket_works(redis_servers: Servers, tmp_path: Path) -> None:
    """The URL names a socket and a database number: an elector acquires the key."""
    socket = tmp_path / "redis.sock"
    redis_servers(unixsocket=str(socket))
    assert await elector_works(f"unix://{socket}?db=3")


async def test_a_url_with_a_database_number_works(redis_server: RedisServer) -> None:
    """The URL names a database: an elector acquires the key; if Redis does not have that number, the error is final."""
    assert await elector_works(f"redis://{HOST}:{redis_server.port}/15")
    with pytest.raises(MigrationError, match="does not have the database number") as raised:
        await elector_works(f"redis://{HOST}:{redis_server.port}/99")
    assert type(raised.value) is MigrationError


async def test_a_url_with_tls_works(redis_servers: Servers, tmp_path: Path) -> None:
    """The URL uses TLS and names the CA: an elector acquires the key; without the CA the error is final."""
    certificate, key = self_signed(program("openssl", "apt-get install openssl"), tmp_path)
    port = free_port()
    files = {"tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_ca_cert_file": str(certificate)}
    redis_servers(tls_port=str(port), tls_auth_clients="no", **files)
    assert await elector_works(f"rediss://{HOST}:{port}/0?ssl_ca_certs={certificate}")
    with pytest.raises(AccessRefused, match=r"does not verify .* ssl_ca_certs"):
        await elector_works(f"rediss://{HOST}:{port}/0")
