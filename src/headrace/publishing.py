"""What `App.publish` does once the app has a connection.

It stands apart from the app, so that declaring one imports no engine; and it is short, for a program that publishes much
spends its time here. A sink that can take one event at once (`begin`) is asked first, by plain calls: while thousands of
publishers wait for their confirmations, nothing of their events is held but what the client holds.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from headrace.engine.context import current
from headrace.engine.letters import replay_number
from headrace.engine.outputs import make_event
from headrace.engine.sink import Publication, Published
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.engine.delivery import Delivery
    from headrace.engine.sink import SinkDeclaration
    from headrace.worker import Worker

__all__ = ["publish"]


def publish(
    worker: Worker,
    app: str,
    destination: str | SinkDeclaration,
    value: Any,
    *,
    type: str | None,
    key: str | None,
    given: dict[str, Any],
) -> Awaitable[Published | Exception]:
    """See `App.publish`; ``given`` holds the attributes that the caller spelled. What is awaited is the confirmation, or why
    there is none.

    Raises:
        TypeError: ``key`` is no text. ValueError: it is empty, which the `partitionkey` extension may not be.
    """
    if key is not None and not (isinstance(key, str) and key):
        if key == "":
            raise ValueError('publish(key=""): a key is not empty; leave it out for an event without one')
        raise TypeError(f"publish(key={key!r}): a key is text, this is {key.__class__.__name__}")
    type = type or (destination if isinstance(destination, str) else destination.name)
    parent = current.get(None)
    if parent is None or parent._runner is None:
        event = make_event(value, app=app, handler="", type=type, position=0, parent=None, given=given)
        publication = Publication(event, key)
    else:
        parent._calls += 1
        event = make_event(
            value,
            app=app,
            handler=parent._runner.handler.name,
            type=type,
            position=f"call {parent._calls - 1}",
            parent=parent,
            given=given,
        )
        publication = Publication(event, key, replay_number(parent))
        if parent._runner.handler.signature.transaction is not None:
            return _stage(worker, destination, publication, parent)
    sink = worker.sinks.get(destination)
    if sink is not None and worker.runtime is not None:
        confirmation = worker.runtime.begin(sink, publication)
        if confirmation is not None:
            return confirmation
    return _publish(worker, destination, publication)


async def _stage(worker: Worker, destination: Any, publication: Publication, parent: Delivery) -> Published:
    from headrace.engine.transactional import staged

    staged(worker.outbox_name(destination), publication, parent)
    return Published(position="outbox")


async def _publish(worker: Worker, destination: Any, publication: Publication) -> Published | Exception:
    await worker.sink(destination)
    assert worker.runtime is not None
    (result,) = await worker.runtime.publish(destination, [publication])
    if isinstance(result, (Published, HeadraceError)):
        return result
    return HeadraceError(f"publishing to {destination}: {result}")
