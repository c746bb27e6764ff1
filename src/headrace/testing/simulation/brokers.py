"""Two model brokers: a log of partitions with owners and watermarks, and a stream of messages acknowledged one by one.

The log is what Kafka and an ordered JetStream consumer look like from the engine: order, one owner at a time, a committed
watermark from which the next owner goes on. The stream is an unordered JetStream consumer: a deadline a message, redelivery
when it passes, and a delay that a retry may ask for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from headrace.engine.delivery import Delivery, Outcome
from headrace.engine.source import Credit, Progress, Source
from headrace.event import Event

if TYPE_CHECKING:
    from headrace.testing.simulation.process import Process
    from headrace.testing.simulation.world import World

__all__ = ["Broker", "LogBroker", "LogSource", "StreamBroker", "StreamSource"]

#: Seconds after which a silent owner is declared dead.
SESSION = 8.0
SIZE = 300


def event(id: str, key: str) -> Event:
    """The event of this id as a decoder would have made it."""
    return Event._trusted(
        {"specversion": "1.0", "id": id, "source": "/simulation", "type": "simulated", "partitionkey": key}, b"{}"
    )


class Broker(Protocol):
    """What outlives the processes."""

    def append(self, id: str, key: str) -> None: ...
    def source(self, process: Process) -> Source: ...
    def died(self, process: Process) -> None: ...
    def rebalance(self) -> None: ...
    def finished(self) -> bool: ...


class Numbered(Delivery):
    """A delivery with its place: partition and offset, or the number of the message."""

    __slots__ = ("lease", "number", "partition")

    def __init__(self, source: Source, event: Event, partition: int, number: int, lease: int = 0) -> None:
        super().__init__(source, event, SIZE)
        self.partition = partition
        self.number = number
        self.lease = lease


class LogBroker:
    """Partitions with one owner each, who is told of a loss when it next talks to the broker."""

    def __init__(self, world: World) -> None:
        self.world = world
        count = world.plan.partitions
        self.log: list[list[tuple[str, str]]] = [[] for _ in range(count)]
        self.committed = [0] * count
        self.delivered = [0] * count
        self.owner: list[LogSource | None] = [None] * count
        self.generation = [0] * count
        self.members: list[LogSource] = []
        self.rewinds = True
        self.excess = 0

    def append(self, id: str, key: str) -> None:
        partition = int(key[1:]) % len(self.log)
        self.log[partition].append((id, key))
        owner = self.owner[partition]
        if owner is not None:
            owner.wake()

    def source(self, process: Process) -> Source:
        return LogSource(self, process)

    def join(self, source: LogSource) -> None:
        self.members.append(source)
        self._share()

    def leave(self, source: LogSource) -> None:
        if source in self.members:
            self.members.remove(source)
            for partition, owner in enumerate(self.owner):
                if owner is source:
                    self._take(partition)
            self._share()

    def died(self, process: Process) -> None:
        for source in [member for member in self.members if member.process is process]:
            # A dead process says nothing: its partitions are stuck until its session is over.
            asyncio.get_running_loop().call_later(SESSION, self.leave, source)

    def silent(self, source: LogSource) -> None:
        """Its session was over while it stood still."""
        self.leave(source)

    def rebalance(self) -> None:
        """Partitions change hands for no reason."""
        if self.members:
            self.members.append(self.members.pop(0))
            self._share(anew=True)

    def _take(self, partition: int) -> None:
        self.owner[partition] = None
        self.generation[partition] += 1

    def _share(self, anew: bool = False) -> None:
        for partition in range(len(self.log)):
            wanted = self.members[partition % len(self.members)] if self.members else None
            owner = self.owner[partition]
            if owner is None or (anew and owner is not wanted):
                if owner is not None:
                    owner.revoke(partition)
                self._take(partition)
                self.owner[partition] = wanted
                if wanted is not None:
                    begin = self.committed[partition] if self.rewinds else self.delivered[partition]
                    wanted.assign(partition, self.generation[partition], begin)

    def commit(self, partition: int, generation: int, offset: int) -> bool:
        """All below ``offset`` is finished; refused where the partition has a new owner."""
        if generation != self.generation[partition]:
            return False
        offset = min(offset + self.excess, len(self.log[partition]))
        for id, _ in self.log[partition][self.committed[partition] : offset]:
            self.world.acknowledge(id)
        self.committed[partition] = max(self.committed[partition], offset)
        return True

    def finished(self) -> bool:
        return all(len(log) <= done for log, done in zip(self.log, self.committed, strict=True))


class _Partition:
    """A partition as its owner sees it."""

    __slots__ = ("completed", "generation", "held", "position", "watermark")

    def __init__(self, generation: int, begin: int) -> None:
        self.generation = generation
        self.position = begin
        self.watermark = begin
        self.completed: set[int] = set()
        self.held: dict[int, Numbered] = {}


class LogSource:
    """An owner of partitions: finished offsets move the watermark, a flush commits it."""

    name = "simulated:log"
    keeps_order = True
    extend_every: float | None = None

    def __init__(self, broker: LogBroker, process: Process) -> None:
        self.process = process
        self._broker = broker
        self._partitions: dict[int, _Partition] = {}
        self._ready = asyncio.Event()
        self._heard = 0.0
        self._tending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._heard = loop.time()
        self._broker.join(self)
        self._tending = loop.create_task(self._tend())

    async def _tend(self) -> None:
        """Heartbeats: a process that stood still too long has lost everything, and joins again."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(2.0)
            while self.process.frozen:
                if loop.time() - self._heard > SESSION and self in self._broker.members:
                    self._broker.silent(self)
                await asyncio.sleep(1.0)
            self._heard = loop.time()
            if self not in self._broker.members:
                for partition in list(self._partitions):
                    self.revoke(partition)
                self._broker.join(self)

    def wake(self) -> None:
        self._ready.set()

    def assign(self, partition: int, generation: int, begin: int) -> None:
        self.revoke(partition)
        self._partitions[partition] = _Partition(generation, begin)
        self._broker.world.rewound(self.process, {key for _, key in self._broker.log[partition]})
        self.wake()

    def revoke(self, partition: int) -> None:
        """The partition is somebody else's: what is under way is void."""
        mine = self._partitions.pop(partition, None)
        if mine is not None and self.process.alive:
            for delivery in list(mine.held.values()):
                self.process.lost.add(delivery)
                delivery.void("the partition has another owner")

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        while True:
            await self.process.call("fetch", lambda now: None)
            batch: list[Delivery] = []
            for partition, mine in self._partitions.items():
                log = self._broker.log[partition]
                while mine.position < len(log) and len(batch) < credit.items:
                    id, key = log[mine.position]
                    delivery = Numbered(self, event(id, key), partition, mine.position, mine.generation)
                    mine.held[mine.position] = delivery
                    mine.position += 1
                    self._broker.delivered[partition] = max(self._broker.delivered[partition], mine.position)
                    batch.append(delivery)
            if batch:
                return batch
            self._ready.clear()
            await self._ready.wait()

    def settle(self, delivery: Any, outcome: Outcome) -> None:
        mine = self._partitions.get(delivery.partition)
        if mine is None or mine.generation != delivery.lease or delivery.voided is not None:
            return
        mine.held.pop(delivery.number, None)
        if outcome.kind in ("hand_back", "retry"):
            return
        mine.completed.add(delivery.number)
        while mine.watermark in mine.completed:
            mine.completed.discard(mine.watermark)
            mine.watermark += 1

    async def flush(self) -> Sequence[Delivery]:
        marks = [(partition, mine.generation, mine.watermark) for partition, mine in self._partitions.items()]

        def commit(now: float) -> None:
            if "cut" not in self.process.world.away:
                for partition, generation, watermark in marks:
                    self._broker.commit(partition, generation, watermark)

        await self.process.call("commit", commit)
        if "cut" in self.process.world.away:
            # The commit is lost; the next one carries it along, and there is a next one.
            asyncio.get_running_loop().call_later(1.0, self._again)
        return ()

    def _again(self) -> None:
        if self.process.alive:
            asyncio.get_running_loop().create_task(self.flush())

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing expires."""

    async def close(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
        self._broker.leave(self)

    def progress(self) -> Progress:
        return Progress(connected=True)


class _Message:
    __slots__ = ("acknowledged", "deadline", "due", "id", "key", "lease")

    def __init__(self, id: str, key: str) -> None:
        self.id = id
        self.key = key
        self.acknowledged = False
        self.due = 0.0
        self.deadline: float | None = None
        self.lease = 0


class StreamBroker:
    """Messages, each with a deadline while it is out."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.messages: list[_Message] = []
        self.sources: list[StreamSource] = []
        self.loses_retries = False

    def append(self, id: str, key: str) -> None:
        self.messages.append(_Message(id, key))
        self.wake()

    def wake(self) -> None:
        for source in self.sources:
            source.wake()

    def source(self, process: Process) -> Source:
        return StreamSource(self, process)

    def died(self, process: Process) -> None:
        self.sources = [source for source in self.sources if source.process is not process]

    def rebalance(self) -> None:
        """Nobody owns anything."""

    def finished(self) -> bool:
        return all(message.acknowledged for message in self.messages)


