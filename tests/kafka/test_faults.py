"""A broker that dies, stands still or loses its connections, under an app that reads, retries and publishes."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from headrace import App, Event
from headrace.kafka.completed import decode
from tests.kafka.harness import Harness, numbers, until
from tests.servers.kafka import Kafka
from tests.servers.ports import free_ports
from tests.servers.wire import Wire

KEYS = 7


class Flow:
    """Events published with confirmation while the app handles them; each handled event publishes one more."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.orders, self.invoices = f"{name}.orders", f"{name}.invoices"
        self.app = App(name, broker=url, store="memory://", ready_within=30.0)
        self.handled: dict[str, list[int]] = defaultdict(list)
        self.billed: set[int] = set()
        self.confirmed: list[int] = []
        self._stop = False
        self.app.on(self.orders, publishes=self.invoices, name="bill")(self._bill)
        self.app.on(self.invoices, name="mail")(self._mail)

    async def _bill(self, event: Event) -> dict[str, int]:
        self.handled[str(event["partitionkey"])].append(event.data["n"])
        return {"n": event.data["n"]}

    async def _mail(self, event: Event) -> None:
        self.billed.add(event.data["n"])

    async def _publish(self) -> None:
        number = 0
        while not self._stop:
            await self.app.publish(self.orders, {"n": number}, key=f"k{number % KEYS}", id=str(number))
            self.confirmed.append(number)
            number += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The flow; at the end all that was confirmed has to be handled and billed, in order for each key."""
        async with self.app.running() as worker:
            publishing = asyncio.create_task(self._publish())
            try:
                await self.some_more()
                yield
                await self.some_more()
            finally:
                self._stop = True
                await asyncio.wait_for(publishing, 150)
            wanted = set(self.confirmed)
            await until(lambda: self.billed >= wanted, seconds=150)
            letters = worker.dead_letters
            assert letters is not None
            assert await letters.counts(self.name) == {}
        assert {n for seen in self.handled.values() for n in seen} == wanted
        for key, seen in self.handled.items():
            # A key may go back to what was not committed; it never skips.
            first = list(dict.fromkeys(seen))
            assert first == sorted(first), key

    async def some_more(self, count: int = 10) -> None:
        """Wait until more was confirmed and billed than now."""
        wanted = len(self.billed) + count
        await until(lambda: len(self.billed) >= wanted, seconds=150)

    def sources(self, state: bool) -> bool:
        """Whether all sources say that they are connected, or that they are not."""
        worker = self.app._worker
        assert worker is not None
        assert worker.runtime is not None
        progresses = [sub.source.progress() for handler in worker.runtime.handlers for sub in handler.subscriptions]
        return all(progress.connected is state for progress in progresses)


@pytest.mark.timeout(400)
async def test_the_broker_is_killed_and_restarted(start_kafka: Callable[..., Kafka], app_name: str) -> None:
    server = start_kafka()
    flow = Flow(server.url, app_name)
    async with flow.running():
        await asyncio.to_thread(server.kill)
        await until(lambda: flow.sources(False), seconds=60)
        await asyncio.to_thread(server.restart)
        await flow.some_more()
        # Those that have nothing to read notice it too.
        await until(lambda: flow.sources(True), seconds=60)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(3, id="short"), pytest.param(30, id="30 s", marks=[pytest.mark.long, pytest.mark.timeout(400)])],
)
async def test_the_broker_stands_still(start_kafka: Callable[..., Kafka], app_name: str, seconds: float) -> None:
    server = start_kafka()
    flow = Flow(server.url, app_name)
    async with flow.running():
        server.pause()
        # The length of the pause is what is tested.
        await asyncio.sleep(seconds)
        server.resume()


async def test_a_broker_that_stands_still_is_told_before_the_session_ends(
    start_kafka: Callable[..., Kafka], app_name: str
) -> None:
    server = start_kafka()
    at = Harness(server.url, app_name)
    await at.make_topic()
    at.fill(3)
    reader = await at.reader(options={"session.timeout.ms": "60000"})
    reader.ack(await reader.take(3))
    source = reader.source
    await until(lambda: source.progress().lag_events == 0)
    await source.flush()
    rebalances = source.rebalances
    server.pause()
    await until(lambda: not source.progress().connected)
    assert source.rebalances == rebalances
    assert "no answer from the Kafka brokers" in source.progress().detail
    assert source.progress().lag_events is None
    server.resume()
    await until(lambda: source.progress().connected)
    assert source.progress().detail == ""
    await at.close()


async def test_a_session_that_expires_while_the_broker_stands_still_brings_everything_again(
    start_kafka: Callable[..., Kafka], app_name: str
) -> None:
    server = start_kafka()
    at = Harness(server.url, app_name)
    await at.make_topic()
    at.fill(100)
    reader = await at.reader(options={"session.timeout.ms": "1000", "heartbeat.interval.ms": "200"})
    group = reader.source._group
    assert group is not None
    for _ in range(2):
        assert numbers(await reader.take(100)) == list(range(100))
        # A commit under way would wait for the broker, and the loss behind it.
        await reader.source.flush()
        rebalances = group.ownership.rebalances
        server.pause()
        await until(lambda before=rebalances: group.ownership.rebalances > before)  # type: ignore[misc]
        await until(lambda: not reader.source.progress().connected)
        server.resume()
    assert numbers(await reader.take(100)) == list(range(100))
    await at.close()


@pytest.mark.parametrize(
    "how",
    [
        "cut",
        "after some bytes to the client",
        "frozen",
        pytest.param("reset", marks=[pytest.mark.long, pytest.mark.timeout(400)]),
        pytest.param("after some bytes to the server", marks=[pytest.mark.long, pytest.mark.timeout(400)]),
    ],
)
async def test_connections_are_cut(
    start_kafka: Callable[..., Kafka], start_wire: Callable[..., Wire], app_name: str, how: str
) -> None:
    (port,) = free_ports(1)
    server = start_kafka(proxy_port=port)
    wire = start_wire(server.proxied_port, port=port)
    # A half-open connection is noticed by a request that is not answered in time.
    flow = Flow(f"kafka://127.0.0.1:{wire.port}?socket.timeout.ms=4000", app_name)
    async with flow.running():
        for turn in range(3):
            if how == "cut":
                wire.cut()
            elif how == "reset":
                wire.reset()
            elif how == "frozen":
                wire.freeze()
                # One that has a question open notices it by the answer that does not come.
                await until(lambda: not flow.sources(True), seconds=60)
                wire.heal()
            else:
                known = wire.accepted
                wire.cut_after(1500 + 700 * turn, towards="client" if "client" in how else "server")
                await until(lambda known=known: wire.accepted > known + 3, seconds=60)  # type: ignore[misc]
                wire.heal()
            await flow.some_more(10)


async def test_an_app_that_ends_while_the_broker_is_away_ends_in_time_and_repeats_only_what_was_not_committed(
    start_kafka: Callable[..., Kafka], app_name: str
) -> None:
    server = start_kafka()
    at = Harness(server.url, app_name)
    await at.make_topic()
    at.fill(50, keys=5)
    seen: list[int] = []

    def make() -> App:
        app = App(at.app, broker=at.url, store="memory://", drain=3.0)

        @app.on(at.topic)
        async def bill(event: Event) -> None:
            seen.append(event.data)

        return app

    async with make().running():
        await until(lambda: len(seen) == 50)

        async def committed() -> bool:
            return (await at.committed()).get(0, (0, ""))[0] == 50

        await until(committed)
        at.fill(20, keys=5, first=50)
        await until(lambda: len(seen) == 70)
        await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart)
    base, text = (await at.committed())[0]
    record = decode(text)
    done = {n for first, last in (record.done if record is not None else ()) for n in range(first, last)}
    seen.clear()
    async with make().running():
        at.fill(1, keys=5, first=70)
        await until(lambda: 70 in seen)
    assert sorted(seen) == [n for n in range(base, 71) if n not in done]
    await at.close()
