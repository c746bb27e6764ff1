"""Toxiproxy: faults on the wire from a program of its own, for what must hold against somebody else's proxy too.

Most tests want `tests.servers.wire`, which cuts at an exact byte; this one limits rates over many connections and is
driven over HTTP, so that another process can drive it.
"""

import json
import urllib.request
from pathlib import Path
from typing import Any, Literal

from tests.servers.golang import built
from tests.servers.ports import HOST
from tests.servers.process import Child
from tests.servers.server import Server
from tests.servers.versions import TOXIPROXY


class Toxiproxy(Server):
    """One Toxiproxy; ``url`` is its HTTP interface."""

    name = "toxiproxy"

    @classmethod
    def fetch(cls) -> None:
        _program()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports[0]}"

    def prepare(self) -> list[Child]:
        command = [str(_program()), "-host", HOST, "-port", str(self.ports[0])]
        return [Child("toxiproxy", command, log=self.folder / "toxiproxy.log")]

    def is_ready(self, child: Child) -> bool:
        try:
            self._call("GET", "/version")
        except OSError:
            return False
        return True

    def proxy(self, name: str, port: int) -> int:
        """Forward a free loopback port to ``port``, and say which."""
        made = self._call("POST", "/proxies", {"name": name, "listen": f"{HOST}:0", "upstream": f"{HOST}:{port}"})
        return int(made["listen"].rpartition(":")[2])

    def poison(
        self,
        proxy: str,
        toxic: Literal["latency", "bandwidth", "slow_close", "timeout", "reset_peer", "slicer", "limit_data"],
        *,
        stream: Literal["upstream", "downstream"] = "downstream",
        **attributes: int,
    ) -> None:
        """Add a toxic. Times are in ms, rates in KB/s; ``timeout=0`` leaves connections half open.

        ``reset_peer`` resets only connections that are opened after it was added.
        """
        self._call("POST", f"/proxies/{proxy}/toxics", {"type": toxic, "stream": stream, "attributes": attributes})

    def cure(self, proxy: str) -> None:
        """Remove every toxic of a proxy. Connections that a ``timeout`` has left half open are closed."""
        for toxic in self._call("GET", f"/proxies/{proxy}/toxics"):
            self._call("DELETE", f"/proxies/{proxy}/toxics/{toxic['name']}")

    def remove(self, proxy: str) -> None:
        """End a proxy and its connections."""
        self._call("DELETE", f"/proxies/{proxy}")

    def enable(self, proxy: str, *, enabled: bool) -> None:
        """Refuse connections and close the open ones, or let them in again."""
        self._call("POST", f"/proxies/{proxy}", {"enabled": enabled})

    def reset(self) -> None:
        """Enable every proxy and remove every toxic."""
        self._call("POST", "/reset")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, method=method), timeout=5) as answer:
            text = answer.read()
        return json.loads(text) if text[:1] in (b"{", b"[") else text


def _program() -> Path:
    module = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{TOXIPROXY}"
    return built("toxiproxy", TOXIPROXY, ["install", module], env={"GOBIN": "{out}", "CGO_ENABLED": "0"}) / "server"
