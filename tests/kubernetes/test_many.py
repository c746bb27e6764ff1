"""Ten thousand objects on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest

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
        await seen.until(lambda events: len(events) == PODS, seconds=300)
        await each(range(CHANGES), lambda number: owner.status(f"p{number}", {"message": "changed"}))
        await seen.until(lambda events: len(events) == PODS + CHANGES, seconds=300)
        (informer,) = seen.source._joined.informers.values()
        informer.reflector.streaming = False
        await each(range(CHANGES), lambda number: owner.delete("pods", f"p{number}"))
        informer.refresh()
        await seen.until(lambda events: len(events) == PODS + 2 * CHANGES, seconds=300)
        await seen.ready()
    assert len({event.id for event in seen.events}) == PODS + 2 * CHANGES
    assert sum(event.type.endswith(".add") for event in seen.events) == PODS
    assert sum(event.type.endswith(".delete") for event in seen.events) == CHANGES
