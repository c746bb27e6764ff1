"""The protocol as it arrives: whatever the reads are, the messages are the same."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.nats.wire import Link, Tap, header_pairs, status


class Recorder:
    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.errors: list[Exception] = []

    def control(self, line: bytes) -> None:
        self.lines.append(line)

    def broken(self, error: Exception) -> None:
        self.errors.append(error)


def link_of(recorder: Any) -> tuple[Link, list[Tap], list[int]]:
    woken: list[int] = []
    taps = [Tap(n, f"s{n}", "", lambda n=n: woken.append(n)) for n in (1, 2)]  # type: ignore[misc]
    return Link(recorder, {tap.key: tap for tap in taps}, None), taps, woken


def feed(pieces: list[bytes]) -> tuple[list[Any], list[Any], list[bytes], list[int]]:
    async def run() -> tuple[list[Any], list[Any], list[bytes], list[int]]:
        recorder = Recorder()
        link, (one, two), woken = link_of(recorder)
        for piece in pieces:
            link.data_received(piece)
        assert not recorder.errors
        return one.messages, two.messages, recorder.lines, woken

    return asyncio.run(run())


HEADERS = b"NATS/1.0\r\nce-id: 1\r\n\r\n"
STREAM = b"".join(
    [
        b"MSG a.b 1 5\r\nhello\r\n",
        b"PING\r\n",
        b"HMSG a.c 1 reply.to %d %d\r\n%b%b\r\n" % (len(HEADERS), len(HEADERS) + 7, HEADERS, b"bo\r\ndy!"),
        b"+OK\r\n",
        b"MSG x 2 r 0\r\n\r\n",
        b"MSG gone 9 4\r\nMSG \r\n",
        b'INFO {"version":"2"}\r\n',
        b"HMSG a.d 1 %d %d\r\n%b\r\n" % (len(HEADERS), len(HEADERS), HEADERS),
    ]
)
ONE = [(b"a.b", b"", b"", b"hello"), (b"a.c", b"reply.to", HEADERS, b"bo\r\ndy!"), (b"a.d", b"", HEADERS, b"")]
TWO = [(b"x", b"r", b"", b"")]
LINES = [b"PING", b"+OK", b'INFO {"version":"2"}']


def test_one_read_wakes_each_subscription_about_once() -> None:
    one, two, lines, woken = feed([STREAM])
    assert (one, two, lines) == (ONE, TWO, LINES)
    assert woken.count(2) == 1
    assert woken.count(1) <= 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_cuts_of_the_reads_do_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in zip(places, places[1:], strict=False) if a < b]
    assert feed(pieces)[:3] == (ONE, TWO, LINES)


def test_a_large_body_arrives_in_small_reads() -> None:
    body = bytes(range(256)) * 4096
    data = b"MSG a 1 %d\r\n%b\r\nPING\r\n" % (len(body), body)
    one, _, lines, woken = feed([data[n : n + 1000] for n in range(0, len(data), 1000)])
    assert one == [(b"a", b"", b"", body)]
    assert lines == [b"PING"]
    assert woken == [1]


def test_what_never_ends_a_line_is_no_nats() -> None:
    async def run() -> list[Exception]:
        recorder = Recorder()
        link, _, _ = link_of(recorder)
        link.data_received(b"x" * 70_000)
        return recorder.errors

    assert len(asyncio.run(run())) == 1


def test_headers_of_every_client_are_read() -> None:
    assert header_pairs(b"NATS/1.0\r\nA: b\r\nC: d: e\r\n\r\n") == [["A", "b"], ["C", "d: e"]]
    assert header_pairs(b"NATS/1.0\r\nA:b\r\nB:\r\nno colon\r\n\r\n") == [["A", "b"], ["B", ""]]
    assert header_pairs(b"NATS/1.0\r\n\r\n") == []
    assert header_pairs(b"") == []
    (pair,) = header_pairs(b"NATS/1.0\r\nA: \xff\r\n\r\n")
    assert pair[1].encode("utf-8", "surrogateescape") == b"\xff"


def test_a_status_has_a_code_a_description_and_headers() -> None:
    block = b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n"
    assert status(block) == (408, "Request Timeout", {"Nats-Pending-Messages": "3"})
    assert status(b"NATS/1.0 503\r\n\r\n") == (503, "", {})
    assert status(HEADERS) is None
    assert status(b"") is None