class StreamSource:
    """Takes what is due; acknowledgements leave in batches and may be lost on the way."""

    name = "simulated:stream"
    keeps_order = False

    def __init__(self, broker: StreamBroker, process: Process) -> None:
        self.process = process
        self.extend_every: float | None = process.world.plan.ack_wait / 3
        self._broker = broker
        self._ready = asyncio.Event()
        self._queue: list[tuple[Numbered, Outcome]] = []

    async def open(self) -> None:
        self._broker.sources.append(self)

    def wake(self) -> None:
        self._ready.set()

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        broker, world = self._broker, self.process.world
        while True:
            await self.process.call("fetch", lambda now: None)
            now = loop.time()
            open_ones = [
                (number, message) for number, message in enumerate(broker.messages) if not message.acknowledged
            ]
            ready = [
                (number, message)
                for number, message in open_ones
                if message.due <= now and (message.deadline is None or message.deadline <= now)
            ]
            if ready:
                world.rng.shuffle(ready)
                batch: list[Delivery] = []
                for number, message in ready[: credit.items]:
                    message.lease += 1
                    message.deadline = now + world.plan.ack_wait
                    batch.append(Numbered(self, event(message.id, message.key), 0, number, message.lease))
                return batch
            next_due = min(
                (max(message.due, message.deadline or 0.0) for _, message in open_ones),
                default=now + world.plan.ack_wait,
            )
            self._ready.clear()
            try:
                async with asyncio.timeout(max(0.01, next_due - now)):
                    await self._ready.wait()
            except TimeoutError:
                continue

    def settle(self, delivery: Any, outcome: Outcome) -> None:
        self._queue.append((delivery, outcome))

    async def flush(self) -> Sequence[Delivery]:
        sent, self._queue = self._queue, []
        broker = self._broker

        def settle(now: float) -> bool:
            if "cut" in self.process.world.away:
                return False
            for delivery, outcome in sent:
                message = broker.messages[delivery.number]
                if message.acknowledged:
                    continue
                if outcome.kind in ("ack", "dead", "drop"):
                    message.acknowledged = True
                    broker.world.acknowledge(message.id)
                elif message.lease == delivery.lease:
                    message.deadline = float("inf") if broker.loses_retries else None
                    message.due = now + outcome.delay
            broker.wake()
            return True

        return () if await self.process.call("commit", settle) else [delivery for delivery, _ in sent]

    async def extend(self, deliveries: Sequence[Any]) -> None:
        broker, wait = self._broker, self.process.world.plan.ack_wait

        def extend(now: float) -> None:
            for delivery in deliveries:
                message = broker.messages[delivery.number]
                if message.lease == delivery.lease and message.deadline is not None:
                    message.deadline = now + wait

        await self.process.call("commit", extend)

    async def close(self) -> None:
        self._broker.died(self.process)

    def progress(self) -> Progress:
        return Progress(connected=True)
