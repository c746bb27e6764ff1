"""The server under the receivers: connections, deadlines, sizes, keep-alive, pipelining, graceful close."""

from __future__ import annotations

import asyncio
import socket

import pytest

from headrace.engine.delivery import ACK, Delivery
from headrace.errors import ConfigurationError
from headrace.http.asgi import Routes
from headrace.http.server import Guards, Server, split_address
from tests.http.answering import EVENT, binding, read_reply, request, serving


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the server closes; a reset is an end too."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


# The listener


async def test_port_0_reports_the_port_it_got() -> None:
    server = Server(Routes(), "127.0.0.1", 0, what="admin")
    await server.open()
    try:
        port = server.address[1]
        assert port > 0
        assert str(server) == f"admin=127.0.0.1:{port}"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("GET", "/", {}, b""))
        assert (await read_reply(reader)).status == 404
        writer.close()
    finally:
        await server.close()


async def test_a_port_in_use_is_a_configuration_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}.*in use") as caught:
            await Server(Routes(), "127.0.0.1", port).open()
        assert caught.value.exit_code == 2


async def test_a_host_of_another_machine_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="no address of this machine"):
        await Server(Routes(), "192.0.2.1", 0).open()


async def test_closing_twice_and_before_opening_is_harmless() -> None:
    server = Server(Routes(), "127.0.0.1", 0)
    await server.close()
    await server.open()
    await server.close()
    await server.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        (":80", ("127.0.0.1", 80)),
        ("0.0.0.0", ("0.0.0.0", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("[::1]", ("::1", 8080)),
    ],
)
def test_an_address_is_taken_apart(text: str, address: tuple[str, int]) -> None:
    assert split_address(text, default_port=8080, what="http") == address


@pytest.mark.parametrize("text", ["x:port", "x:70000", "::1", "fe80::1:80", "x:-1"])
def test_an_address_that_is_none_names_the_setting(text: str) -> None:
    with pytest.raises(ConfigurationError, match="HEADRACE_HTTP"):
        split_address(text, default_port=8080, what="HEADRACE_HTTP")


# Guards


async def test_headers_over_the_limit_are_a_431_in_one_piece_or_in_many() -> None:
    async with serving() as served:
        whole = request("POST", "/events", {**EVENT, "x-filler": "x" * 20_000}, b"{}")
        reader, writer = await served.connect()
        writer.write(whole)
        assert (await read_reply(reader)).status == 431
        writer.close()
        reader, writer = await served.connect()
        for at in range(0, 18_000, 1_000):
            writer.write(whole[at : at + 1_000])
            await writer.drain()
        assert (await read_reply(reader)).status == 431
        writer.close()
        assert served.seen == []


async def test_headers_below_the_limit_pass() -> None:
    async with serving() as served:
        assert (await served.post(**{"x-filler": "x" * 15_000})).status == 204


async def test_a_large_body_behind_small_headers_in_one_piece_passes() -> None:
    async with serving() as served:
        assert (await served.post(b"x" * 200_000)).status == 204


async def test_a_client_that_trickles_its_headers_is_cut_off() -> None:
    async with serving(guards=Guards(header_timeout=0.5)) as served:
        reader, writer = await served.connect()
        reading = asyncio.create_task(ended(reader))
        for byte in b"POST /events HTTP/1.1\r\n" + b"x-header: y\r\n" * 50:
            if reading.done():
                break
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.02)
        assert b" 408 " in await reading
        writer.close()


async def test_a_client_that_trickles_its_body_is_cut_off() -> None:
    async with serving(guards=Guards(body_timeout=0.5)) as served:
        reader, writer = await served.connect()
        reading = asyncio.create_task(ended(reader))
        writer.write(request("POST", "/events", EVENT, b"x" * 1000)[:-990])
        while not reading.done():
            writer.write(b"x")
            await asyncio.wait((reading,), timeout=0.02)
        assert b" 408 " in await reading
        assert served.seen == []
        writer.close()


async def test_a_connection_that_never_says_anything_is_closed() -> None:
    async with serving(guards=Guards(header_timeout=0.5)) as served:
        reader, writer = await served.connect()
        assert await ended(reader) == b""
        writer.close()


async def test_blank_lines_do_not_keep_an_idle_connection_open() -> None:
    async with serving(guards=Guards(keep_alive=0.5, header_timeout=0.5)) as served:
        reader, writer = await served.connect()
        writer.write(request("POST", "/events", EVENT, b"{}"))
        assert (await read_reply(reader)).status == 204
        reading = asyncio.create_task(ended(reader))
        while not reading.done():
            writer.write(b"\r\n")
            await asyncio.wait((reading,), timeout=0.05)
        writer.close()


async def test_a_connection_over_the_limit_is_answered_503_and_others_are_served() -> None:
    async with serving(guards=Guards(connections=2)) as served:
        connections = [await served.connect() for _ in range(2)]
        for reader, writer in connections:
            writer.write(request("POST", "/events", EVENT, b"{}"))
            assert (await read_reply(reader)).status == 204
        reader, writer = await served.connect()
        assert (await read_reply(reader)).status == 503
        assert await ended(reader) == b""
        writer.close()
        reader, writer = connections[0]
        writer.write(request("POST", "/events", EVENT, b"{}"))
        assert (await read_reply(reader)).status == 204
        for _, writer in connections:
            writer.close()


