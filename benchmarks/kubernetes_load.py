"""The load of the Kubernetes rows: pods of some 3 KB on a real API server, and changes of their status at a steady rate."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterable

import aiohttp

#: Creations and patches on their way at once.
AT_ONCE = 24


class Load:
    """One namespace's pods.

    Args:
        server: the API server's address; certificate: its authority; token: an admin's.
    """

    def __init__(self, server: str, certificate: str, token: str, namespace: str = "bench") -> None:
        self._tls = ssl.create_default_context(cafile=certificate)
        self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._base = f"{server}/api/v1/namespaces"
        self._headers = {"Authorization": f"Bearer {token}"}
        self.namespace = namespace
        self.session: aiohttp.ClientSession

    async def __aenter__(self) -> Load:
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), headers=self._headers
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.session.close()

    async def create(self, pods: int) -> None:
        """The namespace and its pods, ``p0`` to ``p<pods-1>``."""
        async with self.session.post(self._base, json={"metadata": {"name": self.namespace}}) as answer:
            assert answer.status in (201, 409), await answer.text()
        variables = [{"name": f"VARIABLE_{n}", "value": "x" * 60} for n in range(18)]
        spec = {"containers": [{"name": "main", "image": "registry.example/web:1", "env": variables}]}
        numbers = iter(range(pods))

        async def creator() -> None:
            for n in numbers:
                body = {"metadata": {"name": f"p{n}", "labels": {"app": f"a{n % 50}"}}, "spec": spec}
                async with self.session.post(f"{self._base}/{self.namespace}/pods", json=body) as answer:
                    assert answer.status == 201, await answer.text()

        await asyncio.gather(*(creator() for _ in range(AT_ONCE)))

    async def change(self, numbers: Iterable[int], rate: float, begun: dict[str, float] | None = None) -> float:
        """Patch the status of these pods, ``rate`` a second where the server keeps up with that; the rate that it was.
        ``begun`` gets when (``time.time()``) each change was asked for, by the version that it made."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        free = asyncio.Semaphore(AT_ONCE)

        async def patch(n: int, turn: int) -> None:
            body = json.dumps({"status": {"message": f"turn {turn} at {time.time_ns()}"}}).encode()
            url = f"{self._base}/{self.namespace}/pods/p{n}/status"
            headers = {"Content-Type": "application/merge-patch+json"}
            asked = time.time()
            try:
                async with self.session.patch(url, data=body, headers=headers) as answer:
                    found = await answer.json()
                    assert answer.status == 200, found
            finally:
                free.release()
            if begun is not None:
                begun[found["metadata"]["resourceVersion"]] = asked

        patches = []
        for turn, n in enumerate(numbers):
            delay = started + turn / rate - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            # A server that is behind is not buried: what it has not answered in a minute it refuses.
            await free.acquire()
            patches.append(asyncio.ensure_future(patch(n, turn)))
        await asyncio.gather(*patches)
        return len(patches) / (loop.time() - started)
