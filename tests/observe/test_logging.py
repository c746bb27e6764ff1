"""Log lines: structured, on one line, with context, and without secrets."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import Event
from headrace.engine.context import current
from headrace.engine.delivery import Delivery
from headrace.errors import ConfigurationError
from headrace.observe.logging import JsonFormatter, ReadableFormatter, configure
from headrace.observe.redaction import escape, redact


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """The test run's own handlers come back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def record(message: str, *args: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    return logging.getLogger("headrace.test").makeRecord(
        "headrace.test", level, __file__, 1, message, args, None, extra=extra
    )


def as_json(message: str, *args: object, **extra: object) -> dict[str, str]:
    line = JsonFormatter().format(record(message, *args, **extra))
    assert "\n" not in line
    decoded: dict[str, str] = msgspec.json.decode(line)
    return decoded


def test_a_stream_that_is_no_terminal_gets_one_json_object_a_line() -> None:
    stream = io.StringIO()
    configure("info", stream=stream)
    logging.getLogger("shop").info("order %s billed", "o-1", extra={"event_id": "e-1"})
    logging.getLogger("shop").debug("not shown")
    [line] = stream.getvalue().splitlines()
    decoded = msgspec.json.decode(line)
    assert decoded.pop("time").endswith("Z")
    assert decoded == {"level": "info", "logger": "shop", "message": "order o-1 billed", "event_id": "e-1"}


def test_a_terminal_gets_readable_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure("debug", stream=stream)
    logging.getLogger("shop").warning("slow", extra={"event_id": "e-1"})
    assert stream.getvalue().endswith("WARNING  slow event_id=e-1\n")


def test_configuring_twice_writes_each_line_once() -> None:
    stream = io.StringIO()
    configure("info", stream=io.StringIO())
    configure("info", stream=stream)
    logging.getLogger("shop").info("once")
    assert len(stream.getvalue().splitlines()) == 1


def test_an_unknown_level_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="HEADRACE_LOG"):
        configure("loud", stream=io.StringIO())


def test_lines_inside_a_handler_name_their_event() -> None:
    delivery = Delivery(None, Event(type="t", source="/s", id="e-7"), 1)  # type: ignore[arg-type]
    token = current.set(delivery)
    try:
        line = as_json("inside")
    finally:
        current.reset(token)
    assert (line["event_id"], line["event_source"]) == ("e-7", "/s")
    assert "event_id" not in as_json("outside")


def test_lines_inside_a_span_name_their_trace() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("work") as span:
        line = as_json("inside")
    assert line["trace_id"] == format(span.get_span_context().trace_id, "032x")
    assert line["span_id"] == format(span.get_span_context().span_id, "016x")


def test_an_exception_is_one_field_and_one_line() -> None:
    try:
        raise ValueError("bad\nsecond line \x1b[31mred")
    except ValueError:
        made = logging.getLogger("x").makeRecord("x", logging.ERROR, "", 1, "failed", (), sys.exc_info())
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert "\x1b" not in msgspec.json.decode(line)["exception"]
    readable = ReadableFormatter().format(made).splitlines()
    assert all(row.startswith("    ") for row in readable[1:])
    assert not any("\x1b" in row for row in readable)


def test_arguments_that_do_not_fit_the_text_do_not_lose_the_line() -> None:
    assert "%d apples" in as_json("%d apples", "many")["message"]


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in shown)


def test_a_message_cannot_forge_a_line() -> None:
    line = ReadableFormatter().format(record("user %s", "x\n12:00:00.000 INFO     all is well"))
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("connecting to nats://shop:hunter2@broker:4222", "hunter2"),
        ("connecting to nats://tok3n@broker:4222", "tok3n"),
        ("postgresql://app:p%40ss@db/shop failed", "p%40ss"),
        ("GET /events?access_token=abc.def&x=1", "abc.def"),
        ("Authorization: Bearer abcdef123456", "abcdef123456"),
        ("Proxy said Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ('{"password": "hunter2", "user": "shop"}', "hunter2"),
        ("api_key=XYZ987", "XYZ987"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJzdWIiOiIxIn0"),
        ("seed SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY", "SUACSSL3UAHUDXKFSNVUZRF5"),
    ],
)
def test_secrets_are_hidden(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text", ["order o-1 of c-7 billed", "see https://example.com/a?page=2", "mail to a@b.example", "12:30 token ring"]
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_a_field_with_a_secret_name_is_hidden_whatever_it_holds() -> None:
    line = as_json("x", password="hunter2", api_key="k", broker="nats://a:b@c", keyed="yes")
    assert (line["password"], line["api_key"], line["broker"], line["keyed"]) == ("***", "***", "nats://a:***@c", "yes")


def test_a_very_long_message_is_cut() -> None:
    assert len(as_json("x" * 1_000_000)["message"]) < 20_000


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_line_is_written_whatever_its_arguments_are() -> None:
    line = as_json("file %s", "caf\udce9.txt", path="\ud800")
    assert (line["message"], line["path"]) == (r"file caf\udce9.txt", r"\ud800")
    assert "failed" in as_json("failed: %s", Mute())["message"]
