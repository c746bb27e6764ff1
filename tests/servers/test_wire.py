"""The wire breaks exactly as asked, and only then."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.servers.wire import Wire


class Echo:
    """Answers every connection with what it hears."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=[link], daemon=True).start()

    def answer(self, link: socket.socket) -> None:
        with link:
            try:
                while heard := link.recv(65536):
                    link.sendall(heard)
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.close()


@pytest.fixture
def wire(echo: Echo, start_wire: Callable[[int], Wire]) -> Wire:
    return start_wire(echo.port)


@pytest.fixture
def link(wire: Wire) -> Iterator[socket.socket]:
    with connected(wire) as made:
        yield made


def connected(wire: Wire) -> socket.socket:
    return socket.create_connection(("127.0.0.1", wire.port), timeout=5)


def said(link: socket.socket, text: bytes) -> bytes:
    link.sendall(text)
    return heard(link, len(text))


def heard(link: socket.socket, count: int) -> bytes:
    """At most ``count`` bytes; fewer where the connection ends."""
    got = b""
    while len(got) < count and (chunk := link.recv(count - len(got))):
        got += chunk
    return got


def test_bytes_pass_both_ways_unchanged(link: socket.socket) -> None:
    text = bytes(range(256)) * 4096
    sender = threading.Thread(target=link.sendall, args=[text])
    sender.start()
    assert heard(link, len(text)) == text
    sender.join()


def test_a_closed_side_is_closed_through_the_wire(wire: Wire, link: socket.socket) -> None:
    said(link, b"hello")
    link.shutdown(socket.SHUT_WR)
    assert link.recv(1) == b""
    wire.wait_for(lambda: wire.connections == 0)


def test_a_cut_connection_ends_in_good_order(wire: Wire, link: socket.socket) -> None:
    said(link, b"hello")
    wire.cut()
    assert link.recv(1) == b""


def test_a_reset_connection_breaks_off(wire: Wire, link: socket.socket) -> None:
    said(link, b"hello")
    wire.reset()
    with pytest.raises(ConnectionResetError):
        link.recv(1)


def test_a_connection_is_reset_after_exactly_so_many_bytes(wire: Wire, link: socket.socket) -> None:
    said(link, b"hello")
    wire.cut_after(3, towards="client")
    link.sendall(b"world")
    assert heard(link, 3) == b"wor"
    with pytest.raises(ConnectionResetError):
        link.recv(1)


def test_a_connection_is_closed_before_the_server_hears_more(wire: Wire, link: socket.socket) -> None:
    said(link, b"hello")
    wire.cut_after(2, towards="server", ending="close")
    link.sendall(b"world")
    assert heard(link, 5) in (b"", b"wo")


def test_a_connection_to_come_is_cut_too(wire: Wire) -> None:
    wire.cut_after(4, towards="client", ending="close")
    with connected(wire) as link:
        assert said(link, b"hello") == b"hell"


def test_a_frozen_wire_keeps_connections_open_and_forwards_after_it_is_healed(wire: Wire, link: socket.socket) -> None:
    said(link, b"hello")
    wire.freeze()
    link.sendall(b"world")
    link.settimeout(0.2)
    with pytest.raises(TimeoutError):
        link.recv(5)
    wire.heal()
    link.settimeout(5)
    assert heard(link, 5) == b"world"


def test_a_half_open_connection_stays_silent_after_its_bytes(wire: Wire, link: socket.socket) -> None:
    wire.cut_after(3, towards="client", ending="freeze")
    assert said(link, b"hello"[:3]) == b"hel"
    link.sendall(b"lo")
    link.settimeout(0.2)
    with pytest.raises(TimeoutError):
        link.recv(1)
    wire.heal()
    link.settimeout(5)
    with pytest.raises(ConnectionResetError):
        link.recv(1)


def test_a_refusing_wire_keeps_what_is_open_and_lets_in_again_when_healed(wire: Wire, link: socket.socket) -> None:
    said(link, b"hello")
    wire.refuse()
    with pytest.raises(ConnectionRefusedError):
        connected(wire)
    assert said(link, b"still") == b"still"
    wire.heal()
    with connected(wire) as again:
        assert said(again, b"back") == b"back"


def test_a_server_that_is_down_looks_down_through_the_wire(start_wire: Callable[[int], Wire]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as down:
        port = down.getsockname()[1]
    wire = start_wire(port)
    # The reset may come before the connection is told of, too.
    with pytest.raises(ConnectionResetError), connected(wire) as link:
        link.recv(1)


def test_latency_delays_both_ways(wire: Wire, link: socket.socket) -> None:
    said(link, b"hello")
    wire.latency = 0.1
    began = time.monotonic()
    said(link, b"world")
    # A lower bound is no race: the wire holds every byte that long.
    assert time.monotonic() - began >= 0.2


def test_bandwidth_holds_bytes_back(wire: Wire, link: socket.socket) -> None:
    said(link, b"hello")
    wire.bandwidth = 500_000
    began = time.monotonic()
    said(link, b"x" * 10_000)
    said(link, b"y" * 10_000)
    assert time.monotonic() - began >= 0.02


def test_a_broken_wire_does_not_touch_the_connections_of_others(wire: Wire, echo: Echo) -> None:
    with socket.create_connection(("127.0.0.1", echo.port), timeout=5) as direct:
        wire.reset()
        wire.freeze()
        assert said(direct, b"hello") == b"hello"
