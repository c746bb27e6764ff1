"""NATS: one server, or a cluster of three, as a test wants it protected and limited.

``url`` holds what a client needs, credentials and authority included, in the form that Headrace reads: it is what a
user would put into ``HEADRACE_BROKER``.
"""

import json
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from tests.servers.ports import HOST
from tests.servers.process import Child, ServerError
from tests.servers.server import Server, wait_until
from tests.servers.versions import NATS_WHEEL
from tests.servers.wheels import script

USER, PASSWORD, TOKEN = "alice", "alice-secret", "s3cr3t-token"

Auth = Literal["user", "token", "nkey", "creds"]
Tls = Literal["server", "mutual"]


class Nats(Server):
    """One nats-server.

    Args:
        folder: see `Server`.
        jetstream: whether it stores; its store lies in the folder.
        sync_interval: how often the store is synced to the disk, as the server reads it (``always``, ``2m``).
        max_payload: the largest message in bytes; the server's default is 1 MiB.
        auth: how clients say who they are; ``None`` lets everybody in.
        tls: ``server`` shows a certificate, ``mutual`` also asks for one.
        extra: lines for the end of the configuration file.
    """

    name = "nats"
    port_count = 2

    def __init__(
        self,
        *,
        folder: Path | None = None,
        jetstream: bool = True,
        sync_interval: str | None = None,
        max_payload: int | None = None,
        auth: Auth | None = None,
        tls: Tls | None = None,
        extra: str = "",
    ) -> None:
        super().__init__(folder=folder)
        self.extra = extra
        self._jetstream = jetstream
        self._sync_interval = sync_interval
        self._max_payload = max_payload
        self._auth = auth
        self._tls = tls

    @classmethod
    def fetch(cls) -> None:
        script("nats-server", NATS_WHEEL)

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def address(self) -> str:
        """``host:port``, without credentials."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        who = {"user": f"{USER}:{PASSWORD}@", "token": f"{TOKEN}@"}.get(self._auth or "", "")
        options: dict[str, str] = {}
        if self._auth == "nkey":
            options["nkey"] = str(self.seed)
        if self._auth == "creds":
            options["creds"] = str(self.creds)
        if self._tls:
            options["tls_ca"] = str(self.tls_folder / "authority.pem")
        if self._tls == "mutual":
            options["tls_cert"] = str(self.tls_folder / "client.pem")
            options["tls_key"] = str(self.tls_folder / "client.key")
        query = f"?{urlencode(options, safe='/')}" if options else ""
        return f"{'tls' if self._tls else 'nats'}://{who}{self.address}{query}"

    @property
    def seed(self) -> Path:
        """The file with the user's nkey seed, where ``auth`` is ``nkey``."""
        return self.folder / "user.nk"

    @property
    def creds(self) -> Path:
        """The user's creds file, where ``auth`` is ``creds``."""
        return self.folder / "user.creds"

    @property
    def tls_folder(self) -> Path:
        """Where `make_certificates` put its files."""
        return self.folder / "tls"

    def monitor(self, path: str) -> dict[str, Any]:
        """What the monitoring port says, e.g. of ``jsz``."""
        return _monitor(self.ports[1], path)

    def reload(self) -> None:
        """Let the server read its configuration again, ``extra`` as it is now."""
        self._write()
        self.children[0].signal(signal.SIGHUP)

    def prepare(self) -> list[Child]:
        self._write()
        program = script("nats-server", NATS_WHEEL)
        return [
            Child("nats-server", [str(program), "-c", str(self.folder / "nats.conf")], log=self.folder / "nats.log")
        ]

    def is_ready(self, child: Child) -> bool:
        return greets(self.port)

    def _write(self) -> None:
        lines = [f'listen: "{self.address}"', f'http: "{HOST}:{self.ports[1]}"', 'server_name: "tests"']
        lines += store_lines(self.folder / "jetstream", self._sync_interval) if self._jetstream else []
        if self._max_payload is not None:
            lines += [f"max_payload: {self._max_payload}"]
        lines += self._auth_lines() + self._tls_lines()
        (self.folder / "nats.conf").write_text("\n".join([*lines, self.extra, ""]))

    def _auth_lines(self) -> list[str]:
        match self._auth:
            case "user":
                return [f'authorization {{ user: "{USER}", password: "{PASSWORD}" }}']
            case "token":
                return [f'authorization {{ token: "{TOKEN}" }}']
            case "nkey":
                return [f"authorization {{ users: [ {{ nkey: {self._nkey()} }} ] }}"]
            case "creds":
                from tests.servers.nats_auth import make_operator

                return [make_operator(self.folder).configuration]
        return []

    def _nkey(self) -> str:
        from tests.servers.nats_auth import user_identity

        public = self.folder / "user.pub"
        if not public.exists():
            identity = user_identity()
            self.seed.write_bytes(identity.seed)
            self.seed.chmod(0o600)
            public.write_text(identity.public)
        return public.read_text()

    def _tls_lines(self) -> list[str]:
        if self._tls is None:
            return []
        from tests.servers.certificates import make_certificates

        made = make_certificates(self.folder)
        verify = "true" if self._tls == "mutual" else "false"
        return [
            f'tls {{ cert_file: "{made.server_certificate}", key_file: "{made.server_key}", '
            f'ca_file: "{made.authority}", verify: {verify} }}'
        ]


