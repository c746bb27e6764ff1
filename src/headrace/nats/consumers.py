"""Finds or creates durable consumers, and refuses what would lose or repeat work.

A consumer that we create starts at the earliest event. One that is found must do what the source relies on; its limit of
unacknowledged messages is raised where it would stall the flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from headrace.errors import ConfigurationError, RefusedError
from headrace.nats.api import CONSUMER_EXISTS, WORKQUEUE_CONSUMERS, ApiError, nanoseconds

if TYPE_CHECKING:
    from headrace.engine.broker import Binding
    from headrace.nats.api import Api, Json

__all__ = ["ACK_WAIT", "GROUP", "PIN_SECONDS", "Wanted", "ensure_consumer"]

#: Seconds after which an unsettled message is delivered again, and that a pin outlives its owner's last pull.
ACK_WAIT: Final = 30.0
PIN_SECONDS: Final = 4.0
GROUP: Final = "headrace"
#: Replicas of an app that are expected at most, for the limit of unacknowledged messages.
EXPECTED_REPLICAS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The consumer that a source needs. ``explicit``: its name was chosen by the user. ``needs``: unacknowledged messages of
    one process; ``max_ack_pending``: of all that are expected. ``ack_wait`` in seconds, ``None``: as found, else 30."""

    durable: str
    subject: str | None
    keyed: bool
    start: str
    needs: int
    max_ack_pending: int
    ack_wait: float | None = None
    explicit: bool = False
    create: bool = True
    handlers: tuple[str, ...] = ()
    app: str = ""

    @classmethod
    def of(
        cls,
        binding: Binding,
        subject: str | None,
        *,
        replicas: int = EXPECTED_REPLICAS,
        durable: str | None = None,
        ack_wait: float | None = None,
        create: bool = True,
    ) -> Wanted:
        """What one handler needs: (concurrency and prefetch) × replicas + parked.

        Raises `ConfigurationError` for a start position that is none.
        """
        try:
            _begin(binding.start)
        except ConfigurationError as error:
            raise ConfigurationError(f"handler {binding.handler!r}: {error}") from None
        held = binding.concurrency + binding.prefetch.items
        return cls(
            durable=durable or binding.durable,
            subject=subject,
            keyed=binding.keyed,
            start=binding.start,
            needs=held + binding.parked.items,
            max_ack_pending=held * max(1, replicas) + binding.parked.items,
            ack_wait=ack_wait,
            explicit=durable is not None,
            create=create,
            handlers=binding.handlers or (binding.handler,),
            app=binding.app,
        )

    def config(self) -> Json:
        """The consumer as we create it."""
        config: Json = {
            "durable_name": self.durable,
            "name": self.durable,
            "ack_policy": "explicit",
            "ack_wait": nanoseconds(self.ack_wait or ACK_WAIT),
            "max_deliver": -1,
            "max_ack_pending": self.max_ack_pending,
            "replay_policy": "instant",
            "metadata": {"headrace.app": self.app},
            **_begin(self.start),
        }
        if self.subject is not None:
            config["filter_subject"] = self.subject
        if self.keyed:
            config |= {
                "priority_groups": [GROUP],
                "priority_policy": "pinned_client",
                "priority_timeout": nanoseconds(PIN_SECONDS),
            }
        return config

    def config_from(self, floor: int) -> Json:
        """The consumer as we create it anew, behind this floor."""
        config = self.config()
        if floor:
            config.pop("opt_start_time", None)
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}
        return config


def _begin(start: str) -> Json:
    if start in ("", "earliest"):
        return {"deliver_policy": "all"}
    if start == "latest":
        return {"deliver_policy": "new"}
    if start.isdigit():
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": int(start)}
    if len(start) >= 10 and start[4:5] == "-":
        return {"deliver_policy": "by_start_time", "opt_start_time": start}
    raise ConfigurationError(f"start={start!r}: it is 'earliest', 'latest', a stream sequence or a time (RFC 3339)")


async def ensure_consumer(api: Api, stream: Json, wanted: Wanted) -> Json:
    """The consumer's info, after finding, creating or adjusting it.

    Raises:
        RefusedError: creating it looks like a renamed handler.
        ConfigurationError: what is found, or the stream, cannot serve this handler.
    """
    name = stream["config"]["name"]
    _check_transform(stream, wanted)
    info = await api.consumer(name, wanted.durable)
    if info is None:
        if not wanted.create:
            raise ConfigurationError(f"the stream {name!r} has no consumer {wanted.durable!r}, and create=False")
        await _guard(api, stream, wanted)
        info = await create(api, name, wanted.config())
    return await _check(api, name, info, wanted)


async def create(api: Api, stream: str, config: Json) -> Json:
    """Create a consumer; one that somebody created in the meantime is taken."""
    try:
        return await api.create_consumer(stream, config)
    except ApiError as error:
        if error.err_code in (CONSUMER_EXISTS, *WORKQUEUE_CONSUMERS):
            # Another replica may have created it a moment ago.
            info = await api.consumer(stream, config["durable_name"])
            if info is not None:
                return info
        if error.err_code in WORKQUEUE_CONSUMERS:
            raise _work_queue(stream, config["durable_name"], "another consumer") from error
        if error.transient:
            raise
        raise ConfigurationError(
            f"JetStream does not create the consumer {config['durable_name']!r} on stream {stream!r}: {error.description}"
        ) from error


