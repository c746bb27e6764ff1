"""Leader election on a real API server: one at a time acts, whatever happens to the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from headrace.errors import ConfigurationError
from headrace.kubernetes import Cluster, Lease, LeaseLost, Watch
from headrace.kubernetes.client import Client
from headrace.kubernetes.connection import Connection
from headrace.kubernetes.kubeconfig import load
from headrace.kubernetes.lease import Elector
from headrace.kubernetes.status import ApiError
from tests.kubernetes.actor import Actor
from tests.kubernetes.relay import Relay
from tests.kubernetes.watching import Watching, eventually
from tests.servers.apiserver import ApiServer
from tests.servers.nats import Nats
from tests.spine.process import Run

DURATION = 3.0


def elector(client: Client, actor: Actor, *, duration: float = DURATION) -> Elector:
    lease = Lease("acting", duration=duration, renew_within=duration * 2 / 3, retry_every=0.3)
    return Elector(client, lease.name, actor.namespace, lease.times)


async def holder(actor: Actor) -> str:
    record = await actor.get("leases.coordination.k8s.io", "acting")
    return str(record["spec"].get("holderIdentity") or "")


async def test_one_leads_and_the_other_follows_when_it_is_given_back(cluster: ApiServer, actor: Actor) -> None:
    # Long enough that a machine that is short of time loses none.
    first, second = (elector(actor.client, actor, duration=45.0) for _ in range(2))
    first.acquire()
    await asyncio.wait_for(first.lead(), 20)
    second.acquire()
    await eventually(lambda: second.holder == first.identity)
    assert first.leads
    assert not second.leads
    with pytest.raises(LeaseLost, match=first.identity):
        second.check()
    await first.release()
    assert not first.leads
    await asyncio.wait_for(second.lead(), 20)
    assert await holder(actor) == second.identity
    await second.release()
    assert await holder(actor) == ""


async def test_a_leader_that_cannot_renew_stops_before_another_may_begin(cluster: ApiServer, actor: Actor) -> None:
    async with Relay(cluster.ports[2]) as relay:
        cut = Client(load([cluster.kubeconfig_for("admin-token", server=relay.url)]))
        first, second = elector(cut, actor), elector(actor.client, actor)
        loop = asyncio.get_running_loop()
        ended: list[float] = []
        first.lost.append(lambda _: ended.append(loop.time()))
        first.acquire()
        await asyncio.wait_for(first.lead(), 20)
        second.acquire()
        await eventually(lambda: second.holder == first.identity)
        relay.freeze()
        await asyncio.wait_for(second.lead(), 20)
        began = loop.time()
        assert len(ended) == 1
        assert ended[0] < began
        assert not first.leads
        assert second.leads
        relay.thaw_new()
        relay.cut()
        await eventually(lambda: first.holder == second.identity)
        assert not first.leads
        await first.release()
        await second.release()
        await cut.close()


async def test_one_that_waits_takes_over_at_its_first_look_after_the_leases_time(actor: Actor) -> None:
    clock = [1000.0]
    lease = Lease("acting", duration=DURATION, renew_within=2.0, retry_every=0.3)
    first, second = (
        Elector(actor.client, lease.name, actor.namespace, lease.times, monotonic=lambda: clock[0]) for _ in range(2)
    )
    assert await first._try(clock[0])
    assert not await second._try(clock[0])
    clock[0] += DURATION - 0.01
    assert not await second._try(clock[0])
    assert await first._try(clock[0])  # renewed: its time begins anew, from when that is seen
    clock[0] += 0.02
    assert not await second._try(clock[0])
    clock[0] += DURATION - 0.01
    assert not await second._try(clock[0])
    clock[0] += 0.02
    assert await second._try(clock[0])
    with pytest.raises(ApiError, match="409"):
        await first._try(clock[0])
    assert first.holder == second.identity


async def test_a_lease_that_is_deleted_is_made_again_and_one_leads(cluster: ApiServer, actor: Actor) -> None:
    first = elector(actor.client, actor)
    first.acquire()
    await asyncio.wait_for(first.lead(), 20)
    await actor.delete("leases.coordination.k8s.io", "acting")
    made = [found["metadata"]["name"] for found in await actor.list("leases.coordination.k8s.io")]
    assert made == []
    async with asyncio.timeout(20):
        while not await actor.list("leases.coordination.k8s.io"):
            await asyncio.sleep(0.05)
    await eventually(lambda: first.leads)
    await first.release()


async def test_a_cluster_acts_while_the_watch_beside_it_holds_the_lease(cluster: ApiServer, actor: Actor) -> None:
    await actor.configmap("target")
    lease = Lease("acting", namespace=actor.namespace, duration=45.0, renew_within=30.0, retry_every=0.3)
    other = elector(actor.client, actor, duration=45.0)
    connection = Connection.acquire(load([cluster.kubeconfig]))
    mine = lease.elector(connection)
    acting = Cluster(lease=lease, audit=False, kubeconfig=str(cluster.kubeconfig))
    change = {"data": {"a": "b"}}
    other.acquire()
    await asyncio.wait_for(other.lead(), 20)
    mine.acquire()
    with pytest.raises(LeaseLost, match=other.identity):
        await acting.patch("configmaps", change, name="target", namespace=actor.namespace)
    await other.release()
    await asyncio.wait_for(mine.lead(), 20)
    await acting.patch("configmaps", change, name="target", namespace=actor.namespace)
    await acting.close()
    assert mine.leads, "it is the watch's"
    await mine.release()
    await connection.release()


async def test_a_cluster_without_a_watch_competes_from_its_first_action_on(cluster: ApiServer, actor: Actor) -> None:
    await actor.configmap("target")
    config = str(cluster.kubeconfig_for("admin-token", namespace=actor.namespace))
    lease = Lease("acting", duration=45.0, renew_within=30.0, retry_every=0.3)
    other = elector(actor.client, actor, duration=45.0)
    acting = Cluster(lease=lease, audit=False, kubeconfig=config)

    async def act() -> None:
        await acting.patch("configmaps", {"data": {"a": "b"}}, name="target", namespace=actor.namespace)

    await act()
    other.acquire()
    await eventually(lambda: other.holder)
    assert await holder(actor) == other.holder != other.identity, "it is held between actions, too"
    await acting.close()
    await asyncio.wait_for(other.lead(), 20)
    with pytest.raises(LeaseLost, match=other.identity):
        await act()
    await other.release()
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(LeaseLost):
                await act()
                break
            await asyncio.sleep(0.05)
    await acting.close()
    assert await holder(actor) == ""


async def test_a_lease_is_given_back_where_its_connection_or_the_program_ends(cluster: ApiServer, actor: Actor) -> None:
    await actor.configmap("target")
    config = str(cluster.kubeconfig_for("admin-token", namespace=actor.namespace))

    def begin() -> Cluster:
        lease = Lease("acting", duration=45.0, renew_within=30.0, retry_every=0.3)
        return Cluster(lease=lease, audit=False, kubeconfig=config)

    async def act(acting: Cluster) -> None:
        await acting.patch("configmaps", {"data": {"a": "b"}}, name="target", namespace=actor.namespace)

    connection = Connection.acquire(load([Path(config)]))
    await act(begin())
    assert await holder(actor)
    await connection.release()
    assert await holder(actor) == ""
    await asyncio.to_thread(asyncio.run, act(begin()))
    record = await actor.get("leases.coordination.k8s.io", "acting")
    assert not record["spec"].get("holderIdentity")
    assert record["spec"]["leaseTransitions"] >= 1


@pytest.mark.parametrize("trouble", [b"<html>", b"{}", ConfigurationError("TLS: no such file")], ids=repr)
async def test_one_that_waits_competes_on_after_an_answer_that_is_no_lease_or_trouble_of_its_own(
    cluster: ApiServer, actor: Actor, trouble: bytes | Exception
) -> None:
    client = Client(load([cluster.kubeconfig]))
    ask, answers = client.request, [trouble]

    async def request(*arguments: object, **named: object) -> bytes:
        answer = answers.pop() if answers else await ask(*arguments, **named)  # type: ignore[arg-type]
        if isinstance(answer, Exception):
            raise answer
        return answer

    client.request = request  # type: ignore[method-assign]
    one = elector(client, actor)
    one.acquire()
    async with asyncio.timeout(20):
        await one.lead()
    assert not answers
    await one.release()
    await client.close()


def test_times_that_would_let_two_act_are_refused() -> None:
    for duration, renew, retry in ((10.0, 10.0, 2.0), (10.0, 12.0, 2.0), (10.0, 5.0, 5.0), (0.5, 0.3, 0.1)):
        with pytest.raises(ConfigurationError):
            Lease("x", duration=duration, renew_within=renew, retry_every=retry)


APP = """
import asyncio, json, os
from headrace import App, Event
from headrace.kubernetes import Cluster, Lease, LeaseLost, Watch

