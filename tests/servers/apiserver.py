"""A real Kubernetes API server with its etcd, one pair a test run, private ones for faults.

No kubelet and no controllers run: tests patch pod status themselves. The binary is built once from the Go module in
``tests/servers/kubernetes`` and kept in the cache.
"""

import base64
import json
import secrets
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.golang import built
from tests.servers.ports import HOST
from tests.servers.process import Child
from tests.servers.server import Server
from tests.servers.versions import KUBERNETES

MODULE = Path(__file__).parent / "kubernetes"
ADMIN, PLAIN, OTHER = "admin-token", "plain-token", "other-token"


class ApiServer(Server):
    """One kube-apiserver and its etcd.

    Args:
        folder: see `Server`.
        flags: further flags of kube-apiserver.
    """

    name = "kubernetes"
    port_count = 3
    ready_timeout: ClassVar[float] = 60.0

    def __init__(self, *, folder: Path | None = None, flags: Sequence[str] = ()) -> None:
        super().__init__(folder=folder)
        self._flags = list(flags)

    @classmethod
    def fetch(cls) -> None:
        _program()

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.ports[2]}"

    @property
    def certificate(self) -> Path:
        """The API server's certificate, which is its own authority."""
        return self.folder / "certs" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig whose only user is an admin with a token."""
        return self.folder / "kubeconfig"

    def description(self) -> dict[str, str]:
        return {**super().description(), "kubeconfig": str(self.kubeconfig)}

    @property
    def api(self) -> Child:
        return self.children[1]

    def kubeconfig_for(self, token: str, *, server: str | None = None, namespace: str | None = None) -> Path:
        """A kubeconfig for another token, or through another address."""
        path = self.folder / f"kubeconfig-{token}-{(server or 'direct').rpartition(':')[2]}-{namespace or 'all'}"
        context: dict[str, str] = {"cluster": "test", "user": "test"}
        if namespace:
            context["namespace"] = namespace
        cluster = {"server": server or self.url, "certificate-authority": str(self.certificate)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": context}],
        }
        path.write_text(json.dumps(document))
        return path

    def prepare(self) -> list[Child]:
        (self.folder / "tokens.csv").write_text(f'{ADMIN},admin,1,"system:masters"\n{PLAIN},plain,2\n{OTHER},other,3\n')
        keys = self.folder / "service-account.key"
        if not keys.exists():
            keys.write_text(_service_account_key())
        program = str(_program())
        peer, client, secure = self.ports
        etcd = [
            program, "etcd", "--data-dir", str(self.folder / "etcd"),
            "--listen-client-urls", f"http://{HOST}:{client}", "--advertise-client-urls", f"http://{HOST}:{client}",
            "--listen-peer-urls", f"http://{HOST}:{peer}", "--initial-advertise-peer-urls", f"http://{HOST}:{peer}",
            "--initial-cluster", f"default=http://{HOST}:{peer}", "--log-level", "warn", "--unsafe-no-fsync",
        ]  # fmt: skip
        api = [
            program, "kube-apiserver", "--etcd-servers", f"http://{HOST}:{client}",
            f"--bind-address={HOST}", f"--advertise-address={HOST}", f"--secure-port={secure}",
            f"--cert-dir={self.folder / 'certs'}", f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys}", f"--service-account-signing-key-file={keys}",
            "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24", *self._flags,
        ]  # fmt: skip
        return [
            Child("etcd", etcd, log=self.folder / "etcd.log"),
            # Asked politely it waits a minute for open watches.
            Child("kube-apiserver", api, log=self.folder / "kube-apiserver.log", stop_signal=signal.SIGKILL),
        ]

    def is_ready(self, child: Child) -> bool:
        address = f"http://{HOST}:{self.ports[1]}/health" if child.name == "etcd" else f"{self.url}/readyz"
        try:
            # Not verified: the certificate may not be written yet, and this is loopback.
            request = urllib.request.Request(address, headers={"Authorization": f"Bearer {ADMIN}"})
            with urllib.request.urlopen(request, timeout=2, context=_unverified()) as answer:
                ready = answer.status == 200
        except OSError:
            return False
        if ready and child.name == "kube-apiserver":
            self.kubeconfig_for(ADMIN).replace(self.kubeconfig)
        return ready

    def kill_api(self) -> None:
        """SIGKILL to kube-apiserver alone."""
        self.api.kill()

    def start_api(self) -> None:
        """Start kube-apiserver again and wait until it serves."""
        self.api.start()
        self.api.wait_ready(lambda: self.is_ready(self.api), timeout=self.ready_timeout)

    def compact(self) -> None:
        """Forget etcd's history up to now."""
        revision = self._etcd("kv/range", {"key": "AA=="})["header"]["revision"]
        self._etcd("kv/compaction", {"revision": revision, "physical": True})

    def _etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"http://{HOST}:{self.ports[1]}/v3/{path}", data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _program() -> Path:
    major, minor, _ = KUBERNETES.split(".")
    version = "k8s.io/component-base/version"
    flags = f"-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    command = ["build", "-p", "2", "-trimpath", "-ldflags", flags, "-o", "{out}/kubernetes", "."]
    env = {"CGO_ENABLED": "0", "GOGC": "400", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    return built("kubernetes", KUBERNETES, command, folder=MODULE, env=env) / "kubernetes"


def _service_account_key() -> str:
    """A P-256 key as RFC 5915 writes it, without its public half, which its reader works out."""
    # Below the order of the curve, which begins with four bytes of ones.
    scalar = b"\x01" + secrets.token_bytes(31)
    curve = bytes.fromhex("06082a8648ce3d030107")
    body = b"\x02\x01\x01" + b"\x04\x20" + scalar + b"\xa0" + bytes([len(curve)]) + curve
    text = base64.encodebytes(b"\x30" + bytes([len(body)]) + body).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"
