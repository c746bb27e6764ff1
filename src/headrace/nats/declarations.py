"""What a user writes: `Stream` and `Subject`, settings without a connection. Both are sources and sinks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from headrace.engine.broker import Binding, Broker
    from headrace.engine.sink import Sink
    from headrace.engine.source import Source
    from headrace.nats.broker import NatsBroker

__all__ = ["Stream", "Subject", "check_subject"]

_NAME: Final = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]+")
_TOKEN: Final = re.compile(r"[^\s.*>\x00-\x1f\x7f]+")


def check_subject(subject: str, *, wildcards: bool = True) -> None:
    """Raises `ConfigurationError` unless ``subject`` is one that NATS takes."""
    tokens = subject.split(".")
    for position, token in enumerate(tokens):
        wild = token == "*" or (token == ">" and position == len(tokens) - 1)
        if not (_TOKEN.fullmatch(token) or (wild and wildcards)):
            allowed = "tokens separated by dots" + (
                ", '*' for one token, '>' at the end for the rest" if wildcards else ""
            )
            raise ConfigurationError(f"{subject!r} is no NATS subject: it needs {allowed}")


def check_name(name: str, what: str) -> None:
    """Raises `ConfigurationError` unless ``name`` can name a stream or a consumer."""
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise ConfigurationError(f"{name!r} is no name for a NATS {what}: no spaces, dots, '*', '>', '/' or '\\'")


def _broker(found: Broker | None, what: str) -> NatsBroker:
    from headrace.nats.broker import NatsBroker

    if not isinstance(found, NatsBroker):
        has = "no broker" if found is None else f"the broker {found.url}"
        raise ConfigurationError(
            f"{what} needs NATS, but the app has {has}: set broker= or HEADRACE_BROKER to nats://host:4222"
        )
    return found


class Stream:
    """A JetStream stream by name: as a source a durable pull consumer, as a sink a confirmed publish.

    Args:
        stream: the stream's name.
        subject: what of it is read (wildcards allowed; default: all), or where it is published to.
        durable: the consumer's name; default `<app>__<handler>`.
        subjects: what the stream captures where it is created; default: `subject`.
        create: create the stream and the consumer where they are missing, else only check them.
        ack_wait: seconds after which the server delivers again what was neither settled nor extended.
        storage: `file` or `memory`, for a stream that is created.
        replicas: copies of a stream that is created.
        max_age: seconds that its messages are kept; 0: no limit.
        max_bytes: its size limit; 0: none.

    A setting that is given here and differs from what is found is an error at start-up; the others are taken as found.

    Raises:
        ConfigurationError: a name or subject that NATS does not take.
    """

    def __init__(
        self,
        stream: str,
        subject: str | None = None,
        *,
        durable: str | None = None,
        subjects: Sequence[str] | None = None,
        create: bool = True,
        ack_wait: float | None = None,
        storage: str | None = None,
        replicas: int | None = None,
        max_age: float | None = None,
        max_bytes: int | None = None,
    ) -> None:
        check_name(stream, "stream")
        for item in (*((subject,) if subject else ()), *(subjects or ())):
            check_subject(item)
        if durable is not None:
            check_name(durable, "consumer")
        if storage not in (None, "file", "memory"):
            raise ConfigurationError(f"Stream({stream!r}): storage is 'file' or 'memory', not {storage!r}")
        if ack_wait is not None and not ack_wait >= 1:
            raise ConfigurationError(f"Stream({stream!r}): ack_wait is at least 1 second, not {ack_wait!r}")
        self.stream = stream
        self.subject = subject
        self.durable = durable
        self.subjects = tuple(subjects) if subjects else None
        self.create = create
        self.ack_wait = ack_wait
        self.storage = storage
        self.replicas = replicas
        self.max_age = max_age
        self.max_bytes = max_bytes
        self.name = f"nats:{stream}" if subject is None else f"nats:{stream}/{subject}"

    def __repr__(self) -> str:
        return f"Stream({self.stream!r}, subject={self.subject!r}, durable={self.durable!r})"

    def bind(self, binding: Binding) -> Source:
        """The source for one handler."""
        return _broker(binding.broker, f"{self!r} of handler {binding.handler!r}").stream_source(self, binding)

    def sink(self, broker: Broker | None) -> Sink:
        """Where events are published: `subject`, which must have no wildcard."""
        if self.subject is None:
            raise ConfigurationError(f"Stream({self.stream!r}) as a sink needs subject=, where to publish")
        check_subject(self.subject, wildcards=False)
        return _broker(broker, repr(self)).stream_sink(self)


class Subject:
    """A core NATS subject: at most once. What arrives while nobody listens, or faster than it is handled, is gone.

    A message with a reply subject is answered with the handler's returned value.

    Args:
        subject: wildcards allowed, but not in a sink.
        queue: the queue group that shares the messages; default `<app>__<handler>`. `""`: each replica gets every message.
    """

    at_most_once = True

    def __init__(self, subject: str, *, queue: str | None = None) -> None:
        check_subject(subject)
        if queue:
            check_subject(queue, wildcards=False)
        self.subject = subject
        self.queue = queue
        self.name = f"nats-core:{subject}"

    def __repr__(self) -> str:
        return f"Subject({self.subject!r}, queue={self.queue!r})"

    def bind(self, binding: Binding) -> Source:
        """The source for one handler."""
        return _broker(binding.broker, f"{self!r} of handler {binding.handler!r}").subject_source(self, binding)

    def sink(self, broker: Broker | None) -> Sink:
        """Where events are published; nobody confirms them."""
        check_subject(self.subject, wildcards=False)
        return _broker(broker, repr(self)).subject_sink(self)
