"""A handler's effective policy in words, for ``headrace check`` and ``headrace handlers show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.engine.handler import Handler

__all__ = ["ownership", "policy"]

_ENDS = {"dead_letter": "is dead-lettered", "drop": "is dropped", "stop": "stops the app"}


def policy(handler: Handler, source: str, *, lane: str = "", answers: bool = False) -> str:
    """What the runtime will do with this handler's events, in one sentence.

    Args:
        handler: whose.
        source: what it reads.
        lane: what names the lanes of this source where the user names no key.
        answers: its senders wait, and are told how the one attempt ended (a receiver in sync mode).
    """
    retry = handler.retry
    if handler.keyed:
        lane = "key"
    order = f"in order per {lane}" if lane else "in no order"
    words = [
        f"handler {handler.name}: reads {source}, {order}, up to {handler.concurrency} at once, "
        f"{handler.timeout:g} s an attempt, {'one attempt' if answers else f'{retry.attempts} attempts'}"
    ]
    if answers:
        words.append(
            "its sender hears how the attempt ended and keeps what failed; nothing is held or dead-lettered here"
        )
    elif retry.attempts > 1:
        wait = "its lane waits" if lane and retry.order != "release" else "others pass it"
        words.append(f"while an event waits for a retry, {wait}")
    if not answers:
        words.append(f"what still fails {_ENDS[retry.on_exhausted]}")
    words.append("finished events are recognised" if handler.idempotent else "repeats are handled again")
    if handler.ack_first:
        words.append("acknowledged BEFORE it runs: at most once, a crash loses the event")
    if handler.publishes is not None:
        words.append(f"publishes to {handler.publish_type}")
    return "; ".join(words)


def ownership(owner: bool | None, owned_by: str = "") -> str:
    """What a source's `Progress.owner` and ``owned_by`` mean."""
    if owner is None:
        return "shared by all replicas"
    return "owned by this process" if owner else f"standing by, {owned_by or 'another process'} owns it"
