"""Members of a group killed without warning, others that come and go: nothing lost, order per key, no committed work repeated."""

import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.kafka.completed import contains, decode
from headrace.testing.history import Fact, History, check
from tests.kafka.harness import Harness
from tests.servers.kafka import Kafka
from tests.spine.process import Counting, Run

APP = Path(__file__).parent / "apps" / "member.py"


class Members:
    """The processes of one group over one topic."""

    def __init__(self, folder: Path, at: Harness, *, work: float, protocol: str) -> None:
        self.folder = folder
        self.at = at
        self.running: list[Run] = []
        self.seen = Counting(folder / "history")
        self._made = 0
        self._settings: dict[str, str | None] = {
            "APP": at.app,
            "TOPIC": at.topic,
            "WORK": str(work),
            "HEADRACE_KAFKA_GROUP_PROTOCOL": protocol,
        }
        if protocol == "classic":
            self._settings |= {
                "HEADRACE_KAFKA_SESSION_TIMEOUT_MS": "3000",
                "HEADRACE_KAFKA_HEARTBEAT_INTERVAL_MS": "500",
            }

    def join(self) -> None:
        self._made += 1
        run = Run(self.folder, self.at.url, app=APP, name=f"member{self._made}", **self._settings)
        self.running.append(run.start())

    def until_handled(self, count: int, *, within: float = 300.0) -> None:
        end = time.monotonic() + within
        while self.seen.count() < count:
            for run in self.running:
                assert not run.ended, run.text()[-3000:]
            assert time.monotonic() < end, f"{len(self.seen.ids)} of {count} handled: {self.running[0].text()[-2000:]}"
            time.sleep(0.05)

    def committed(self) -> tuple[dict[int, tuple[int, Any]], int]:
        """What the group has committed, base and ranges beyond it by partition; and how long the history was after that."""
        admin, topic = self.at.broker.admin, self.at.topic
        facts = admin.topics([topic])[topic]
        assert facts is not None
        found = admin.committed(f"{self.at.app}__bill", topic, facts.partitions)
        done = {}
        for (_, partition), (offset, metadata) in found.items():
            record = decode(metadata)
            done[partition] = (offset, record.done if record is not None and record.base == offset else [])
        return done, (self.folder / "history").stat().st_size


def repeated(history: Path, commits: list[tuple[dict[int, tuple[int, Any]], int]]) -> list[str]:
    """Records that were handled after their completion had been committed."""
    lines = history.read_bytes()
    faults = []
    for done, size in commits:
        for line in lines[size:].rpartition(b"\n")[0].split(b"\n"):
            fact = msgspec.json.decode(line, type=Fact) if line else None
            if fact is None or fact.what != "handled":
                continue
            partition, offset = map(int, fact.id.split("/"))
            base, ranges = done.get(partition, (0, []))
            if offset < base or contains(ranges, offset):
                faults.append(f"{fact.id} by {fact.process}, committed {base}")
    return faults


def publish(at: Harness, history: History, *, events: int, keys: int) -> None:
    """Records in the order of their places; those of a key are in one partition."""
    published: list[tuple[int, int, str]] = []

    def report(error: Any, message: Any) -> None:
        assert error is None, error
        published.append((message.partition(), message.offset(), message.key().decode()))

    for number in range(events):
        at.write(b"%d" % number, key=f"k{number % keys}", on_delivery=report)
        if number % 1000 == 0:
            at.producer.poll(0)
    at.delivered()
    assert len(published) == events
    for partition, offset, key in sorted(published):
        history.published(f"{partition}/{offset}", key)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize(
    ("members", "partitions", "events", "keys", "kills", "seed"),
    [
        pytest.param(3, 6, 3000, 60, 2, 1, id="short"),
        pytest.param(4, 12, 200_000, 500, 10, 1, id="long", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
async def test_members_are_killed_while_others_come_and_go(
    node: Kafka,
    app_name: str,
    tmp_path: Path,
    *,
    protocol: str,
    members: int,
    partitions: int,
    events: int,
    keys: int,
    kills: int,
    seed: int,
) -> None:
    at = Harness(node.url, app_name)
    draw = random.Random(seed)
    await at.make_topic(partitions)
    history = History(tmp_path / "history")
    publish(at, history, events=events, keys=keys)
    group = Members(tmp_path, at, work=0.02 if events < 10_000 else 0.004, protocol=protocol)
    commits = []
    try:
        for _ in range(members):
            group.join()
        for kill in range(kills):
            group.until_handled((kill + 1) * events // (kills + 2))
            victim = group.running.pop(draw.randrange(len(group.running)))
            victim.kill()
            commits.append(group.committed())
            group.join()
            if draw.random() < 0.5:
                # One leaves in good order, another comes: a rebalance on top of the one after the kill.
                leaver = group.running.pop(0)
                assert leaver.stop() == 0, leaver.text()[-2000:]
                commits.append(group.committed())
                group.join()
        group.until_handled(events, within=900)
        for run in group.running:
            assert run.stop() == 0, run.text()[-2000:]
    finally:
        for run in group.running:
            run.close()
        history.close()
    found = check(History.read(tmp_path / "history"))
    print(f"{protocol}, {kills} kills, seed {seed}: {found}")
    assert found.ok, found
    assert repeated(tmp_path / "history", commits) == []
    ends = await at.committed()
    assert sum(offset for offset, _ in ends.values()) == events
    await at.close()
