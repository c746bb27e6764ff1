"""``ack="first"``: at most once, on a real nats-server."""

import asyncio
import uuid

import pytest

from headrace import App, Event, Retry, exponential


async def until(holds, within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("key", ["customer", None], ids=["keyed", "unkeyed"])
async def test_the_server_has_the_acknowledgement_before_the_handler_runs(nats_server, key):
    app = App(f"t{uuid.uuid4().hex[:10]}", broker=nats_server.url, store="memory://")
    channel = f"{app.name}.created"
    pending = []

    @app.on(channel, key=key, ack="first", concurrency=4)
    async def bill(event: Event) -> None:
        info = await api.call(f"CONSUMER.INFO.{app.name}.{app.name}__bill")
        pending.append(info["num_ack_pending"])

    async with app.running() as worker:
        api = worker.broker.api
        for number in range(20):
            await app.publish(channel, {"customer": f"c{number % 4}"})
        await until(lambda: len(pending) >= 20)
    # Later events may be on their way; the one that runs, and those before it, are not counted any more.
    assert len(pending) == 20
    assert pending[-1] == 0


async def test_an_attempt_that_was_cut_by_a_stop_does_not_come_again(nats_server):
    name = f"t{uuid.uuid4().hex[:10]}"
    seen: list[str] = []
    begun = asyncio.Event()

    def an_app(hangs: bool) -> App:
        app = App(name, broker=nats_server.url, store="memory://", drain=0.1)

        @app.on(f"{name}.created", ack="first")
        async def bill(event: Event) -> None:
            seen.append(event.id)
            begun.set()
            if hangs:
                await asyncio.Event().wait()

        return app

    app = an_app(hangs=True)
    async with app.running():
        await app.publish(f"{name}.created", {}, id="a")
        await asyncio.wait_for(begun.wait(), 30)
    app = an_app(hangs=False)
    async with app.running():
        await app.publish(f"{name}.created", {}, id="b")
        await until(lambda: "b" in seen)
    assert seen == ["a", "b"]


async def test_a_failure_is_retried_and_dead_lettered_while_the_process_lives(nats_server):
    app = App(f"t{uuid.uuid4().hex[:10]}", broker=nats_server.url, store="memory://")
    attempts = []

    @app.on(f"{app.name}.created", ack="first", retry=Retry(attempts=3, backoff=exponential(initial=0.01)))
    async def bill(event: Event) -> None:
        attempts.append(event.id)
        raise ValueError("no")

    async with app.running() as worker:
        await app.publish(f"{app.name}.created", {}, id="a")
        measures = worker.runtime.handlers[0].measures
        await until(lambda: measures.outcomes["dead"] == 1)
        letters = [stored.letter.event_id async for stored in worker.dead_letters.scan(app.name)]
    assert attempts == ["a"] * 3
    assert letters == ["a"]