app = App(os.environ["APP"])
namespace = os.environ["NAMESPACE"]
lease = Lease("acting", namespace=namespace, duration=4, renew_within=2.8, retry_every=0.4)
cluster = Cluster(lease=lease, audit=False)
HISTORY = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

def note(what, event, version=0):
    os.write(HISTORY, json.dumps([os.environ["REPLICA"], what, event["name"], int(version)]).encode() + b"\\n")

@app.on(Watch("configmaps", namespace=namespace, label_selector="work=yes", lease=lease), concurrency=8)
async def act(event: Event) -> None:
    note("began", event)
    await asyncio.sleep(0.1)
    try:
        # Who writes is part of it: a patch that changes nothing would answer with the version of another's write.
        data = {"by": os.environ["REPLICA"], "event": event.id}
        now = await cluster.patch("configmaps", {"data": data}, name="target", namespace=namespace)
    except LeaseLost:
        note("refused", event)
        raise
    note("acted", event, now["metadata"]["resourceVersion"])
"""


class Note(NamedTuple):
    """A line of the history. ``version``: the server's order of what was acted."""

    replica: str
    what: str
    name: str
    version: int


class Replicas:
    """Two ``headrace run`` of the app, with one history."""

    def __init__(self, folder: Path, broker: str, **environment: str) -> None:
        app = folder / "replica.py"
        app.write_text(APP)
        self._runs = {
            name: Run(folder, broker, app=app, name=f"replica-{name}", REPLICA=name, **environment) for name in "01"
        }
        self._history = folder / "history"

    def start(self) -> None:
        for run in self._runs.values():
            run.start()

    def history(self) -> list[Note]:
        if not self._history.exists():
            return []
        whole, _, _ = self._history.read_text().rpartition("\n")
        return [Note(*json.loads(line)) for line in whole.splitlines()]

    def acted(self, replica: str) -> int:
        """How often a replica has acted."""
        return sum(note.replica == replica and note.what == "acted" for note in self.history())

    def strike(self, replica: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a replica."""
        self._runs[replica].signal_all(number)

    async def stop(self) -> list[int]:
        """End those that live as a deployment does; their exit codes."""
        living = [run for run in self._runs.values() if not run.ended]
        return await asyncio.gather(*(asyncio.to_thread(run.stop) for run in living))

    def close(self) -> None:
        for run in self._runs.values():
            run.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped past its lease"])
async def test_two_replicas_act_one_at_a_time(
    cluster: ApiServer, actor: Actor, nats_server: Nats, tmp_path: Path, how: signal.Signals
) -> None:
    await actor.configmap("target")
    replicas = Replicas(
        tmp_path,
        nats_server.url,
        APP=f"replica-{actor.namespace}",
        KUBECONFIG=str(cluster.kubeconfig),
        NAMESPACE=actor.namespace,
    )
    made: list[str] = []

    async def work() -> None:
        while True:
            body = {"metadata": {"name": f"w{len(made)}", "labels": {"work": "yes"}}}
            await actor.create("configmaps", body)
            made.append(f"w{len(made)}")
            await asyncio.sleep(0.05)

    watch = Watch("leases.coordination.k8s.io", namespace=actor.namespace, kubeconfig=str(cluster.kubeconfig))
    worker = asyncio.create_task(work())
    try:
        replicas.start()
        async with Watching(watch) as leases:
            await eventually(lambda: max(replicas.acted("0"), replicas.acted("1")) > 10, seconds=60)
            leader, other = sorted("01", key=replicas.acted, reverse=True)
            replicas.strike(leader, how)
            await eventually(lambda: replicas.acted(other) > 10, seconds=60)
            if how == signal.SIGSTOP:
                # It wakes up in the middle of its handlers; each finds the lease gone before it acts.
                replicas.strike(leader, signal.SIGCONT)
                seen = replicas.acted(other)
                await eventually(lambda: replicas.acted(other) > seen + 20, seconds=60)
            worker.cancel()
            await eventually(lambda: set(made) <= {n.name for n in replicas.history() if n.what == "acted"}, seconds=60)
            holders = [
                (int(event.data["metadata"]["resourceVersion"]), event.data["spec"].get("holderIdentity") or "")
                for event in leases.events
            ]
            history = replicas.history()
        assert set(await replicas.stop()) == {0}
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        replicas.close()
    # In the server's order: whoever writes holds the lease.
    writers: dict[str, set[str]] = {}
    for note in history:
        if note.what == "acted":
            holder = [holder for version, holder in holders if version <= note.version][-1]
            writers.setdefault(holder, set()).add(note.replica)
    assert sorted(writers.values(), key=sorted) == [{"0"}, {"1"}]
    acted = [note.name for note in history if note.what == "acted"]
    # What was under way, or not saved, when the leader was struck may be done again by the other; no more.
    assert len(acted) - len(set(acted)) < 50
