"""Events of every shape: very large ones, very many subjects, very many keys, one key with most of the events. All of it
flows, in bounded memory, and no key waits for another."""

import asyncio
import base64
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import nats as client
import pytest

from headrace.testing.history import Fact, check
from tests.servers.nats import Nats
from tests.spine.conftest import Start
from tests.spine.filling import fill, peak
from tests.spine.process import Run

LONG = [pytest.mark.long, pytest.mark.timeout(1800)]
MIB = 1 << 20


@pytest.fixture
def nats(start_nats: Callable[..., Nats]) -> Nats:
    """A server that takes large messages."""
    return start_nats(max_payload=16 * MIB)


def idle_memory(start: Start) -> float:
    """What a worker has at most that never got a broker."""
    idle = start("nats://127.0.0.1:1", name="idle", HEADRACE_READY_WITHIN="60")
    idle.address()
    idle.until(lambda: len(idle.workers()) == 1, "no worker")
    found = peak(idle)
    idle.kill()
    return found


def judge(run: Run, keys: Sequence[str], *, within: float = 1500) -> float:
    """Wait for every event, `o0` … with these keys; nothing lost or out of order. The most that the worker had resident,
    in MiB."""
    run.until_handled(len(keys), within=within)
    most = peak(run)
    assert run.stop() == 0
    found = check([*(Fact("published", f"o{n}", key) for n, key in enumerate(keys)), *run.facts()])
    print(found)
    assert found.ok, found
    return most


@pytest.mark.parametrize("large", [6, pytest.param(200, marks=LONG)], ids=lambda large: f"{large} of 9 MB")
def test_messages_of_nine_megabytes_flow_among_small_ones(nats: Nats, start: Start, large: int) -> None:
    pad = "x" * 9_000_000
    base = idle_memory(start)
    run = start()
    keys = [f"c{n % 7}" for n in range(large * 5)]
    events = (
        ("order.created", f"o{n}", {"customer": key, "kind": "", "pad": pad if n % 5 == 0 else ""})
        for n, key in enumerate(keys)
    )
    asyncio.run(fill(nats.url, events))
    most = judge(run, keys)
    print(f"{large} of 9 MB: {most - base:.0f} MiB above an idle worker")
    # The prefetch of 64 MiB, with what the connection has read beyond it.
    assert most - base < 160


def test_a_dead_letter_of_nine_megabytes_is_whole_and_a_larger_one_refers_to_its_message(
    nats: Nats, start: Start
) -> None:
    run = start(ATTEMPTS="1")
    sizes = {"whole": 9_000_000, "refers": 16 * MIB - 500}
    data = {"customer": "c", "kind": "rejected"}
    asyncio.run(fill(nats.url, (("order.created", id, {**data, "pad": "x" * size}) for id, size in sizes.items())))
    run.until(lambda: len(run.letters()) == 2, "not two dead letters")
    letters = {letter["event_id"]: letter for letter in run.letters()}

    def size_of(event: str) -> int | None:
        show = [sys.executable, "-m", "headrace", "dlq", "show", "--app", "spine", "--json", letters[event]["id"]]
        shown = subprocess.run(show, env=run.environment, cwd=run.folder, capture_output=True)
        body = json.loads(shown.stdout)["body_base64"]
        return None if body is None else len(base64.b64decode(body))

    assert all((size_of(event) or 0) > size for event, size in sizes.items())
    asyncio.run(purge(nats.url, "order"))
    assert (size_of("whole") or 0) > sizes["whole"]
    assert size_of("refers") is None
    assert letters["refers"]["origin"]["sequence"] == 2
    assert run.stop() == 0


async def purge(url: str, stream: str) -> None:
    """Remove everything that a stream holds."""
    connection = await client.connect(url)
    await connection.jetstream().purge_stream(stream)
    await connection.close()


@pytest.mark.parametrize("subjects", [3000, pytest.param(100_000, marks=LONG)], ids=lambda n: f"{n} subjects")
def test_very_many_subjects_flow_in_bounded_memory(nats: Nats, start: Start, subjects: int) -> None:
    base = idle_memory(start)
    events = ((f"many.s{n}", f"o{n}", {"subject": f"s{n}"}) for n in range(subjects))
    asyncio.run(fill(nats.url, events, stream="many"))
    most = judge(start(app="many"), [f"s{n}" for n in range(subjects)])
    print(f"{subjects} subjects: {most - base:.0f} MiB above an idle worker")
    assert most - base < 96


@pytest.mark.parametrize("keys", [10_000, pytest.param(1_000_000, marks=LONG)], ids=lambda n: f"{n} keys")
def test_very_many_keys_flow_in_bounded_memory(nats: Nats, start: Start, keys: int) -> None:
    base = idle_memory(start)
    events = (("order.created", f"o{n}", {"customer": f"customer-{n}", "kind": ""}) for n in range(keys))
    asyncio.run(fill(nats.url, events))
    most = judge(start(), [f"customer-{n}" for n in range(keys)])
    print(f"{keys} keys: {most - base:.0f} MiB above an idle worker")
    # The memory ledger's 100,000 marks, whatever the number of keys.
    assert most - base < 96


@pytest.mark.parametrize("events", [3000, pytest.param(50_000, marks=LONG)], ids=lambda n: f"{n} events")
def test_a_key_with_nine_of_ten_events_leaves_the_others_their_share(nats: Nats, start: Start, events: int) -> None:
    """The hot key goes at its own pace, one at a time; an event of another key is handled before any later one of it."""
    keys = [f"c{n % 50}" if n % 10 == 0 else "hot" for n in range(events)]
    stream = (("order.created", f"o{n}", {"customer": key, "kind": ""}) for n, key in enumerate(keys))
    asyncio.run(fill(nats.url, stream))
    run = start(WORK="0.002")
    judge(run, keys)
    handled = [int(fact.id[1:]) for fact in run.facts() if fact.what == "handled"]
    hot, late = -1, 0
    for number in handled:
        if keys[number] == "hot":
            hot = max(hot, number)
        elif hot > number:
            late = max(late, hot - number)
    shares = [Counter(keys[number] == "hot" for number in handled[: events * tenth // 10]) for tenth in range(1, 11)]
    print(f"other keys at most {late} events behind the hot one; shares by tenth: {[one[False] for one in shares]}")
    assert late <= 64
    assert all(share[False] >= events * tenth // 10 * 0.09 for tenth, share in enumerate(shares, 1))
