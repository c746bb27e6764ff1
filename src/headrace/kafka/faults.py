"""What librdkafka's errors mean for us: waiting may mend it, nothing will, or the credentials are wrong.

librdkafka reports by code, and a refused login comes as a lost transport from the call: the true code reaches only the
error callback. Everything that turns a code into one of our errors is here.
"""

from __future__ import annotations

import re
from typing import Any, Final

from headrace.errors import ConfigurationError, ConnectionFailed, HeadraceError, PublishFailed, RefusedError

__all__ = [
    "code_of",
    "fatal_for_consumer",
    "is_answer",
    "is_authentication",
    "is_fatal",
    "is_missing_topic",
    "is_refused_certificate",
    "is_unreleased",
    "publish_failed",
    "refused_configuration",
    "text_of",
]

# Codes by number, so that this module needs no client at import; negative ones are librdkafka's own.
_AUTHENTICATION: Final = frozenset({-169, 58})  # _AUTHENTICATION, SASL_AUTHENTICATION_FAILED
_UNSUPPORTED_MECHANISM: Final = 33
_FATAL: Final = -150
_FENCED_INSTANCE: Final = 82
_UNRELEASED_INSTANCE: Final = 111
_UNKNOWN_TOPIC: Final = frozenset({3, -188, 100})  # UNKNOWN_TOPIC_OR_PART, _UNKNOWN_TOPIC, UNKNOWN_TOPIC_ID
_UNKNOWN_PARTITION: Final = -190
_TOPIC_DENIED: Final = 29
_GROUP_DENIED: Final = 30
_CLUSTER_DENIED: Final = 31
_TOO_LARGE: Final = frozenset({10, 18})  # MSG_SIZE_TOO_LARGE, RECORD_LIST_TOO_LARGE
_REFUSED_RECORD: Final = frozenset({2, 32, 44, 87, 17})  # corrupt, bad timestamp, policy, INVALID_RECORD, bad topic
#: Only OpenSSL's words tell a certificate that one side does not accept from a handshake that broke off: ours of the broker's,
#: or the broker's alert about ours (RFC 8446, section 6.2: bad, unsupported, revoked, expired, unknown, of an unknown
#: authority, required).
_CERTIFICATE: Final = re.compile(r"certificate verify failed|alert number (4[2-6]|48|116)\b")
_UNSUPPORTED_PROTOCOL: Final = frozenset({35, 23})  # UNSUPPORTED_VERSION, INCONSISTENT_GROUP_PROTOCOL


def code_of(error: Any) -> int:
    """The code of a `KafkaError`, or of the one inside a `KafkaException`."""
    inner = error.args[0] if isinstance(error, Exception) and error.args else error
    code = getattr(inner, "code", None)
    return int(code()) if callable(code) else 0


def text_of(error: Any) -> str:
    """librdkafka's text and the name of the code."""
    inner = error.args[0] if isinstance(error, Exception) and error.args else error
    name = getattr(inner, "name", None)
    if callable(name):
        return f"{inner.str()} ({name()})"
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)


def is_authentication(error: Any) -> bool:
    """The server refused who we are; no waiting mends it."""
    code = code_of(error)
    return code in _AUTHENTICATION or code == _UNSUPPORTED_MECHANISM


def is_refused_certificate(error: Any) -> bool:
    """A side does not accept the other's certificate; at a start no waiting mends it."""
    return _CERTIFICATE.search(text_of(error)) is not None


def refused_configuration(where: str, error: Any) -> ConfigurationError | ConnectionFailed:
    """librdkafka makes no client of these options, or got no token for it."""
    if is_authentication(error):
        return ConnectionFailed(f"{where}: there are no credentials: {text_of(error)}")
    return ConfigurationError(f"{where}: librdkafka refuses the configuration: {text_of(error)}")


def is_answer(error: Any) -> bool:
    """A broker said so; else the client did, which had no answer."""
    return code_of(error) > 0


def is_missing_topic(error: Any) -> bool:
    """The topic (or its partition) does not exist at this moment."""
    return code_of(error) in _UNKNOWN_TOPIC or code_of(error) == _UNKNOWN_PARTITION


def is_fatal(error: Any) -> bool:
    """The client cannot go on. A poll and a commit report that by the code alone, the error callback by a flag."""
    inner = error.args[0] if isinstance(error, Exception) and error.args else error
    flag = getattr(inner, "fatal", None)
    return code_of(error) == _FATAL or (callable(flag) and bool(flag()))


def is_unreleased(error: Any) -> bool:
    """The group holds a member with this ``group.instance.id``: a dead one until its session ends, or one that lives."""
    return _cause(code_of(error), text_of(error)) == _UNRELEASED_INSTANCE


def _cause(code: int, text: str) -> int:
    """What is behind ``_FATAL``: the client tells it in words only, those that it has for each code."""
    if code != _FATAL:
        return code
    from confluent_kafka import KafkaError

    causes = (_FENCED_INSTANCE, _UNRELEASED_INSTANCE, _TOPIC_DENIED, _GROUP_DENIED, *_UNSUPPORTED_PROTOCOL)
    return next((cause for cause in causes if KafkaError(cause).str() in text), code)


def fatal_for_consumer(error: Any, *, where: str, group: str) -> HeadraceError | None:
    """The error that ends a source, naming the remedy; ``None`` for what the source waits out or rebuilds from."""
    code, text = _cause(code_of(error), text_of(error)), text_of(error)
    if code in _AUTHENTICATION or code == _UNSUPPORTED_MECHANISM:
        return ConnectionFailed(f"{where}: the Kafka broker refused the credentials: {text}")
    if code == _FENCED_INSTANCE:
        return RefusedError(
            f"{where}: another process has joined group {group} with the same group.instance.id; give each replica "
            f"one of its own (HEADRACE_KAFKA_GROUP_INSTANCE_ID): {text}"
        )
    if code == _TOPIC_DENIED:
        return ConnectionFailed(f"{where}: this user may not read the topic: grant Read and Describe on it: {text}")
    if code == _GROUP_DENIED:
        return ConnectionFailed(f"{where}: this user may not use the consumer group {group}: grant Read on it: {text}")
    if code in _UNSUPPORTED_PROTOCOL:
        return ConfigurationError(
            f"{where}: group {group} cannot be joined with this group.protocol or partition.assignment.strategy; "
            f"members of one group need one that they share, and group.protocol=consumer needs Apache Kafka 4: {text}"
        )
    return None


def publish_failed(error: Any, topic: str, size: int | None = None) -> PublishFailed:
    """One record that was not confirmed, as the engine's error."""
    code, text = code_of(error), text_of(error)
    about = "" if size is None else f" (a value of {size} bytes)"
    if code in _TOO_LARGE:
        return PublishFailed(
            f"topic {topic} does not take the event{about}: raise the topic's max.message.bytes or send less: {text}",
            transient=False,
        )
    if code in (_TOPIC_DENIED, _CLUSTER_DENIED):
        return PublishFailed(f"this user may not write to topic {topic}: grant Write on it: {text}", transient=False)
    if code in _REFUSED_RECORD:
        return PublishFailed(f"topic {topic} refused the event{about}: {text}", transient=False)
    if is_authentication(error):
        return PublishFailed(f"the Kafka broker refused the credentials: {text}", transient=True)
    return PublishFailed(f"topic {topic} did not confirm the event: {text}", transient=True)