async def test_endless_trailers_are_cut_off() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in EVENT.items())
        writer.write(f"POST /events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n{head}\r\n0\r\n".encode())
        reading = asyncio.create_task(ended(reader))
        sent = 0
        while not reading.done() and sent < 1000:
            writer.write(b"x-trailer: " + b"x" * 8_000 + b"\r\n")
            sent += 1
            await asyncio.sleep(0)
        await reading
        assert sent < 1000
        writer.close()


async def test_trailers_do_not_become_attributes() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in EVENT.items())
        writer.write(
            f"POST /events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n{head}\r\n".encode()
            + b"2\r\n{}\r\n0\r\nce-late: yes\r\n\r\n"
        )
        assert (await read_reply(reader)).status == 204
        event = served.seen[0].event
        assert event is not None
        assert "late" not in event.attributes
        writer.close()


async def test_what_is_no_http_is_a_400() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert (await read_reply(reader)).status == 400
        writer.close()


# Connections that are used again


async def test_a_connection_serves_many_requests() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        for number in range(5):
            writer.write(request("POST", "/events", {**EVENT, "ce-id": str(number)}, b"{}"))
            assert (await read_reply(reader)).status == 204
        assert len(served.seen) == 5
        writer.close()


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    def handle(delivery: Delivery) -> None:
        return None

    async with serving(handle) as served:
        reader, writer = await served.connect()
        first = request("POST", "/events", {**EVENT, "ce-id": "1"}, b"{}")
        writer.write(first + request("GET", "/events", {}, b"") + request("POST", "/other", EVENT, b"{}"))
        writer.write(request("POST", "/events", {**EVENT, "ce-id": "2"}, b"{}"))
        while not served.seen:
            await asyncio.sleep(0)
        served.source.settle(served.seen[0], ACK)
        assert [(await read_reply(reader)).status for _ in range(3)] == [204, 405, 404]
        while len(served.seen) < 2:
            await asyncio.sleep(0)
        served.source.settle(served.seen[1], ACK)
        assert (await read_reply(reader)).status == 204
        writer.close()


async def test_thousands_of_pipelined_requests_that_are_refused_at_once_do_not_recurse() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(request("POST", "/events", {"content-type": "a/b"}, b"") * 3000)
        for _ in range(3000):
            assert (await read_reply(reader)).status == 415
        writer.close()


async def test_a_client_that_sends_and_never_reads_is_cut_off() -> None:
    async with serving(guards=Guards(body_timeout=0.5)) as served:
        _, writer = await served.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        bad = request("POST", "/events", {"content-type": "a/b"}, b"") * 1000

        async def send_for_ever() -> None:
            while True:
                writer.write(bad)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await send_for_ever()
        writer.close()


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        whole = request("POST", "/events", {**EVENT, "expect": "100-continue"}, b"{}")
        writer.write(whole[:-2])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(whole[-2:])
        assert (await read_reply(reader)).status == 204
        writer.close()


async def test_connection_close_is_kept() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(request("POST", "/events", {**EVENT, "connection": "close"}, b"{}"))
        reply = await read_reply(reader)
        assert (reply.status, reply.headers["connection"]) == (204, "close")
        assert await ended(reader) == b""
        writer.close()


async def test_http_1_0_is_served() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(request("POST", "/events", EVENT, b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await read_reply(reader)).status == 204
        writer.close()


async def test_a_body_in_many_parts_is_put_together() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        for byte in request("POST", "/events", EVENT, b'{"a": "b"}'):
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await read_reply(reader)).status == 204
        event = served.seen[0].event
        assert event is not None
        assert event.raw == b'{"a": "b"}'
        writer.close()


# The end


async def test_stop_closes_idle_connections_and_lets_busy_ones_get_their_answer() -> None:
    async with serving(lambda delivery: None) as served:
        idle_reader, idle_writer = await served.connect()
        reader, writer = await served.connect()
        writer.write(request("POST", "/events", EVENT, b"{}"))
        while not served.seen:
            await asyncio.sleep(0)
        served.server.stop()
        assert await ended(idle_reader) == b""
        served.source.settle(served.seen[0], ACK)
        assert (await read_reply(reader)).headers["connection"] == "close"
        with pytest.raises(ConnectionError):
            await served.connect()
        idle_writer.close()
        writer.close()


async def test_close_cuts_off_what_outlives_the_grace_period_and_voids_it() -> None:
    async with serving(lambda delivery: None, bound=binding()) as served:
        reader, writer = await served.connect()
        writer.write(request("POST", "/events", EVENT, b"{}"))
        while not served.seen:
            await asyncio.sleep(0)
        await served.server.close(grace=0.05)
        assert await ended(reader) == b""
        assert served.seen[0].voided is not None
        writer.close()
