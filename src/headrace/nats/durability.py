"""How much a NATS server may lose of what it confirmed: how often it syncs, and how many copies our streams have.

A client is not told how often a server syncs. `HEADRACE_NATS_MONITOR` names the monitoring endpoints of the servers
(``http://host:8222``, several separated by commas), which say it.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING, Any, Final

from headrace.engine.broker import Finding
from headrace.nats.api import ApiError
from headrace.nats.requests import Silent

if TYPE_CHECKING:
    from headrace.nats.broker import NatsBroker

__all__ = ["durability"]

#: Seconds for one monitoring endpoint.
_WITHIN: Final = 3.0
#: Bytes read of its answer.
_LONGEST: Final = 4 * 1024 * 1024
_REMEDY: Final = "use replicas (HEADRACE_NATS_STREAM_REPLICAS=3), or set sync_interval: always"


async def durability(broker: NatsBroker) -> list[Finding]:
    """Findings about syncing and copies; the connection is open."""
    return [*await _syncing(broker), *await _copies(broker)]


async def _syncing(broker: NatsBroker) -> list[Finding]:
    monitors = [part.strip() for part in broker.setting("monitor").split(",") if part.strip()]
    if not monitors:
        text = (
            "JetStream confirms writes before they are on the disk, and syncs every 2 minutes unless configured: a machine "
            f"that loses power can lose confirmed events; {_REMEDY}. HEADRACE_NATS_MONITOR=http://host:8222 lets doctor look"
        )
        return [Finding("warning", text)]
    return [await asyncio.to_thread(_monitored, monitor) for monitor in monitors]


def _monitored(monitor: str) -> Finding:
    """What one server says of itself."""
    if not monitor.startswith(("http://", "https://")):
        return Finding("error", f"HEADRACE_NATS_MONITOR: {monitor!r} is no http:// URL")
    try:
        with urllib.request.urlopen(f"{monitor.rstrip('/')}/varz", timeout=_WITHIN) as answer:
            about: dict[str, Any] = json.loads(answer.read(_LONGEST))
    except (OSError, ValueError) as error:
        return Finding("error", f"the monitoring endpoint {monitor} does not say how the server syncs: {error}")
    config = (about.get("jetstream") or {}).get("config") or {}
    name = about.get("server_name") or monitor
    if config.get("sync_always"):
        return Finding("info", f"server {name} syncs every write before it is confirmed (sync_interval: always)")
    seconds = int(config.get("sync_interval", 120_000_000_000)) / 1e9
    text = (
        f"server {name} confirms writes before they are on the disk and syncs every {seconds:g} s (sync_interval): a machine "
        f"that loses power can lose confirmed events of that time; {_REMEDY}"
    )
    return Finding("warning", text)


async def _copies(broker: NatsBroker) -> list[Finding]:
    """Streams of ours with one copy in a cluster: those of channels are looked at with their handlers."""
    if not broker.connection._server_info.get("cluster"):
        return []
    found = []
    if int(broker.stream_defaults().get("num_replicas", 1)) == 1:
        text = (
            "the server is part of a cluster, and streams that the app creates have one copy: they are away while its node "
            "is, and lost with its disk; set HEADRACE_NATS_STREAM_REPLICAS=3"
        )
        found.append(Finding("warning", text))
    for name in (f"headrace_dlq_{broker.app}", f"headrace_replay_{broker.app}", f"KV_headrace_{broker.app}"):
        try:
            stream = await broker.api.stream(name)
        except (Silent, ApiError) as error:
            found.append(Finding("warning", f"stream {name} cannot be looked at: {error}"))
            continue
        if stream is not None and stream["config"].get("num_replicas", 1) == 1:
            text = f"stream {name} has one copy in a cluster: nats stream edit {name} --replicas 3"
            found.append(Finding("warning", text))
    return found