class NatsCluster(Server):
    """Nodes that replicate their streams. A node is a child: ``kill_node`` and ``start_node`` break and mend one.

    Args:
        folder: see `Server`.
        nodes: how many; three keep a majority without one.
        extra: lines for the end of every node's configuration file.
    """

    name = "nats-cluster"

    def __init__(self, *, folder: Path | None = None, nodes: int = 3, extra: str = "") -> None:
        super().__init__(folder=folder)
        self._nodes = nodes
        self._extra = extra
        self.port_count = 3 * nodes

    @classmethod
    def fetch(cls) -> None:
        Nats.fetch()

    def _port(self, node: int, purpose: Literal["client", "route", "monitor"]) -> int:
        return self.ports[3 * node + ("client", "route", "monitor").index(purpose)]

    @property
    def urls(self) -> list[str]:
        """One address a node."""
        return [f"nats://{HOST}:{self._port(node, 'client')}" for node in range(self._nodes)]

    @property
    def url(self) -> str:
        return "nats://" + ",".join(url.removeprefix("nats://") for url in self.urls)

    def prepare(self) -> list[Child]:
        program = script("nats-server", NATS_WHEEL)
        routes = ", ".join(f'"nats://{HOST}:{self._port(node, "route")}"' for node in range(self._nodes))
        children = []
        for node in range(self._nodes):
            lines = [
                f'listen: "{HOST}:{self._port(node, "client")}"',
                f'http: "{HOST}:{self._port(node, "monitor")}"',
                f'server_name: "node{node}"',
                *store_lines(self.folder / f"jetstream-{node}", None),
                f'cluster {{ name: "tests", listen: "{HOST}:{self._port(node, "route")}", routes: [{routes}] }}',
                self._extra,
            ]
            configuration = self.folder / f"node{node}.conf"
            configuration.write_text("\n".join(lines) + "\n")
            log = self.folder / f"node{node}.log"
            children.append(Child(f"nats-server node{node}", [str(program), "-c", str(configuration)], log=log))
        return children

    def is_ready(self, child: Child) -> bool:
        return greets(self._port(self.children.index(child), "client"))

    def settled(self) -> None:
        """Every node has a leader for the cluster's own records and has caught up with it."""
        wait_until(
            lambda: all(_is_healthy(self._port(node, "monitor")) for node in range(self._nodes)),
            timeout=self.ready_timeout,
            problem=lambda: f"the NATS cluster has no leader\n{self.log()}",
        )

    def monitor(self, node: int, path: str) -> dict[str, Any]:
        """What the monitoring port of a node says."""
        return _monitor(self._port(node, "monitor"), path)

    def leader(self, stream: str) -> int:
        """The node that leads a stream."""
        found = self.monitor(0, "jsz?streams=true")
        for account in found.get("account_details", []):
            for detail in account.get("stream_detail", []):
                if detail["name"] == stream:
                    return int(str(detail["cluster"]["leader"]).removeprefix("node"))
        raise ServerError(f"the NATS cluster has no leader for the stream {stream!r}")

    def kill_node(self, node: int) -> None:
        """SIGKILL to one node."""
        self.children[node].kill()

    def start_node(self, node: int) -> None:
        """Start it again on its port and data."""
        child = self.children[node]
        child.start()
        child.wait_ready(lambda: self.is_ready(child), timeout=self.ready_timeout)


def store_lines(folder: Path, sync_interval: str | None) -> list[str]:
    """The JetStream part of a configuration."""
    lines = ["jetstream {", f'  store_dir: "{folder}"']
    if sync_interval is not None:
        lines.append(f"  sync_interval: {sync_interval}")
    return [*lines, "}"]


def greets(port: int) -> bool:
    """Whether a NATS server speaks on ``port``: it does so first, before any TLS."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as link:
            return link.recv(4) == b"INFO"
    except OSError:
        return False


def _monitor(port: int, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{HOST}:{port}/{path}", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _is_healthy(port: int) -> bool:
    try:
        return bool(_monitor(port, "healthz").get("status") == "ok")
    except OSError:
        return False
