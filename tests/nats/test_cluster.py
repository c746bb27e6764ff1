"""Three nodes, streams with three copies: leaders killed, one node paused, two of three down, while events flow."""

import asyncio
import time
from collections.abc import Callable

import pytest

from headrace.nats.broker import create
from tests.nats.processes import Steady, all_is_well, recovers
from tests.servers.nats import NatsCluster
from tests.servers.server import ServerError
from tests.spine.conftest import Start
from tests.spine.conftest import start as start


@pytest.fixture
def nats(start_nats_cluster: Callable[..., NatsCluster]) -> NatsCluster:
    """The cluster that runs are started on, with the stream of the orders in three copies."""
    cluster = start_nats_cluster()

    async def prepare() -> None:
        broker = create(cluster.url, app="setup", settings={"stream_replicas": "3"}, ready_within=10)
        await broker.open()
        await broker.sink("order.created").open()
        await broker.close()

    asyncio.run(prepare())
    return cluster


def leader(cluster: NatsCluster) -> int:
    """The node that leads the stream, once there is one."""
    end = time.monotonic() + 30
    while True:
        try:
            return cluster.leader("order")
        except (ServerError, OSError, KeyError, ValueError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)], ids=lambda kills: f"{kills} leaders")
def test_killed_leaders_lose_nothing_and_reorder_nothing(nats: NatsCluster, start: Start, kills: int) -> None:
    run = start(HEADRACE_NATS_STREAM_REPLICAS="3")
    run.until(run.ready, "not ready")
    with Steady(nats.url, run, rounds=60 * kills) as publisher:
        recovers(run, "the start")
        for _ in range(kills):
            node = leader(nats)
            nats.kill_node(node)
            recovers(run, f"leader node{node} killed")
            nats.start_node(node)
            nats.settled()
    all_is_well(run, publisher.events)


@pytest.mark.parametrize(
    "seconds", [4, pytest.param(30, marks=pytest.mark.long)], ids=lambda seconds: f"{seconds} seconds"
)
def test_two_of_three_nodes_down_stop_the_flow_and_lose_nothing(
    nats: NatsCluster, start: Start, seconds: float
) -> None:
    run = start(HEADRACE_NATS_STREAM_REPLICAS="3")
    run.until(run.ready, "not ready")
    with Steady(nats.url, run, rounds=60) as publisher:
        recovers(run, "the start")
        for node in (0, 1):
            nats.kill_node(node)
        time.sleep(seconds)  # the fault itself
        for node in (0, 1):
            nats.start_node(node)
        recovers(run, "two nodes were down")
    all_is_well(run, publisher.events)


@pytest.mark.parametrize(
    "seconds", [2, pytest.param(15, marks=pytest.mark.long)], ids=lambda seconds: f"{seconds} seconds"
)
def test_a_paused_leader_loses_nothing_and_reorders_nothing(nats: NatsCluster, start: Start, seconds: float) -> None:
    run = start(HEADRACE_NATS_STREAM_REPLICAS="3")
    run.until(run.ready, "not ready")
    with Steady(nats.url, run, rounds=60) as publisher:
        recovers(run, "the start")
        node = leader(nats)
        nats.children[node].pause()
        time.sleep(seconds)  # the fault itself
        nats.children[node].resume()
        recovers(run, f"leader node{node} paused for {seconds} s")
    all_is_well(run, publisher.events)
