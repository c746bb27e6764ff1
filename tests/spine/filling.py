"""Fills a stream as fast as a plain client can, and reads a process's memory."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nats as client

from tests.spine.process import Run


async def fill(url: str, messages: Iterable[tuple[str, str, dict[str, Any]]], *, stream: str = "order") -> int:
    """Publish (subject, id, data) as CloudEvents without waiting for each confirmation; the stream's count at the end is
    checked. The stream captures its name and all below it."""
    connection = await client.connect(url, pending_size=64 << 20)
    count = 0
    try:
        js = connection.jetstream()
        await js.add_stream(name=stream, subjects=[stream, f"{stream}.>"])
        for subject, id, data in messages:
            await connection.publish(
                subject,
                json.dumps(data).encode(),
                headers={
                    "ce-specversion": "1.0",
                    "ce-id": id,
                    "ce-source": "/tests",
                    "ce-type": "order.created",
                    "content-type": "application/json",
                },
            )
            count += 1
            if count % 5000 == 0:
                await connection.flush(60)
        await connection.flush(60)
        while (await js.stream_info(stream)).state.messages < count:
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
    return count


def resident(run: Run) -> float:
    """MiB resident, of the worker alone."""
    pid = run.workers()[-1]
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def peak(run: Run) -> float:
    """MiB that the worker had resident at most."""
    status = Path(f"/proc/{run.workers()[-1]}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
