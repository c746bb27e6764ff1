"""The connections of the client: kept, closed by the other side, read no faster than their reader, through a proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from headrace.errors import ConnectionFailed
from headrace.kubernetes.client import Client
from headrace.kubernetes.dialing import Place
from headrace.kubernetes.kubeconfig import ClusterConfig

Act = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(act: Act, **options: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """A client of a server that answers each request by ``act``; the heads of the requests, after the number of their
    connection."""
    heads: list[str] = []
    connections = 0
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = connections
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                heads.append(f"{number} {head}")
                await act(head, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client left
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    chosen = {name: value.format(port=port) for name, value in options.items()}
    client = Client(ClusterConfig(**{"server": f"http://127.0.0.1:{port}", **chosen}))  # type: ignore[arg-type]
    try:
        yield client, heads
    finally:
        await client.close()
        server.close()
        await asyncio.gather(*tasks)


async def whole(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


async def test_a_connection_is_used_again() -> None:
    async with served(whole) as (client, heads):
        assert [await client.request("GET", path) for path in ("/a", "/b")] == [b"{}", b"{}"]
    assert [head.split()[:3] for head in heads] == [["1", "GET", "/a"], ["1", "GET", "/b"]]


async def test_a_connection_whose_answer_was_not_read_to_its_end_is_not() -> None:
    async def endless(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    async with served(endless) as (client, heads):
        for path in ("/a", "/b"):
            async with client.stream("GET", path) as answer:
                assert [chunk async for chunk in _first(answer.chunks())] == [b"abc"]
    assert [head[0] for head in heads] == ["1", "2"]


async def _first(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        return


async def test_a_kept_connection_that_the_server_closes_at_the_next_request_is_replaced_once() -> None:
    turns = 0

    async def fickle(head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal turns
        turns += 1
        if turns == 2:
            writer.transport.abort()
        else:
            await whole(head, writer)

    async with served(fickle) as (client, heads):
        assert await client.request("GET", "/a") == b"{}"
        assert await client.request("GET", "/b") == b"{}"
    assert [head.split()[:3] for head in heads] == [["1", "GET", "/a"], ["1", "GET", "/b"], ["2", "GET", "/b"]]


async def test_what_may_have_been_carried_out_is_not_asked_twice() -> None:
    turns = 0

    async def fickle(head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal turns
        turns += 1
        await whole(head, writer) if turns == 1 else writer.transport.abort()

    async with served(fickle) as (client, heads):
        await client.request("POST", "/a", body=b"{}")
        with pytest.raises(ConnectionFailed):
            await client.request("POST", "/b", body=b"{}")
    assert len(heads) == 2


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def old(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        writer.close()

    async with served(old) as (client, _):
        assert await client.request("GET", "/a") == b"all of it"


async def test_an_answer_that_is_cut_short_is_a_failure() -> None:
    async def short(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        writer.close()

    async with served(short) as (client, _):
        with pytest.raises(ConnectionFailed, match="before the answer was complete"):
            await client.request("GET", "/a")


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"), (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", "gzip")],
)
async def test_an_answer_of_another_kind_is_said(answer: bytes, said: str) -> None:
    async def other(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with served(other) as (client, _):
        with pytest.raises(ConnectionFailed, match=said):
            await client.request("GET", "/a")


async def test_an_interim_answer_is_passed_over() -> None:
    async def interim(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        await whole(head, writer)

    async with served(interim) as (client, _):
        assert await client.request("GET", "/a") == b"{}"


async def test_an_answer_waits_on_the_wire_for_a_slow_reader() -> None:
    mebibytes = 64
    written = 0
    over = asyncio.Event()

    async def flood(head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (mebibytes << 20))
        for _ in range(mebibytes):
            writer.write(b"x" * (1 << 20))
            await writer.drain()
            written += 1
        over.set()

    async with served(flood) as (client, _), client.stream("GET", "/a") as answer:
        for _ in range(50):  # the server has the loop to itself
            await asyncio.sleep(0)
        assert written < mebibytes
        assert len(await answer.read()) == mebibytes << 20
        await over.wait()


async def test_the_deadline_of_a_request_holds_for_its_whole_answer() -> None:
    async def begun(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    async with served(begun) as (client, _):
        with pytest.raises(ConnectionFailed, match="timed out"):
            await client.request("GET", "/a", timeout=0.05)


async def test_a_plain_server_is_asked_through_its_proxy_by_its_whole_address() -> None:
    async with served(whole, server="http://api.invalid:6443/k8s", proxy_url="http://ann:s%40w@127.0.0.1:{port}") as (
        client,
        heads,
    ):
        assert await client.request("GET", "/api", query=[("a", "b c")]) == b"{}"
    assert heads[0].startswith("1 GET http://api.invalid:6443/k8s/api?a=b+c HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic YW5uOnNAdw==\r\n" in heads[0]


async def test_a_proxy_that_refuses_to_connect_is_said() -> None:
    async def refuse(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    async with served(refuse, server="https://api.invalid:6443", proxy_url="http://127.0.0.1:{port}") as (
        client,
        heads,
    ):
        with pytest.raises(ConnectionFailed, match=r"refused to connect to api\.invalid:6443: 407 Proxy"):
            await client.request("GET", "/api")
    assert heads[0].startswith("1 CONNECT api.invalid:6443 HTTP/1.1\r\n")


async def test_an_address_that_does_not_answer_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # A listener whose queue is full neither accepts nor refuses.
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(0)
    filling = [socket.socket() for _ in range(8)]
    for one in filling:
        one.setblocking(False)
        one.connect_ex(deaf.getsockname())
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def addresses(*arguments: object, **options: object) -> list[object]:
        found = await resolve(*arguments, **options)  # type: ignore[arg-type]
        family, kind, protocol, name, _ = found[0]
        return [(family, kind, protocol, name, deaf.getsockname()), *found]

    try:
        async with served(whole) as (client, _):
            monkeypatch.setattr(loop, "getaddrinfo", addresses)
            assert await client.request("GET", "/a", timeout=9.0) == b"{}"
    finally:
        for one in (deaf, *filling):
            one.close()


async def test_a_line_end_inside_a_credential_does_not_become_a_header() -> None:
    async with served(whole) as (client, heads):
        with pytest.raises(ConnectionFailed, match="line end"):
            await client.request("GET", "/a", accept="x\r\nImpersonate-User: root")
    assert not heads


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("https://api.example.com", "api.example.com"),
        ("https://api.example.com:443", "api.example.com"),
        ("https://api.example.com:6443/k8s", "api.example.com:6443"),
        ("http://localhost:80", "localhost"),
        ("https://[fd00::1]:443", "[fd00::1]"),
        ("https://[fd00::1]:6443", "[fd00::1]:6443"),
    ],
)
def test_a_server_is_named_without_the_usual_port(server: str, host: str) -> None:
    assert Place.of(server).header == host
