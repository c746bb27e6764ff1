"""The other process of a store suite: opens a store, then does what each line of its input says. Killed by the suite."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Any

import msgspec

from headrace.engine.ledger import Attempts, Owner
from headrace.errors import HeadraceError
from headrace.testing.conformance.places import make_store


async def main(factory: str, url: str, lease: str) -> None:
    """``lease`` in seconds, or empty for the store's own."""
    store = make_store(factory, url, lease=float(lease) if lease else None)
    await store.open(Owner("conformance", f"claimant-{os.getpid()}", os.getpid(), socket.gethostname()))
    _say("open")
    while True:
        line = await asyncio.to_thread(sys.stdin.buffer.readline)
        if not line:
            await store.close()
            return
        operation, handler, *arguments = msgspec.json.decode(line)
        if operation == "record":
            recorded = msgspec.convert(arguments[0], list[tuple[tuple[str, str], Attempts]])
            call: Any = store.ledger.record(handler, recorded)
        else:
            identities = [tuple(identity) for identity in arguments[0]]
            call = getattr(store.ledger, operation)(handler, identities, *arguments[1:])
        try:
            _say(await call)
        except HeadraceError as error:
            _say({"error": type(error).__name__, "message": str(error)})


def _say(answer: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
