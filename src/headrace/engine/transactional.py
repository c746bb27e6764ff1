"""Attempts of a handler that takes part in a store's transaction.

The attempt is the user's function, then one commit of its writes, its outputs and the mark of its event. An outage of the
store is no failure of the handler: the attempt is not counted, and comes again. The commit is not cut by a deadline or a
drain: whether it happened decides what becomes of the delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.engine.delivery import Outcome
from headrace.engine.failpoints import passing
from headrace.engine.letters import replay_number
from headrace.engine.sink import Publication
from headrace.engine.transactions import Outgoing
from headrace.errors import ConfigurationError, HeadraceError, Reject, StoreUnavailable

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.runner import Runner
    from headrace.engine.transactions import Outbox, Transactions, Unit
    from headrace.event import Event

__all__ = ["ClaimLost", "Committed", "Transactional", "destination_of", "staged"]

_encode = msgspec.msgpack.Encoder().encode


class ClaimLost(StoreUnavailable):
    """The store refused the commit: the claim was somebody else's by then. The ledger says what becomes of the event."""


class Committed(Outcome):
    """An acknowledgement whose mark is in the ledger already."""

    __slots__ = ()


class Transactional:
    """Stands where the handler's function stood. ``destinations`` gives a sink's name in the outbox."""

    def __init__(
        self,
        runner: Runner,
        call: Callable[[Delivery], Any],
        transactions: Transactions,
        outbox: Outbox,
        destinations: Callable[[Any], str],
    ) -> None:
        self._runner = runner
        self._call = call
        self._transactions = transactions
        self._outbox = outbox
        self._destinations = destinations
        self._committed = passing("committed")

    async def __call__(self, delivery: Delivery) -> None:
        handler = self._runner.handler
        unit = await self._transactions.begin(handler.signature.transaction)
        delivery._transaction = unit.parameter
        delivery._staged = []
        try:
            result = await self._call(delivery)
            rows = [_encode(one) for one in await self._outgoing(delivery, result)]
            answer: Event | None = None
            if delivery.answers and result is not None and handler.publishes is None:
                answer = self._runner.outcomes.outputs.answer(delivery, result)
        except BaseException as error:
            await unit.rollback()
            outage = self._transactions.outage(error)
            if outage is not None:
                raise outage from error
            raise
        finally:
            delivery._transaction = None
        await self._commit(delivery, unit, rows, answer)

    async def _outgoing(self, delivery: Delivery, result: Any) -> list[Outgoing]:
        handler = self._runner.handler
        outgoing, delivery._staged = delivery._staged or [], None
        if result is None or handler.publishes is None:
            return outgoing
        try:
            made = await self._runner.outcomes.outputs.made(delivery, result)
        except HeadraceError as error:
            raise error if isinstance(error, Reject) else Reject(f"output: {error}") from error
        destination = self._destinations(handler.publishes)
        return outgoing + [_outgoing(destination, one, delivery) for one in made]

    async def _commit(self, delivery: Delivery, unit: Unit, rows: Sequence[bytes], answer: Event | None) -> None:
        runner = self._runner
        outcomes = runner.outcomes
        identity = delivery._identity if outcomes.ledger is not None else None
        commit = asyncio.ensure_future(unit.commit(runner.handler.name, identity, rows))
        while not commit.done():
            # Neither deadline nor drain ends it: what the store says counts.
            try:
                await asyncio.wait((commit,))
            except asyncio.CancelledError:
                _remain(delivery)
        _remain(delivery)
        if not commit.result():
            raise ClaimLost("the transaction was refused, for its claim was lost; nothing of it was written")
        if self._committed is not None:
            self._committed(1)
        if rows:
            self._outbox.committed()
        if outcomes.store_trouble:
            outcomes.store_trouble = ""
        delivery._outcome = Committed("ack", result=answer)


def staged(destination: str, publication: Publication, parent: Delivery) -> None:
    """An event that a transactional handler publishes by a call: it leaves with the commit.

    Raises `HeadraceError` where the handler has returned already.
    """
    if parent._staged is None:
        raise HeadraceError(
            f"handler {parent._runner.handler.name!r} published after its transaction had ended; await every publish "
            "inside the handler"
        )
    parent._staged.append(_outgoing(destination, publication, parent))


def destination_of(destination: Any, sinks: dict[str, Any]) -> str:
    """How the outbox names a channel, or a sink that a handler publishes to (``sinks`` by handler).

    Raises `ConfigurationError` for another sink: after a restart nobody could tell what it was.
    """
    if isinstance(destination, str):
        return f"channel:{destination}"
    for handler, sink in sinks.items():
        if sink is destination or sink == destination:
            return f"handler:{handler}"
    raise ConfigurationError(
        f"a transactional handler cannot publish to {destination!r}: after a restart the outbox could not tell what it is; "
        "publish to a channel name, or to the sink in some handler's publishes="
    )


def _outgoing(destination: str, publication: Publication, parent: Delivery) -> Outgoing:
    event, key = publication.event, publication.key
    if key is None:
        found = event._attributes.get("partitionkey")
        key = found if isinstance(found, str) else None
    # Without a key of its own an event stays in the order of the events that it derives from.
    lane = key if key is not None else parent._lane
    named = "" if lane is None else f"{'key' if key is not None else 'lane'} {lane}"
    return Outgoing(destination, publication.key, named, replay_number(parent), event.to_json())


def _remain(delivery: Delivery) -> None:
    """Take a cancellation back: the commit decides."""
    task = asyncio.current_task()
    while delivery._cancel is not None and task is not None and task.cancelling():
        task.uncancel()
    delivery._cancel = None
