"""The app of `test_crashes` and `test_fencing`: a transactional handler on NATS, until its standard input ends. ``WORK``:
seconds of waiting inside each transaction.

Arguments: broker URL, store URL, stream. The history of what it did is in the store.
"""

import asyncio
import os
import sys

from headrace import App
from headrace.stores import Transaction, shared

BROKER, STORE, STREAM = sys.argv[1:]
# The claims of a killed process are free when its lease has run out: the test need not wait for the usual one.
shared.LEASE, shared.RENEW = 1.0, 0.3

# Held events stay below the passings of a fail point, so that each life gets on.
app = App("shop", broker=BROKER, store=STORE, admin="127.0.0.1:0", prefetch=16)
WORK = float(os.environ.get("WORK", "0"))
MARK = "?" if STORE.startswith("sqlite") else "%s"


@app.on(f"{STREAM}.created", key="customer", concurrency=8, publishes=f"{STREAM}.paid", publish_key="customer")
async def pay(order: dict, tx: Transaction) -> dict:
    await tx.execute(f"INSERT INTO payments VALUES ({MARK}, {MARK})", (order["customer"], order["number"]))
    if WORK:
        await asyncio.sleep(WORK)
    return order


async def main() -> None:
    async with app.running():
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
