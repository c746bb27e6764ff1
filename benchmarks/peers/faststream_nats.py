"""FastStream's JetStream pull subscriber on a backlog, as its documentation writes it. Prints seconds as JSON.

Arguments: url, subject, events. Runs in the peers' environment.
"""

import asyncio
import json
import sys
import time
from importlib.metadata import version

from faststream import FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from nats.js.api import ConsumerConfig, DeliverPolicy
from pydantic import BaseModel


class Order(BaseModel):
    id: str
    customer: str
    amount: float


async def main(url: str, subject: str, events: int) -> None:
    broker = NatsBroker(url, logger=None)
    app = FastStream(broker)
    stream = JStream(subject.partition(".")[0], declare=False)
    seen = 0
    first = last = 0.0

    @broker.subscriber(
        subject,
        stream=stream,
        durable=f"faststream{time.time_ns()}",
        config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL, max_ack_pending=20000),
        pull_sub=PullSub(batch_size=1000),
    )
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
