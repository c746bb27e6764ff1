"""FastStream's subscriber on aiokafka on a backlog, as its documentation writes it. Prints seconds as JSON.

Arguments: bootstrap servers, topic, events. Runs in the peers' environment.
"""

import asyncio
import json
import sys
import time
from importlib.metadata import version

from faststream import FastStream
from faststream.kafka import KafkaBroker
from pydantic import BaseModel


class Order(BaseModel):
    id: str
    customer: str
    amount: float


async def main(bootstrap: str, topic: str, events: int) -> None:
    broker = KafkaBroker(bootstrap, logger=None)
    app = FastStream(broker)
    seen = 0
    first = last = 0.0

    @broker.subscriber(topic, group_id=f"faststream{time.time_ns()}", auto_offset_reset="earliest")
    async def handle(order: Order) -> None:
        nonlocal seen, first, last
        if not seen:
            first = time.perf_counter()
        seen += 1
        if seen == events:
            last = time.perf_counter()
            app.exit()

    await app.run()
    print(json.dumps({"seconds": last - first, "faststream": version("faststream")}))


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
