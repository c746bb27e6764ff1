"""What a handler returns becomes events, is published and confirmed before its delivery is acknowledged.

Ids are derived from the parent, so that a repeated attempt publishes the same ids: a hash of (parent source, parent id,
handler, position, replay number).
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headrace.cloudevents.extensions import HOP_COUNT, derived_from, hop_count
from headrace.engine.failpoints import passing
from headrace.engine.letters import replay_number
from headrace.engine.sink import Publication, Published
from headrace.engine.unconfirmed import Attempt, Unconfirmed
from headrace.errors import HeadraceError, InvalidEvent, PublishFailed, Reject, words
from headrace.event import Event

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.outcomes import Outcomes

__all__ = ["HOP_LIMIT", "Outputs", "derived_id", "make_event"]

log = logging.getLogger("headrace.engine")

#: Events that derive from one another in a row; more is a loop.
HOP_LIMIT = 64


def derived_id(parent: Event, handler: str, position: int | str, replay: int) -> str:
    """The id of an output: 32 hexadecimal digits."""
    parts = "\0".join((parent.source, parent.id, handler, str(position), str(replay)))
    return hashlib.blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def make_event(
    value: Any,
    *,
    app: str,
    handler: str,
    type: str,
    position: int | str,
    parent: Delivery | None,
    given: dict[str, Any],
) -> Event:
    """A value or an `Event` as the event that is published.

    An `Event` keeps its type, source and given id; the defaults are for plain data. ``given`` holds attributes that the
    caller spelled. Raises `InvalidEvent` for data that cannot be encoded, `Reject` for a loop of events.
    """
    if parent is None and not given and not isinstance(value, Event):
        event = Event(type, f"/{app}/{handler}" if handler else f"/{app}", value)
        _ = event.raw  # as below
        return event
    origin = None if parent is None else parent.event
    derived: dict[str, Any] = {}
    if origin is not None and parent is not None:
        try:
            derived.update(derived_from(origin))
        except InvalidEvent:
            # A hop count of somebody else's: ours begins here.
            derived.update(derived_from(origin.replace(**{HOP_COUNT: None})))
        if derived[HOP_COUNT] > HOP_LIMIT:
            raise Reject(f"events derive from one another more than {HOP_LIMIT} times: a loop of handlers")
    if isinstance(value, Event):
        event = value.replace(**given) if given else value
        if origin is None or parent is None or (event.id == origin.id and event.source == origin.source):
            # The event at hand, passed on: it derives from nothing, and each handler takes it once.
            return event
        added: dict[str, Any] = {}
        for name, derivation in derived.items():
            own = event.get(name)
            # What a copy of the event at hand (`replace`) brought along was said of that event.
            if name not in given and (own is None or own == origin.get(name)):
                added[name] = derivation
        if HOP_COUNT not in added and HOP_COUNT not in given:
            added[HOP_COUNT] = _further(event, derived[HOP_COUNT])
        if event._made_id:
            added["id"] = derived_id(origin, handler, position, replay_number(parent))
        return event.replace(**added)
    if origin is not None and parent is not None:
        derived.setdefault("id", derived_id(origin, handler, position, replay_number(parent)))
        if "traceparent" in origin:
            derived["traceparent"] = origin["traceparent"]
            if "tracestate" in origin:
                derived["tracestate"] = origin["tracestate"]
    attributes: dict[str, Any] = {
        "type": type,
        "source": f"/{app}/{handler}" if handler else f"/{app}",
        **derived,
        **given,
    }
    event = Event(data=value, **attributes)
    _ = event.raw  # encoded here, where an error has a name, and not in the sink
    return event


def _further(event: Event, hops: int) -> int:
    """The larger hop count: an event that brings its own does not set back that of the row it stands in."""
    try:
        return max(hop_count(event), hops)
    except InvalidEvent:
        return hops


class Outputs:
    """The output side of one handler. ``unconfirmed``: what its sink has not taken yet."""

    __slots__ = ("_outcomes", "_published", "unconfirmed")

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._published = passing("published")
        self.unconfirmed = Unconfirmed(outcomes, self._again, self._confirmed)

    def answer(self, delivery: Delivery, result: Any) -> Event:
        """The returned value as the event that answers the sender."""
        handler = self._outcomes.handler
        return make_event(
            result,
            app=handler.app,
            handler=handler.name,
            type=f"{handler.app}.{handler.name}",
            position=0,
            parent=delivery,
            given={},
        )

    async def process(self, batch: list[tuple[Delivery, Any]]) -> None:
        """Publish the outputs of a batch; each delivery goes on when all of its own are confirmed, and none waits for another's."""
        outcomes = self._outcomes
        owners: list[Delivery] = []
        publications: list[Publication] = []
        ready: list[Delivery] = []
        for delivery, result in batch:
            if delivery.voided is not None:
                outcomes.voided(delivery)
                continue
            try:
                made = await self.made(delivery, result)
            except HeadraceError as error:
                refusal = error if isinstance(error, Reject) else Reject(f"output: {error}")
                outcomes.failures.failed(delivery, refusal)
                continue
            ready.append(delivery)
            owners.extend([delivery] * len(made))
            publications.extend(made)
        await self._attempt(list(zip(owners, publications, strict=True)), ready)

    async def _again(self, attempt: Attempt) -> None:
        await self._attempt(attempt, list(dict.fromkeys(owner for owner, _ in attempt)))

    async def _attempt(self, attempt: Attempt, ready: list[Delivery]) -> None:
        """Publish once. Of ``ready``, the deliveries whose outputs these are, those go on of which nothing is left; what the sink
        did not take now is asked about again."""
        outcomes = self._outcomes
        handler = outcomes.handler
        results: Sequence[Published | Exception] = ()
        if attempt:
            origins = [owner._span for owner, _ in attempt]
            publications = [publication for _, publication in attempt]
            results = await outcomes.runner.runtime.publish(handler.publishes, publications, origins)
        failed: set[Delivery] = set()
        again: dict[Delivery, list[Publication]] = {}
        asked: dict[Delivery, float] = {}
        for (owner, publication), published in zip(attempt, results, strict=True):
            if isinstance(published, Published):
                continue
            if isinstance(published, PublishFailed) and published.transient:
                again.setdefault(owner, []).append(publication)
                asked[owner] = max(asked.get(owner, 0.0), published.retry_after or 0.0)
                if not outcomes.sink_trouble:
                    log.warning("handler %s waits for its sink: %s", handler.name, published)
                outcomes.sink_trouble = f"handler {handler.name!r} waits for its sink: {published}"
            elif owner not in failed:
                failed.add(owner)
                outcomes.failures.failed(owner, Reject(f"output refused: {published}"))
        # What is confirmed does not wait for what is not.
        self._confirmed([one for one in ready if one not in failed and (one not in again or one.voided is not None)])
        for owner, left in again.items():
            if owner not in failed and owner.voided is None:
                self.unconfirmed.add(owner, left, asked[owner])

    def _confirmed(self, deliveries: list[Delivery]) -> None:
        """All outputs of these are out, or they were lost."""
        outcomes = self._outcomes
        if self._published is not None and deliveries:
            self._published(len(deliveries))
        for delivery in deliveries:
            if delivery.voided is not None:
                outcomes.voided(delivery)
            else:
                outcomes.complete(delivery)

    async def made(self, delivery: Delivery, result: Any) -> list[Publication]:
        """A result as what is to be published. Raises a `HeadraceError` where it cannot be."""
        find_key = self._outcomes.handler.publish_key
        replay = replay_number(delivery)
        return [
            Publication(event, None if find_key is None else find_key(event, event.data), replay)
            for event in await self._events(delivery, result)
        ]

    async def _events(self, delivery: Delivery, result: Any) -> list[Event]:
        if hasattr(result, "__aiter__"):
            result = [value async for value in result]
        values = result if isinstance(result, list) or inspect.isgenerator(result) else (result,)
        handler = self._outcomes.handler
        try:
            return [
                make_event(
                    value,
                    app=handler.app,
                    handler=handler.name,
                    type=handler.publish_type,
                    position=position,
                    parent=delivery,
                    given={},
                )
                for position, value in enumerate(values)
                if value is not None
            ]
        except HeadraceError:
            raise
        except Exception as error:
            raise InvalidEvent(f"an output cannot be made: {type(error).__name__}: {words(error)}") from error
