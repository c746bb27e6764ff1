"""Ten thousand objects on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pytest

from headrace.event import Event
from headrace.kubernetes import Watch
from tests.kubernetes.actor import Actor
from tests.kubernetes.watching import Watching
from tests.servers.apiserver import ApiServer

PODS, CHANGES = 10_000, 1_000


async def each(numbers: Iterable[int], act: Callable[[int], Awaitable[object]]) -> None:
    """Do it for every number, some at a time."""
    left = iter(numbers)

    async def one_after_another() -> None:
        for number in left:
            await act(number)

    await asyncio.gather(*(one_after_another() for _ in range(16)))


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_ten_thousand_pods_are_listed_streamed_and_in_pages_and_followed(
    private: ApiServer, owner: Actor
) -> None:
    await each(range(PODS), lambda number: owner.pod(f"p{number}"))
    watch = Watch("pods", namespace=owner.namespace, kubeconfig=str(private.kubeconfig))
    async with Watching(watch) as seen:
        await seen.until(lambda events: count(events, "add") == PODS, seconds=300)
        await each(range(CHANGES), lambda number: owner.status(f"p{number}", {"message": "changed"}))
        await seen.until(lambda events: count(events, "update") == CHANGES, seconds=300)
        (informer,) = seen.source._joined.informers.values()
        informer.reflector.streaming = False
        # Each is an update (it is being deleted) and a delete, or the delete alone where the list was quicker.
        await each(range(CHANGES), lambda number: owner.delete("pods", f"p{number}"))
        informer.refresh()
        await seen.until(lambda events: count(events, "delete") == CHANGES, seconds=300)
        await seen.ready()
    assert len({event.id for event in seen.events}) == len(seen.events)
    assert count(seen.events, "add") == PODS
    assert count(seen.events, "delete") == CHANGES


def count(events: Sequence[Event], what: str) -> int:
    """How many events are of this verb."""
    return sum(event.type.endswith(what) for event in events)
