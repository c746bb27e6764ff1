"""Failed attempts are counted over restarts: on every source, held lanes and released events, in every durable store."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headrace import App, Delivery, Event, Retry, exponential
from headrace.http import Receiver
from headrace.kubernetes import Watch
from tests.http.answering import Mounted
from tests.kubernetes.actor import Actor
from tests.stores.test_postgres import a_database

RETRY = Retry(attempts=20, backoff=exponential(initial=0.1, factor=1))


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def store(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    if request.param == "redis":
        return request.getfixturevalue("redis_server").url
    return a_database(request.getfixturevalue("postgres_server"))


@asynccontextmanager
async def failing(name: str, source: Any, seen: list[int], **settings: Any) -> AsyncIterator[App]:
    """An app whose only handler always fails and notes which attempt it was."""
    key = settings.pop("key")
    app = App(name, **settings)

    @app.on(source, key=key, retry=RETRY)
    async def bill(event: Event, delivery: Delivery) -> None:
        seen.append(delivery.attempt)
        raise ValueError("not yet")

    _ = app.asgi  # made before it runs, so that its receivers are attached
    async with app.running():
        yield app


async def two_lives(name: str, source: Any, send: Any, **settings: Any) -> None:
    lives: list[list[int]] = [[], []]
    for number, seen in enumerate(lives):
        async with failing(name, source, seen, **settings) as app:
            if number == 0:
                await send(app)
            async with asyncio.timeout(60):
                while len(seen) < 3:
                    await asyncio.sleep(0.01)
    first, second = lives
    assert first == list(range(1, len(first) + 1))
    assert second[:3] == [len(first) + 1, len(first) + 2, len(first) + 3]


def a_name() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.mark.parametrize("key", ["customer", None], ids=["held", "released"])
@pytest.mark.parametrize(
    ("broker", "store"),
    [("nats", "sqlite"), ("nats", "postgresql"), ("nats", "redis"), ("kafka", "postgresql")],
    indirect=["store"],
)
async def test_of_a_channel(broker, key, store, request):
    name = a_name()
    url = request.getfixturevalue(f"{broker}_server").url

    async def send(app: App) -> None:
        await app.publish(f"{name}.created", {"customer": "c1"})

    await two_lives(name, f"{name}.created", send, key=key, broker=url, store=store)


async def test_of_a_durable_receiver(store, nats_server):
    async def send(app: App) -> None:
        headers = {"ce-specversion": "1.0", "ce-type": "order", "ce-source": "/shop", "ce-id": "1"}
        headers["content-type"] = "application/json"
        reply = await Mounted(app.asgi).call("POST", "/orders", headers, b'{"customer": "c1"}')
        assert reply is not None
        assert reply.status == 202

    await two_lives(
        a_name(), Receiver("/orders", mode="durable"), send, key="customer", broker=nats_server.url, store=store
    )


@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
async def test_of_a_watch(store, kubernetes_server):
    actor = Actor(kubernetes_server.kubeconfig)
    await actor.begin()
    watch = Watch("configmaps", namespace=actor.namespace, kubeconfig=str(kubernetes_server.kubeconfig))

    async def send(app: App) -> None:
        await actor.configmap("one")

    try:
        await two_lives(a_name(), watch, send, key=None, store=store)
    finally:
        await actor.close()
