"""``headrace doctor``: what around an app loses data or will get in its way: servers' settings, clocks, limits, versions."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.broker import Finding
    from headrace.settings import Settings

__all__ = ["command"]

#: Open files that a worker may need: connections of brokers, stores and senders.
FILES: Final = 1024
#: Seconds that Kubernetes gives a container to end, unless told otherwise.
GRACE: Final = 30.0
#: Bytes of a path that a socket may have, on Linux and on other systems.
SOCKET_PATH: Final = 107 if sys.platform == "linux" else 103
#: Package → the scheme or feature that it is for, and the version that it must have at least.
PACKAGES: Final = {
    "nats-py": "nats://",
    "confluent-kafka": "kafka://",
    "psycopg": "postgresql://",
    "redis": "redis://",
    "aiohttp": "Kubernetes and HTTP sinks",
    "opentelemetry-api": "traces",
}


class Remark(NamedTuple):
    """One finding: what it is about, how bad it is, and a sentence with its remedy."""

    about: str
    level: str
    text: str


@click.command("doctor")
@click.argument("app", required=False)
@click.option("--broker", help="URL of the broker (HEADRACE_BROKER).")
@click.option("--store", help="URL of the store (HEADRACE_STORE).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding: about, level, text.")
def command(app: str | None, broker: str | None, store: str | None, as_json: bool) -> int:
    """Look at this machine, the broker and the store, with APP also at its channels. Nothing is created or changed.

    Exit code 0 without errors (warnings are none), 1 with some, 4 where broker or store cannot be reached.
    """
    from headrace.app import App
    from headrace.cli.loading import load

    given = {name: value for name, value in (("broker", broker), ("store", store)) if value is not None}
    loaded = App("doctor") if app is None else load(app)
    settings = loaded.settings(overrides=given)
    remarks = [*_versions(), *_machine(loaded.name), *_settings(settings)]
    reached, found = asyncio.run(_servers(loaded, settings))
    remarks += found
    order = ("error", "warning", "info")
    for remark in sorted(remarks, key=lambda remark: order.index(remark.level)):
        click.echo(json.dumps(remark._asdict()) if as_json else f"{remark.level:<8} {remark.about:<8} {remark.text}")
    if not reached:
        return 4
    return 1 if any(remark.level == "error" for remark in remarks) else 0


def _versions() -> Iterator[Remark]:
    from importlib.metadata import PackageNotFoundError, version

    from headrace import __version__

    yield Remark("versions", "info", f"headrace {__version__}, Python {sys.version.split()[0]} on {sys.platform}")
    if sys.platform == "win32":
        yield Remark(
            "versions", "error", "Windows is not supported: workers are forked and controlled over Unix sockets"
        )
    present = []
    for package, use in PACKAGES.items():
        try:
            present.append(f"{package} {version(package)} ({use})")
        except PackageNotFoundError:
            continue
    yield Remark("versions", "info", f"installed: {', '.join(present) or 'no transport'}")


def _machine(app: str) -> Iterator[Remark]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES:
        yield Remark(
            "machine", "warning", f"this process may open {soft} files (ulimit -n, up to {hard}): raise it to {FILES}"
        )
    here = Path.cwd()
    folder = here / ".headrace"
    place = folder if folder.exists() else here
    if not os.access(place, os.W_OK):
        text = f"{place} cannot be written: headrace handlers and trace will not reach a worker that runs here"
        yield Remark("machine", "warning", f"{text}; make .headrace/ writable")
    # A socket is bound by its relative name; those who name it in full are bound by this.
    longest = len(f".headrace/{app}-4194304.sock".encode())
    if longest > SOCKET_PATH:
        yield Remark(
            "machine", "warning", f"the name of app {app!r} is too long for a control socket ({longest} bytes)"
        )
    free = shutil.disk_usage(here).free
    if free < 2**30:
        yield Remark("machine", "warning", f"{free // 2**20} MiB are free on the disk of {here}")
    limit = _memory_limit()
    if limit is not None and limit < 128 * 2**20:
        text = f"this container may use {limit // 2**20} MiB of memory: a worker needs some 60, and 64 MiB a handler to prefetch"
        yield Remark("machine", "warning", f"{text}; raise the limit or lower HEADRACE_PREFETCH_BYTES")


def _memory_limit() -> int | None:
    """Bytes that this control group may use, where there is a limit."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 2**60 else None
    return None


def _settings(settings: Settings) -> Iterator[Remark]:
    from difflib import get_close_matches

    from headrace.cli.overview import COMMANDS
    from headrace.settings import SETTINGS, TRANSPORTS

    known = {f"HEADRACE_{setting.name.upper()}" for setting in SETTINGS}
    known |= {"HEADRACE_APP", "HEADRACE_JSON", "HEADRACE_OPERATOR", "HEADRACE_FAIL_POINT", "HEADRACE_SLOT"}
    starts = tuple(f"HEADRACE_{name.upper()}_" for name in (*TRANSPORTS, *COMMANDS))
    for variable in sorted(os.environ):
        if not variable.startswith("HEADRACE_") or variable in known or variable.startswith(starts):
            continue
        near = get_close_matches(variable, known, 1)
        remedy = f"is {near[0]} meant?" if near else "headrace check lists the settings"
        yield Remark("settings", "warning", f"{variable} is no setting and is ignored; {remedy}")
    if os.environ.get("HEADRACE_FAIL_POINT"):
        yield Remark("settings", "error", "HEADRACE_FAIL_POINT is set: a worker will kill itself; it is for tests only")
    drain = settings["drain"]
    if drain + 5 > GRACE:
        text = f"a drain may take {drain:g} s, and Kubernetes kills after {GRACE:g}"
        yield Remark("settings", "warning", f"{text}: set terminationGracePeriodSeconds to {drain + 5:g}")


async def _servers(app: App, settings: Settings) -> tuple[bool, list[Remark]]:
    """Whether broker and store answer, and what is to be said about them."""
    from headrace.errors import ConfigurationError, ConnectionFailed, HeadraceError, StoreUnavailable
    from headrace.stores.inspection import inspect_store

    remarks: list[Remark] = []
    reached = True
    asked: list[tuple[str, Any]] = []
    if settings["broker"]:
        asked.append(("broker", partial(_broker, app, settings)))
    else:
        remarks.append(Remark("broker", "info", "no broker is configured (HEADRACE_BROKER)"))
    stores = dict.fromkeys(url for url in (settings["store"], settings["dead_letters"]) if url)
    asked += [("store", partial(inspect_store, url)) for url in stores]
    for about, ask in asked:
        try:
            found: list[Finding] = await ask()
        except ConfigurationError:
            raise
        except (ConnectionFailed, StoreUnavailable) as error:
            reached = False
            remarks.append(Remark(about, "error", str(error)))
        except HeadraceError as error:
            remarks.append(Remark(about, "error", str(error)))
        else:
            remarks += [Remark(about, finding.level, finding.message) for finding in found]
    return reached, remarks


async def _broker(app: App, settings: Settings) -> list[Finding]:
    from headrace.worker import Worker, create_broker

    compiled = app.compile(settings)
    worker = Worker(app.name, compiled, settings)
    broker = worker.broker = create_broker(settings["broker"], app=app.name, settings=settings)
    try:
        await broker.open()
        names = tuple(one.handler.name for one in compiled)
        return await broker.inspect([(one.channel or one.declaration, worker.binding(one, names)) for one in compiled])
    finally:
        await broker.close()
