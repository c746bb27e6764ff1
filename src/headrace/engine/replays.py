"""What is done to dead letters: replayed, dropped, edited, imported, each step compare-and-set and audited.

dead → replaying → replayed: a crash between the two leaves ``replaying``, and the replay may be asked for again, since its
event has the same id and replay number each time (the broker and the ledger know it). So a run over many letters may be
cancelled or killed anywhere, and a second run takes up what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from headrace.engine.broker import Broker
from headrace.engine.dead_letters import Action, DeadLetter, DeadLetterStore, Stored
from headrace.errors import HeadraceError, encodable

__all__ = ["TAKEN", "UNFINISHED", "Chosen", "act_on_all", "audited", "drop_letter", "import_letter", "replay_letter"]

#: The states that a letter is in until somebody decides about it.
UNFINISHED = ("dead", "replaying")
#: Letters that are worked on at once; letters of one key follow each other.
AT_ONCE = 64

#: In the audit of a letter that is replayed without a broker: the app's worker has it.
TAKEN = "taken"
#: Seconds in which it does.
TAKEN_WITHIN = 10.0

_CHANGED = "somebody else has changed it meanwhile; look at it again"


def audited(
    letter: DeadLetter, action: str, *, by: str, reason: str = "", detail: str = "", **changes: Any
) -> DeadLetter:
    """A copy of the letter with these changes, and the action in its audit."""
    return msgspec.structs.replace(
        letter, **changes, audit=[*letter.audit, Action(time.time(), action, encodable(by), encodable(reason), detail)]
    )


async def replay_letter(
    store: DeadLetterStore, broker: Broker | None, stored: Stored, *, by: str, reason: str = ""
) -> str:
    """Replay one letter through its handler's replay channel; without a broker that is the store itself, where one worker
    owns it and looks into it (`headrace.engine.stored_replays`). Returns why it was not done, or an empty text."""
    letter = stored.letter
    if broker is None and not hasattr(store, "replaying"):
        return "replay needs the app's broker: set HEADRACE_BROKER"
    if letter.state not in UNFINISHED:
        return f"it is {letter.state} already"
    if not await store.update(audited(letter, "replaying", by=by, reason=reason, state="replaying"), stored.revision):
        return _CHANGED
    try:
        if broker is None:
            letter.replayed()
            await _taken(store, letter.id)
            return ""
        await broker.replay(letter)
    except HeadraceError as error:
        current = await store.get(letter.id)
        if current is not None and current.letter.state == "replaying":
            failed = audited(current.letter, "dead", by=by, reason=f"replay failed: {error}", state="dead")
            await store.update(failed, current.revision)
        return str(error)
    current = await store.get(letter.id)
    if current is not None and current.letter.state == "replaying":
        await store.update(
            audited(current.letter, "replayed", by=by, reason=reason, state="replayed"), current.revision
        )
    return ""


async def _taken(store: DeadLetterStore, id: str) -> None:
    """Wait until the app's worker has taken the letter. Raises `HeadraceError` where none does."""
    loop = asyncio.get_running_loop()
    end = loop.time() + TAKEN_WITHIN
    while True:
        current = await store.get(id)
        if current is None or current.letter.state != "replaying" or current.letter.audit[-1].action == TAKEN:
            return
        if loop.time() > end:
            raise HeadraceError(
                f"no worker took it within {TAKEN_WITHIN:g} s: an app without a broker has to run for a replay, in the same "
                "folder or with the same store; one with a broker needs HEADRACE_BROKER here"
            )
        await asyncio.sleep(0.1)


async def drop_letter(store: DeadLetterStore, stored: Stored, *, by: str, reason: str = "") -> str:
    """Give one letter up. Returns why it was not done, or an empty text."""
    if stored.letter.state not in UNFINISHED:
        return f"it is {stored.letter.state} already"
    dropped = audited(stored.letter, "dropped", by=by, reason=reason, state="dropped")
    return "" if await store.update(dropped, stored.revision) else _CHANGED


async def import_letter(store: DeadLetterStore, letter: DeadLetter, *, by: str, reason: str = "") -> str:
    """Store a letter that was exported elsewhere, as it was then; one whose replay was under way is dead again.

    Returns why it was not done, or an empty text.
    """
    if await store.get(letter.id) is not None:
        return "a letter with this id is there already; it is left as it is"
    state = "dead" if letter.state == "replaying" else letter.state
    (problem,) = await store.put([audited(letter, "imported", by=by, reason=reason, state=state)])
    return "" if problem is None else str(problem)


class Chosen(NamedTuple):
    """A letter that was chosen, without its event: what a run over many keeps of each. They sort by when their last
    attempt failed (``at``, seconds since the epoch), which is the order in which they should come again."""

    at: float
    id: str
    handler: str
    key: str | None


async def act_on_all(
    store: DeadLetterStore,
    chosen: Iterable[Chosen],
    act: Callable[[Stored], Awaitable[str]],
    *,
    report: Callable[[Chosen, str], None],
    stop: asyncio.Event,
    rate: float | None = None,
) -> None:
    """Act on many letters, some at once; those of one key in their order, each after the one before it is done.

    Parameters:
        act: does it to one letter and returns why it was not done, or an empty text.
        report: called for each letter that was tried, with that text.
        stop: when it is set nothing more is begun; what was begun is finished before this returns.
        rate: letters begun a second, at most.

    Raises `HeadraceError` where the store or the broker fails, after what was begun has ended.
    """
    running: set[asyncio.Task[None]] = set()
    last: dict[tuple[str, str], asyncio.Task[None]] = {}
    failures: list[HeadraceError] = []

    async def one(letter: Chosen, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        if failures:
            return
        try:
            stored = await store.get(letter.id)
            problem = "it is gone" if stored is None else await act(stored)
        except HeadraceError as error:
            failures.append(error)
            stop.set()
            return
        report(letter, problem)

    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number, letter in enumerate(chosen):
        if rate is not None:
            await _until(stop, begun + number / rate)
        while len(running) >= AT_ONCE:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            break
        lane = None if letter.key is None else (letter.handler, letter.key)
        task = loop.create_task(one(letter, None if lane is None else last.get(lane)))
        running.add(task)
        task.add_done_callback(running.discard)
        if lane is not None:
            last[lane] = task
    if running:
        await asyncio.wait(running)
    if failures:
        raise failures[0]


async def _until(stop: asyncio.Event, due: float) -> None:
    """Wait for a time of the loop, or for the stop."""
    waiting = due - asyncio.get_running_loop().time()
    if waiting > 0:
        try:
            async with asyncio.timeout(waiting):
                await stop.wait()
        except TimeoutError:
            return
