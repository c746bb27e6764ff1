"""The API server and the app killed at random while pods churn: nothing is missed, nothing goes back."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.kubernetes.actor import Actor
from tests.kubernetes.churn import Churn
from tests.servers.apiserver import ApiServer

#: Where the long form begins: a run that was broken off goes on with the seed that it printed last.
SEED = int(os.environ.get("HEADRACE_SEED", "1"))


async def churned(server: ApiServer, owner: Actor, folder: Path, *, seed: int, pods: int, kills: int) -> Churn:
    churn = Churn(server, owner, folder, random.Random(seed), pods, kills)
    try:
        await churn.run()
    finally:
        churn.close()
    assert churn.code == 0, churn.log
    assert churn.violations() == []
    return churn


async def test_kills_at_random_while_pods_churn(private: ApiServer, owner: Actor, tmp_path: Path) -> None:
    churn = await churned(private, owner, tmp_path, seed=7, pods=200, kills=4)
    assert churn.removed
    assert churn.final


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
async def test_twenty_kills_at_random_while_2000_pods_churn(
    private: ApiServer, owner: Actor, tmp_path: Path, seed: int
) -> None:
    churn = await churned(private, owner, tmp_path, seed=seed, pods=2000, kills=20)
    told = churn.history()
    print(f"seed {seed}: {len(told)} events over {churn.life} lives, {churn.removed} removals, {len(churn.final)} left")
