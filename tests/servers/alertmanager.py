"""Alertmanager, from its Debian package: what alert rules end in.

Debian's build reads its templates from a fixed folder below /usr/share, which only an installed package has. The unpacked
program gets a relative path of the same length instead, so that it finds them in the folder where it is started.
"""

import shutil
import urllib.request
from pathlib import Path

from tests.servers.cache import locked
from tests.servers.debian import unpacked
from tests.servers.ports import HOST
from tests.servers.process import Child
from tests.servers.server import Server
from tests.servers.versions import ALERTMANAGER

_TEMPLATES = b"/usr/share/prometheus/alertmanager"


class Alertmanager(Server):
    """One Alertmanager.

    Args:
        folder: see `Server`.
        webhook: where it sends alerts; nowhere by default.
    """

    name = "alertmanager"

    def __init__(self, *, folder: Path | None = None, webhook: str | None = None) -> None:
        super().__init__(folder=folder)
        self._webhook = webhook

    @classmethod
    def fetch(cls) -> None:
        _program()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports[0]}"

    def prepare(self) -> list[Child]:
        receiver = "receivers: [{name: tests"
        if self._webhook:
            receiver += f", webhook_configs: [{{url: '{self._webhook}', send_resolved: true}}]"
        for template in (_root() / _TEMPLATES.decode().lstrip("/")).glob("*.tmpl"):
            shutil.copy(template, self.folder)
        configuration = self.folder / "alertmanager.yml"
        configuration.write_text(
            "route: {receiver: tests, group_wait: 0s, group_interval: 1s, repeat_interval: 1h}\n" + receiver + "}]\n"
        )
        command = [
            str(_program()),
            f"--config.file={configuration}",
            f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address={HOST}:{self.ports[0]}",
            "--cluster.listen-address=",
        ]
        return [Child("alertmanager", command, log=self.folder / "alertmanager.log")]

    def is_ready(self, child: Child) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _program() -> Path:
    root = _root()
    program = root / "relocated"
    if not program.exists():
        with locked("alertmanager-relocation"):
            making = root / "relocating"
            installed = (root / "usr/bin/prometheus-alertmanager").read_bytes()
            making.write_bytes(installed.replace(_TEMPLATES, b"./" * (len(_TEMPLATES) // 2)))
            making.chmod(0o755)
            making.rename(program)
    return program


def _root() -> Path:
    return unpacked("prometheus-alertmanager", ALERTMANAGER)
