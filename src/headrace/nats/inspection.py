"""What `headrace check --connect` and `headrace doctor` say about a NATS server and what this app has there.

Only reads.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from headrace.engine.broker import Binding, Finding
from headrace.errors import HeadraceError
from headrace.nats.api import NOT_ENABLED, ApiError
from headrace.nats.declarations import Stream, Subject
from headrace.nats.durability import durability
from headrace.nats.ownership import key_of, noted_owner, pin_of
from headrace.nats.requests import NoResponders, Silent
from headrace.nats.streams import differences

if TYPE_CHECKING:
    from headrace.engine.source import Declaration
    from headrace.nats.broker import NatsBroker
    from headrace.nats.consumers import Wanted

__all__ = ["inspect"]

_OLDEST: Final = (2, 11)
_WITH_RESET: Final = (2, 14)
#: Seconds by which clocks may differ: claims, retries and expiry times are compared across machines.
_SKEW: Final = 2.0
_SMALL_PAYLOAD: Final = 256 * 1024
_NEARLY_FULL: Final = 0.9


async def inspect(broker: NatsBroker, bindings: list[tuple[str | Declaration, Binding]]) -> list[Finding]:
    """What is amiss, worst first.

    Raises:
        ConnectionFailed: the server cannot be reached.
    """
    await broker.open()
    found = [*_server(broker)]
    try:
        account = await broker.api.call("INFO")
    except NoResponders:
        return _sorted(
            [
                *found,
                Finding(
                    "error",
                    f"JetStream is not enabled at {broker.url}: channels need it (jetstream {{ }} in its configuration)",
                ),
            ]
        )
    except ApiError as error:
        remedy = "enable it for this account" if error.err_code in NOT_ENABLED else "look into the server's log"
        return _sorted([*found, Finding("error", f"JetStream at {broker.url} refuses: {error.description}; {remedy}")])
    except Silent as error:
        return _sorted([*found, Finding("error", f"JetStream at {broker.url} does not answer: {error}")])
    found += _limits(account)
    found += await _clock(broker)
    found += await durability(broker)
    streams: set[str] = set()
    for source, binding in bindings:
        if isinstance(source, (str, Stream)):
            found += await _source(broker, source, binding, streams)
        elif isinstance(source, Subject):
            found.append(_subject(source, binding))
    for stream in sorted(streams):
        found += await _strays(broker, stream, bindings)
    return _sorted(found)


def _sorted(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: ("error", "warning", "info").index(finding.level))


def _server(broker: NatsBroker) -> list[Finding]:
    info: dict[str, Any] = broker.connection._server_info
    found = []
    text = str(info.get("version", "0"))
    version = tuple(int(part) for part in text.split("-")[0].split(".")[:2] if part.isdigit())
    if version < _OLDEST:
        found.append(
            Finding(
                "error", f"nats-server {text} has no pinned consumers, which keyed handlers need: use 2.14 or later"
            )
        )
    elif version < _WITH_RESET:
        found.append(
            Finding(
                "warning",
                f"nats-server {text} cannot reset a consumer: a take-over deletes and recreates it; 2.14 or later is better",
            )
        )
    else:
        found.append(Finding("info", f"nats-server {text} at {broker.url}"))
    payload = int(info.get("max_payload", 0))
    found.append(
        Finding(
            "warning" if payload < _SMALL_PAYLOAD else "info",
            f"the server takes messages up to {payload} bytes (max_payload); larger events cannot be published",
        )
    )
    return found


def _limits(account: dict[str, Any]) -> list[Finding]:
    found = []
    limits = account.get("limits") or {}
    for used, limit, what in (
        (account.get("storage", 0), limits.get("max_storage", -1), "file storage"),
        (account.get("streams", 0), limits.get("max_streams", -1), "streams"),
        (account.get("consumers", 0), limits.get("max_consumers", -1), "consumers"),
    ):
        if limit > 0 and used >= limit * _NEARLY_FULL:
            found.append(
                Finding(
                    "warning", f"this account uses {used} of its {limit} {what}: publishing fails when they are used up"
                )
            )
    ack_limit = limits.get("max_ack_pending", -1)
    if ack_limit > 0:
        found.append(
            Finding(
                "warning",
                f"this account allows {ack_limit} unacknowledged messages per consumer; fewer than a handler needs stall it",
            )
        )
    return found


async def _clock(broker: NatsBroker) -> list[Finding]:
    """Compare clocks by the time that the server puts into an answer."""
    before = time.time()
    try:
        answer = await broker.api.call("STREAM.LIST", {"offset": 1_000_000})
    except (Silent, ApiError):
        return []
    after = time.time()
    said = answer.get("ts")
    if not isinstance(said, str):
        return []
    server = datetime.fromisoformat(said[:26].rstrip("Z") + "+00:00").timestamp()
    skew = max(server - after, before - server, 0.0)
    if skew > _SKEW:
        return [
            Finding(
                "warning",
                f"the server's clock differs from this machine's by {skew:.1f} s: expiry and lags are off; use NTP",
            )
        ]
    return []


def _subject(declared: Subject, binding: Binding) -> Finding:
    queue = binding.durable if declared.queue is None else declared.queue
    shared = f"shared by all replicas (queue group {queue})" if queue else "given to every replica"
    return Finding(
        "info", f"handler {binding.handler!r}: subject {declared.subject} is {shared}, at most once: nothing is kept"
    )


async def _source(broker: NatsBroker, source: str | Stream, binding: Binding, streams: set[str]) -> list[Finding]:
    """A channel or an explicit stream: is it there, does it lose events, who reads it, how far is it?"""
    api = broker.api
    handler = binding.handler
    what = f"channel {source!r}" if isinstance(source, str) else f"stream {source.stream!r}"
    wanted = broker.wanted(source, binding)
    try:
        name = await api.stream_of(source) if isinstance(source, str) else source.stream
        stream = None if name is None else await api.stream(name)
        if name is None or stream is None:
            return [_missing(source, what)]
        streams.add(name)
        consumer = await api.consumer(name, wanted.durable)
        if not isinstance(source, str):
            differs = differences(source, stream)
            if differs:
                return [Finding("error", f"{what} differs from its declaration: {'; '.join(differs)}; run refuses it")]
        who = await _owner(broker, consumer, wanted) if consumer is not None else ""
    except HeadraceError as error:
        return [Finding("error", f"{what}: {error}")]
    found = _stream(source if isinstance(source, str) else source.stream, stream)
    if consumer is None:
        text = f"handler {handler!r}: consumer {wanted.durable} on stream {name} does not exist yet"
        if wanted.create:
            return [*found, Finding("info", f"{text}; run creates it")]
        return [*found, Finding("error", f"{text} and create=False: run refuses it")]
    limit = consumer["config"].get("max_ack_pending", 0)
    # Below zero is no limit.
    if 0 <= limit < wanted.needs:
        then = "run raises it" if wanted.create else "and create=False: run refuses it"
        found.append(
            Finding(
                "warning" if wanted.create else "error",
                f"consumer {wanted.durable} allows {limit} unacknowledged messages and handler {handler!r} needs "
                f"{wanted.max_ack_pending}; {then}",
            )
        )
    pending, held = consumer.get("num_pending", 0), consumer.get("num_ack_pending", 0)
    waits = f"{pending} events wait, {held} are unacknowledged"
    found.append(Finding("info", f"handler {handler!r}: consumer {wanted.durable} is {who}; {waits}"))
    if stream is not None:
        first, floor = stream["state"]["first_seq"], consumer["ack_floor"]["stream_seq"]
        if (
            floor
            and stream["config"].get("retention") == "limits"
            and first - 1 > max(floor, consumer["delivered"]["stream_seq"])
        ):
            found.append(
                Finding(
                    "error",
                    f"handler {handler!r}: stream {name} has discarded unread events: it begins at {first}, the handler is at {floor}",
                )
            )
    return found


def _missing(source: str | Stream, what: str) -> Finding:
    if isinstance(source, str):
        return Finding("info", f"{what}: no stream captures it yet; run creates one")
    if not source.create:
        return Finding("error", f"{what} does not exist and create=False: run refuses it")
    return Finding("info", f"{what} does not exist yet; run creates it")


async def _owner(broker: NatsBroker, consumer: dict[str, Any], wanted: Wanted) -> str:
    if not wanted.keyed:
        return "shared by all replicas"
    pin = pin_of(consumer)
    if not pin:
        return "owned by nobody"
    since = str((consumer.get("priority_groups") or [{}])[0].get("pinned_ts", ""))[:19]
    who = noted_owner(await broker.bucket.peek(key_of(wanted.durable)), pin) or "a process that has not said who it is"
    return f"owned by {who} (pin {pin} since {since}); the other replicas stand by"


def _stream(channel: str, stream: dict[str, Any]) -> list[Finding]:
    config = stream["config"]
    name = config["name"]
    found = []
    if config.get("storage") == "memory":
        found.append(
            Finding("warning", f"stream {name} ({channel}) is in memory: a restart of the server loses its events")
        )
    if config.get("num_replicas", 1) == 1 and stream.get("cluster", {}).get("name"):
        found.append(Finding("warning", f"stream {name} has one replica in a cluster: it is away while its node is"))
    if config.get("retention") == "interest":
        found.append(
            Finding(
                "warning",
                f"stream {name} keeps events only while a consumer exists: what is published before the first run is lost",
            )
        )
    if config.get("no_ack"):
        found.append(
            Finding(
                "error", f"stream {name} confirms no publishes (no_ack): headrace cannot know that an event is stored"
            )
        )
    for limit, used, what in (("max_bytes", "bytes", "bytes"), ("max_msgs", "messages", "messages")):
        most = config.get(limit, -1)
        if most > 0 and stream["state"][used] >= most * _NEARLY_FULL:
            then = (
                "new events are refused" if config.get("discard") == "new" else "the oldest are discarded, read or not"
            )
            found.append(
                Finding("warning", f"stream {name} holds {stream['state'][used]} of {most} {what}: when full, {then}")
            )
    return found


async def _strays(broker: NatsBroker, stream: str, bindings: list[tuple[str | Declaration, Binding]]) -> list[Finding]:
    """Consumers of this app that belong to no handler: a renamed or removed one, for which events pile up."""
    found = []
    app = broker.app
    known = {f"{app}__{name}" for _, binding in bindings for name in (*binding.handlers, binding.handler)}
    known |= {source.durable for source, _ in bindings if isinstance(source, Stream) and source.durable}
    try:
        consumers = [info async for info in broker.api.pages(f"CONSUMER.LIST.{stream}", "consumers")]
    except (Silent, ApiError) as error:
        found.append(Finding("warning", f"the consumers of stream {stream} cannot be listed: {error}"))
        return found
    for info in consumers:
        name = info["name"]
        if name.startswith(f"{app}__") and name not in known:
            text = (
                f"consumer {name} on stream {stream} matches no handler ({info.get('num_pending', 0)} events wait for it): "
                f"name the handler so again, or delete it: nats consumer rm {stream} {name}"
            )
            found.append(Finding("warning", text))
    return found
