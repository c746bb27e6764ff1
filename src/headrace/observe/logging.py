"""Logs: one JSON object a line off a terminal, one readable line on it.

Every line carries the event, handler and trace that it belongs to, where it belongs to one; secrets are redacted and
control characters escaped in whatever it says. There is no line per event: that is what metrics and traces are for.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from typing import Any, Final, TextIO

import msgspec

from headrace.errors import ConfigurationError
from headrace.observe.redaction import HIDDEN, escape, is_secret_name, redact

__all__ = ["LEVELS", "JsonFormatter", "ReadableFormatter", "configure"]

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
#: Characters of one message or field; a payload does not belong into a log.
LONGEST: Final = 16 * 1024


def configure(level: str = "info", *, stream: TextIO | None = None) -> None:
    """Send all logs of the process to a stream (stderr). Raises `ConfigurationError` for an unknown level.

    Replaces the root logger's handlers: whoever wants others configures logging after the app has started, or itself.
    """
    number = LEVELS.get(level.lower())
    if number is None:
        raise ConfigurationError(f"HEADRACE_LOG is one of {', '.join(LEVELS)}; got {level!r}")
    stream = stream or sys.stderr
    terminal = stream.isatty()
    handler = logging.StreamHandler(stream)
    if terminal:
        handler.setFormatter(ReadableFormatter(colour="NO_COLOR" not in os.environ))
    else:
        handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    # The clients say per connection what the sources say once.
    for quiet in ("uvicorn", "asyncio", "aiohttp"):
        logging.getLogger(quiet).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


def _context() -> dict[str, str]:
    """Event, handler and trace of the code that logs, where there are such."""
    found: dict[str, str] = {}
    engine = sys.modules.get("headrace.engine.context")
    delivery = engine.current.get(None) if engine is not None else None
    if delivery is not None:
        runner = getattr(delivery, "_runner", None)
        if runner is not None:
            found["handler"] = runner.handler.name
        if delivery.event is not None:
            found["event_id"] = delivery.event.id
            found["event_source"] = delivery.event.source
    tracing = sys.modules.get("opentelemetry.trace")
    if tracing is not None:
        span = tracing.get_current_span().get_span_context()
        if span.is_valid:
            found["trace_id"] = format(span.trace_id, "032x")
            found["span_id"] = format(span.span_id, "016x")
    return found


def _fields(record: logging.LogRecord) -> dict[str, str]:
    """The context, and what the caller gave as ``extra``; each value safe to show."""
    given = {name: str(value) for name, value in vars(record).items() if name not in _STANDARD and value is not None}
    return {name: HIDDEN if is_secret_name(name) else _safe(value) for name, value in (_context() | given).items()}


def _safe(text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text)} characters)"
    return escape(redact(text))


def _message(record: logging.LogRecord) -> str:
    try:
        return _safe(record.getMessage())
    except Exception:  # noqa: BLE001 - the text of an argument is its own code
        # Arguments that do not fit the text, or that have none: the line is shown as far as it goes, never lost.
        return _safe(f"{record.msg} {record.args!r}")


def _trace(record: logging.LogRecord) -> list[str]:
    if not record.exc_info or record.exc_info[0] is None:
        return []
    lines = "".join(traceback.format_exception(*record.exc_info)).splitlines()
    return [_safe(line) for line in lines]


class JsonFormatter(logging.Formatter):
    """``time level logger message``, then context and extras, then ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _instant(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        trace = _trace(record)
        if trace:
            line["exception"] = "\n".join(trace)
        return msgspec.json.encode(line).decode()


class ReadableFormatter(logging.Formatter):
    """Time, level, message, then the fields; a traceback follows, indented."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname:<8}"
        code = _COLOURS.get(record.levelname)
        if self._colour and code:
            level = f"\x1b[{code}m{level}\x1b[0m"
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{clock}.{int(record.msecs):03d} {level} {_message(record)}{fields}"
        return "\n    ".join((line, *_trace(record)))


def _instant(created: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{text}.{int(created % 1 * 1000):03d}Z"
