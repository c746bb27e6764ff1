"""Finds or creates streams: for channels as DESIGN.md names them, for explicit `Stream`s as they are declared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from headrace.errors import ConfigurationError
from headrace.nats.api import STREAM_NAME_IN_USE, STREAM_NOT_FOUND, SUBJECTS_OVERLAP, ApiError, nanoseconds
from headrace.nats.message import Incarnation
from headrace.nats.requests import NoResponders

if TYPE_CHECKING:
    from headrace.nats.api import Api, Json
    from headrace.nats.declarations import Stream

__all__ = ["DUPLICATE_WINDOW", "channel_stream", "declared_stream", "incarnation", "stream_defaults"]

#: The first token of the subjects that the runtime uses itself.
OURS: Final = "headrace"
#: Seconds within which streams of ours recognise a repeated publish.
DUPLICATE_WINDOW: Final = 600.0
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def incarnation(info: Json) -> Incarnation:
    """Which stream this is: its name and when it was created."""
    return Incarnation(info["config"]["name"], info["created"])


def stream_defaults(settings: Mapping[str, str]) -> Json:
    """What streams that we create have beside name and subjects, from the `stream_…` settings.

    Raises:
        ConfigurationError: a setting is no number of its kind.
    """
    return {
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
        "max_age": nanoseconds(_seconds(settings, "stream_max_age")),
        "max_bytes": _number(settings, "stream_max_bytes", -1),
        "num_replicas": _number(settings, "stream_replicas", 1),
        "max_msgs": -1,
        "allow_direct": True,
    }


async def channel_stream(api: Api, subject: str, settings: Mapping[str, str], *, create: bool = True) -> Json:
    """The stream of a channel: the one that captures the subject already, else one named after its first token, else, where
    that would overlap another, one for the exact subject. Channels of ours (``headrace.…``) always have streams of their
    own: a wide one would take the subjects of dead letters and replays.

    Raises:
        ConfigurationError: there is none and none may be created, or JetStream refuses.
    """
    for _ in range(3):
        found = await api.stream_of(subject)
        if found is not None:
            info = await api.stream(found)
            if info is not None:
                return info
            continue
        if not create:
            raise ConfigurationError(
                f"no stream captures the subject {subject!r}, and none may be created here; create one that does"
            )
        first = subject.partition(".")[0]
        wide: Json = {"name": _UNSAFE.sub("_", first), "subjects": [first, f"{first}.>"]}
        exact: Json = {"name": _UNSAFE.sub("_", subject), "subjects": [subject]}
        for config in (exact,) if first == OURS else (wide, exact):
            try:
                return await api.call(f"STREAM.CREATE.{config['name']}", {**stream_defaults(settings), **config})
            except ApiError as error:
                if error.transient:
                    raise
                if error.err_code not in (SUBJECTS_OVERLAP, STREAM_NAME_IN_USE):
                    raise _refused(config["name"], error) from error
        # Somebody may have created it between the question and our attempt: look again.
    raise ConfigurationError(
        f"no stream captures {subject!r}, and neither stream {wide['name']!r} nor {exact['name']!r} can be created for it: "
        "the names or the subjects are taken by other streams. Create a stream that captures it."
    )


async def declared_stream(api: Api, declared: Stream, settings: Mapping[str, str]) -> Json:
    """The stream of an explicit declaration, created where allowed.

    Raises:
        ConfigurationError: it is missing and may not be created, or it differs from what is declared.
    """
    info = await api.stream(declared.stream)
    if info is None:
        if not declared.create:
            raise ConfigurationError(f"the stream {declared.stream!r} does not exist and create=False")
        subjects = declared.subjects or ((declared.subject,) if declared.subject else ())
        if not subjects:
            raise ConfigurationError(
                f"the stream {declared.stream!r} does not exist; to create it, Stream needs subject= or subjects="
            )
        config = {**stream_defaults(settings), **_wanted(declared), "name": declared.stream, "subjects": list(subjects)}
        try:
            return await api.call(f"STREAM.CREATE.{declared.stream}", config)
        except ApiError as error:
            if error.transient:
                raise
            info = await api.stream(declared.stream) if error.err_code == STREAM_NAME_IN_USE else None
            if info is None:
                raise _refused(declared.stream, error) from error
    differ = differences(declared, info)
    if differ:
        raise ConfigurationError(
            f"the stream {declared.stream!r} differs from its declaration: {'; '.join(differ)}. Change one of them."
        )
    return info


def differences(declared: Stream, info: Json) -> list[str]:
    """What is declared and is otherwise at the stream that was found, each in words."""
    found, wanted = info["config"], _wanted(declared)
    if declared.subjects is not None:
        wanted["subjects"] = sorted(declared.subjects)
        found = {**found, "subjects": sorted(found.get("subjects") or [])}
    differ = [
        f"{name} is {found.get(name)!r}, declared {value!r}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    captured = found.get("subjects") or []
    if declared.subject is not None and captured and not any(overlap(declared.subject, one) for one in captured):
        differ.append(
            f"it captures {', '.join(map(repr, captured))}, nothing of the declared subject {declared.subject!r}"
        )
    return differ


def overlap(one: str, other: str) -> bool:
    """Whether a subject can match both of two patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


def _wanted(declared: Stream) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if declared.storage is not None:
        wanted["storage"] = declared.storage
    if declared.replicas is not None:
        wanted["num_replicas"] = declared.replicas
    if declared.max_age is not None:
        wanted["max_age"] = nanoseconds(declared.max_age)
    if declared.max_bytes is not None:
        wanted["max_bytes"] = declared.max_bytes or -1
    return wanted


async def own_stream(api: Api, config: Json) -> Json:
    """A stream of Headrace's own (dead letters, replays), created where it is missing and otherwise taken as found."""
    name = config["name"]
    info = await api.stream(name)
    if info is None:
        try:
            return await api.call(f"STREAM.CREATE.{name}", config)
        except ApiError as error:
            if error.transient:
                raise
            info = await api.stream(name) if error.err_code == STREAM_NAME_IN_USE else None
            if info is None:
                raise _refused(name, error) from error
    return info


def _refused(name: str, error: ApiError) -> ConfigurationError:
    return ConfigurationError(f"JetStream does not create the stream {name!r}: {error.description}")


def missing(error: Exception) -> bool:
    """Whether an error says that a stream or consumer is not there."""
    return isinstance(error, NoResponders) or (isinstance(error, ApiError) and error.err_code == STREAM_NOT_FOUND)


def _number(settings: Mapping[str, str], name: str, default: int) -> int:
    text = settings.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise ConfigurationError(f"nats_{name} is {text!r}, which is no whole number") from None


def _seconds(settings: Mapping[str, str], name: str) -> float:
    text = settings.get(name, "").strip()
    if not text:
        return 0.0
    unit = _SECONDS.get(text[-1].lower())
    try:
        return float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise ConfigurationError(f"nats_{name} is {text!r}; it takes seconds, or a number with s, m, h or d") from None
