"""Servers that ask who is there: the right credentials pass, wrong ones are refused."""

import ssl
from collections.abc import Callable

import nats
import pytest
from nats.errors import Error, NoServersError

from tests.servers.nats import PASSWORD, TOKEN, USER, Nats


async def connects(server: Nats, **options: object) -> bool:
    """Whether a client gets in and JetStream answers it."""
    scheme = "tls" if "tls" in options else "nats"

    async def ignore(error: Exception) -> None:
        return

    try:
        client = await nats.connect(
            f"{scheme}://{server.address}", allow_reconnect=False, connect_timeout=5, error_cb=ignore, **options
        )
    except (Error, NoServersError, OSError):
        return False
    try:
        await client.jetstream().account_info()
    finally:
        await client.close()
    return True


async def test_a_password_is_asked_for(start_nats: Callable[..., Nats]) -> None:
    server = start_nats(auth="user")
    assert await connects(server, user=USER, password=PASSWORD)
    assert not await connects(server, user=USER, password="wrong")


async def test_a_token_is_asked_for(start_nats: Callable[..., Nats]) -> None:
    server = start_nats(auth="token")
    assert await connects(server, token=TOKEN)
    assert not await connects(server)


async def test_a_signature_of_the_key_is_asked_for(start_nats: Callable[..., Nats]) -> None:
    server = start_nats(auth="nkey")
    assert await connects(server, nkeys_seed=str(server.seed))
    assert not await connects(server)


async def test_a_creds_file_of_the_operator_is_asked_for(start_nats: Callable[..., Nats]) -> None:
    server, other = start_nats(auth="creds"), start_nats(auth="creds")
    assert await connects(server, user_credentials=str(server.creds))
    assert not await connects(server, user_credentials=str(other.creds))


@pytest.mark.parametrize(("who", "lets_in"), [("client", True), ("stranger", False), (None, False)])
async def test_a_certificate_of_the_authority_is_asked_for(
    start_nats: Callable[..., Nats], who: str | None, lets_in: bool
) -> None:
    server = start_nats(tls="mutual")
    context = ssl.create_default_context(cafile=server.tls_folder / "authority.pem")
    if who is not None:
        context.load_cert_chain(server.tls_folder / f"{who}.pem", server.tls_folder / f"{who}.key")
    assert await connects(server, tls=context) is lets_in
