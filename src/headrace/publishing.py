"""What `App.publish` does once the app has a connection.

It stands apart from the app, so that declaring one imports no engine; and it is short, for a program that publishes much
spends its time here: a sink that can take one event at once (`begin`) is asked first, and only its confirmation is awaited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.engine.context import current
from headrace.engine.letters import replay_number
from headrace.engine.outputs import make_event
from headrace.engine.sink import Publication, Published
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.engine.sink import SinkDeclaration
    from headrace.worker import Worker

__all__ = ["publish"]


async def publish(
    worker: Worker,
    app: str,
    destination: str | SinkDeclaration,
    value: Any,
    *,
    type: str | None,
    key: str | None,
    given: dict[str, Any],
) -> Published:
    """See `App.publish`; ``given`` holds the attributes that the caller spelled."""
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
            from headrace.engine.transactional import staged

            staged(worker.outbox_name(destination), publication, parent)
            return Published(position="outbox")
    sink = worker.sinks.get(destination)
    if sink is None:
        sink = await worker.sink(destination)
    assert worker.runtime is not None
    result = await worker.runtime.publish_one(sink, publication)
    if isinstance(result, Published):
        return result
    raise (result if isinstance(result, HeadraceError) else HeadraceError(f"publishing to {destination}: {result}"))
