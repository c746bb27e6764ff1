"""Kill -9 at each fail point × each source × each store, under load; see `tests.matrix.driver` for what is asked.

``HEADRACE_SEED`` chooses after how many passings each kill happens, and which cells the short form takes. A failing cell is
run again with the seed that it names and ``-k``.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.matrix.cells import CELLS, SOURCES, STORES, Cell, some
from tests.matrix.driver import Servers, run_cell
from tests.servers.apiserver import ApiServer
from tests.stores.test_postgres import a_database

SEED = int(os.environ.get("HEADRACE_SEED", "1"))
#: Cells that run at once: most of a cell is waiting for leases and sessions of the dead.
AT_ONCE = 6


@pytest.fixture(scope="module")
def servers(nats_server, kafka_server, postgres_server, redis_server) -> Iterator[Servers]:
    cluster = ApiServer().start()
    yield Servers(nats_server.url, kafka_server.url, a_database(postgres_server), redis_server.url, cluster.kubeconfig)
    cluster.close()


def run_all(cells: list[Cell], servers: Servers, folder: Path, *, kills: int, events: int) -> None:
    """Run cells, all of them whatever becomes of one, and tell what happened to each."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = [
            pool.submit(run_cell, cell, servers, folder / str(cell), SEED, kills=kills, events=events) for cell in cells
        ]
    failures = [str(future.exception()) for future in begun if future.exception() is not None]
    for future in begun:
        print(future.exception() or future.result())
    assert not failures, f"{len(failures)} of {len(cells)} cells:\n" + "\n\n".join(failures)


@pytest.mark.timeout(900)
def test_a_seeded_part_of_the_matrix_loses_nothing(servers: Servers, tmp_path: Path) -> None:
    run_all(some(SEED), servers, tmp_path, kills=1, events=96)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("source", SOURCES)
def test_the_whole_matrix_loses_nothing(source: str, store: str, servers: Servers, tmp_path: Path) -> None:
    cells = [cell for cell in CELLS if (cell.source, cell.store) == (source, store)]
    run_all(cells, servers, tmp_path, kills=2, events=160)
