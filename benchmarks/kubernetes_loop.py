"""A bare list and watch of pods: no recovery, no order, no checkpoint; what Python and the server cost by themselves.

Speaks like ``kubernetes_app``. Arguments: the API server's address, its authority's file, a token.
"""

import asyncio
import json
import os
import ssl
import sys
import time

import aiohttp
import msgspec
import uvloop

COUNTS = {int(count) for count in os.environ["COUNTS"].split(",")}
ARRIVALS = os.environ.get("ARRIVALS", "")


class Metadata(msgspec.Struct, rename="camel"):
    name: str
    uid: str
    resource_version: str


class Named(msgspec.Struct):
    metadata: Metadata


class Change(msgspec.Struct):
    type: str
    object: Named


class Version(msgspec.Struct, rename="camel"):
    resource_version: str


class Listed(msgspec.Struct):
    metadata: Version
    items: list[Named]


async def main(server: str, certificate: str, token: str) -> None:
    tls = ssl.create_default_context(cafile=certificate)
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    url = f"{server}/api/v1/namespaces/{os.environ['NAMESPACE']}/pods"
    arrivals: dict[str, float] = {}
    known: dict[str, tuple[str, str]] = {}
    seen = 0
    lines = msgspec.json.Decoder(Change)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls),
        headers={"Authorization": f"Bearer {token}"},
        read_bufsize=1 << 20,
        timeout=aiohttp.ClientTimeout(total=None),
    )

    def take(found: Metadata) -> None:
        nonlocal seen
        known[found.name] = (found.uid, found.resource_version)
        seen += 1
        if ARRIVALS:
            arrivals[found.resource_version] = time.time()
        if seen in COUNTS:
            reached()

    def reached() -> None:
        if ARRIVALS:
            with open(ARRIVALS, "w") as file:
                json.dump(arrivals, file)
        print(seen, flush=True)

    async with session:
        async with session.get(url, params={"resourceVersion": "0"}) as answer:
            listed = msgspec.json.decode(await answer.read(), type=Listed)
        for item in listed.items:
            take(item.metadata)
        version = listed.metadata.resource_version
        del listed
        while True:
            # A server that is short of time ends the watch of a client that does not keep up.
            async with session.get(url, params={"watch": "true", "resourceVersion": version}) as answer:
                rest = b""
                async for chunk in answer.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        found = lines.decode(line).object.metadata
                        version = found.resource_version
                        take(found)


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main(*sys.argv[1:]))