def _check_transform(stream: Json, wanted: Wanted) -> None:
    """A stream may store messages under other subjects than they are published to; a consumer sees only those."""
    transform = stream["config"].get("subject_transform") or {}
    dest = transform.get("dest")
    if wanted.subject is None or not dest:
        return
    # Its place holders, {{wildcard(1)}} and the like, stand for a token each.
    stored = ".".join("*" if "{" in token or "$" in token else token for token in dest.split("."))
    if overlap([wanted.subject], [transform.get("src") or ">"]) and not overlap([wanted.subject], [stored]):
        raise ConfigurationError(
            f"the stream {stream['config']['name']!r} stores {wanted.subject!r} under another subject (subject_transform to "
            f"{dest!r}), so that a consumer of {wanted.subject!r} would get nothing; declare Stream(…, subject=…) with the "
            "subject that is stored"
        )


def _work_queue(stream: str, durable: str, other: str) -> ConfigurationError:
    return ConfigurationError(
        f"the stream {stream!r} is a work queue, where each message has one reader: {other} reads the subject already, so "
        f"{durable!r} cannot. Use one handler, or a stream with limits retention."
    )


async def _guard(api: Api, stream: Json, wanted: Wanted) -> None:
    """Look at the consumers that are there before another is created beside them."""
    name = stream["config"]["name"]
    work_queue = stream["config"].get("retention") == "workqueue"
    history = stream["state"]["last_seq"] > 0
    if not (history or work_queue):
        return
    expected = {f"{wanted.app}__{handler}" for handler in wanted.handlers}
    async for info in api.pages(f"CONSUMER.LIST.{name}", "consumers"):
        other = info["name"]
        if other == wanted.durable:
            continue  # another replica has just created it
        if work_queue and overlap(_filters(info["config"]), [wanted.subject] if wanted.subject else []):
            raise _work_queue(name, wanted.durable, f"consumer {other!r}")
        renamed = other.startswith(f"{wanted.app}__") and other not in expected
        if renamed and history and not wanted.explicit:
            old = other.removeprefix(f"{wanted.app}__")
            new = wanted.durable.removeprefix(f"{wanted.app}__")
            raise RefusedError(
                f"handler {new!r} has no consumer on stream {name!r} yet, but consumer {other!r} belongs to no handler of app "
                f"{wanted.app!r}: was {old!r} renamed? A new consumer would handle the whole history again. Either keep the old "
                f"name with name={old!r}, or, if {old!r} is gone for good, delete its consumer: nats consumer rm {name} {other}"
            )


async def _check(api: Api, stream: str, info: Json, wanted: Wanted) -> Json:
    config = info["config"]
    problems = []
    if config.get("deliver_subject"):
        problems.append("it is a push consumer, a pull consumer is needed")
    if config.get("ack_policy") != "explicit":
        problems.append(f"ack_policy is {config.get('ack_policy')!r}, needed 'explicit'")
    found = sorted(_filters(config))
    asked = [wanted.subject] if wanted.subject else []
    if found != asked and (asked or not wanted.explicit):
        problems.append(
            f"it reads {', '.join(found) or 'every subject'}, declared {', '.join(asked) or 'every subject'}"
        )
    if wanted.ack_wait is not None and config.get("ack_wait") != nanoseconds(wanted.ack_wait):
        problems.append(f"ack_wait is {config.get('ack_wait', 0) / 1e9:g} s, declared {wanted.ack_wait:g} s")
    if config.get("backoff") and wanted.keyed:
        problems.append("it has a backoff list, which delivers again out of order; a keyed handler cannot use it")
    if (config.get("max_deliver") or -1) > 0:
        problems.append(f"max_deliver is {config['max_deliver']}, which would drop events; needed -1")
    pinned = config.get("priority_policy") == "pinned_client"
    if wanted.keyed != pinned and (
        wanted.explicit or (config.get("priority_policy") or "none") not in ("none", "pinned_client")
    ):
        needed = "pinned_client, for order by key" if wanted.keyed else "none, for a handler without key"
        problems.append(f"priority_policy is {config.get('priority_policy') or 'none'}, needed {needed}")
    if problems:
        raise ConfigurationError(
            f"the consumer {wanted.durable!r} of stream {stream!r} does not fit: {'; '.join(problems)}. "
            "Change the declaration or the consumer."
        )
    changed = dict(config)
    if wanted.keyed != pinned:
        changed |= {"priority_groups": [], "priority_policy": "none", "priority_timeout": 0}
        changed |= {k: v for k, v in wanted.config().items() if k.startswith("priority")}
    if 0 <= (config.get("max_ack_pending") or 0) < (wanted.needs if wanted.explicit else wanted.max_ack_pending):
        changed["max_ack_pending"] = wanted.max_ack_pending
    if changed == config:
        return info
    if not wanted.create:
        raise ConfigurationError(
            f"the consumer {wanted.durable!r} of stream {stream!r} allows {config.get('max_ack_pending')} unacknowledged "
            f"messages and this handler needs {wanted.needs}: it would stall. Raise max_ack_pending to {wanted.max_ack_pending}."
        )
    try:
        return await api.create_consumer(stream, changed, action="update")
    except ApiError as error:
        if error.transient:
            raise
        raise ConfigurationError(
            f"the consumer {wanted.durable!r} of stream {stream!r} cannot be changed to what the handler needs "
            f"(max_ack_pending {wanted.max_ack_pending}, {'one owner' if wanted.keyed else 'shared'}): {error.description}"
        ) from error


def _filters(config: Json) -> list[str]:
    one: Any = config.get("filter_subject")
    return [one] if one else list(config.get("filter_subjects") or [])


def overlap(left: list[str], right: list[str]) -> bool:
    """Whether two sets of subject filters can match one message; an empty set matches every one."""
    if not left or not right:
        return True
    return any(_overlap(a.split("."), b.split(".")) for a in left for b in right)


def _overlap(a: list[str], b: list[str]) -> bool:
    for left, right in zip(a, b, strict=False):
        if left == ">" or right == ">":
            return True
        if left != right and "*" not in (left, right):
            return False
    return len(a) == len(b)
