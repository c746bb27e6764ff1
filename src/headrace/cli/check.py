"""``headrace check APP``: validate an app and say in words what it will do."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.app import App
    from headrace.compilation import Compiled
    from headrace.settings import Settings

__all__ = ["command"]

#: Names of settings whose values are not for every eye.
_SECRET = re.compile("password|secret|token|seed|nkey|key$|pem$")


@click.command("check")
@click.argument("app")
@click.option("--connect", is_flag=True, help="Also ask broker and store; nothing is created.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(app: str, connect: bool, as_json: bool) -> int:
    """Validate APP: its handlers, their policies in words, each setting and where it came from."""
    from headrace.cli.loading import load

    loaded = load(app)
    settings = loaded.settings()
    compiled = loaded.compile(settings)
    defaults = asyncio.run(_made(loaded, compiled, settings))
    lines = [
        *_handlers(compiled, settings),
        *_settings(settings, defaults),
        *_remarks(compiled, settings),
        *_rights(compiled, connect),
    ]
    code = 0
    if connect:
        findings = asyncio.run(_inspect(loaded, compiled, settings))
        findings += asyncio.run(_inspect_rights(compiled, settings))
        lines += [{"finding": level, "text": f"{level}: {message}"} for level, message, _ in findings]
        code = max((code for level, _, code in findings if level == "error"), default=0)
    for line in lines:
        click.echo(json.dumps(line) if as_json else line["text"])
    return code


async def _made(app: App, compiled: list[Compiled], settings: Settings) -> Mapping[str, str]:
    """Make broker, stores and sources as ``run`` does, and connect none: what they refuse is refused here. The broker's own
    settings and what each is where it is not set."""
    from headrace.http.server import split_address
    from headrace.stores import open_store
    from headrace.worker import Worker, create_broker

    worker = Worker(app.name, compiled, settings)
    for url in dict.fromkeys(url for url in (settings["store"], settings["dead_letters"]) if url):
        open_store(url, app=app.name, beside=True)
    if settings["broker"]:
        worker.broker = create_broker(settings["broker"], app=app.name, settings=settings)
    names = tuple(one.handler.name for one in compiled)
    for one in compiled:
        if worker.broker is not None or not one.channel:
            worker.source(one, worker.binding(one, names))
    for what, port in (("admin", 9464), ("http", 8080)):
        split_address(settings[what], default_port=port, what=what)
    return getattr(worker.broker, "own_defaults", {})


def _handlers(compiled: list[Compiled], settings: Settings) -> list[dict[str, Any]]:
    from headrace.control.words import policy
    from headrace.worker import DEFAULT_LANES

    of_channels = DEFAULT_LANES.get((settings["broker"] or "").partition(":")[0], "")
    lines = []
    for one in compiled:
        lane = of_channels if one.channel else getattr(one.declaration, "default_lane", "")
        text = policy(one.handler, one.channel or one.declaration.name, lane=lane, answers=not one.buries)
        lines.append({"handler": one.handler.name, "text": text})
    return lines


def _settings(settings: Settings, defaults: Mapping[str, str]) -> list[dict[str, Any]]:
    from headrace.settings import hide_secrets

    lines = []
    for name, (value, origin) in settings.values.items():
        shown = hide_secrets(value) if isinstance(value, str) and "://" in value else value
        variable = f"HEADRACE_{name.upper()}"
        text = "not set" if shown is None else str(shown)
        lines.append(
            {"setting": name, "value": shown, "origin": origin, "text": f"  {variable:<25} {text:<40} {origin}"}
        )
    for name, value in sorted({**defaults, **settings.transport}.items()):
        shown = "***" if _SECRET.search(name) else hide_secrets(value) if "://" in value else value
        origin = settings.origins.get(name, "argument" if name in settings.transport else "default")
        variable = f"HEADRACE_{name.upper()}"
        lines.append(
            {"setting": name, "value": shown, "origin": origin, "text": f"  {variable:<25} {shown:<40} {origin}"}
        )
    return lines


def _remarks(compiled: list[Compiled], settings: Settings) -> list[dict[str, Any]]:
    remarks = [
        f"handler {one.handler.name} reads {one.declaration.name} at most once: what arrives while nobody listens, or while "
        "a process dies, is lost"
        for one in compiled
        if getattr(one.declaration, "at_most_once", False)
    ]
    if settings["store"].startswith("memory:"):
        remarks.append(
            "the ledger is in memory: it recognises repeats while the process lives; after a crash, events that were handled "
            "and not yet acknowledged are handled again. Set HEADRACE_STORE=sqlite:///FILE or postgresql://… to keep it"
        )
    return [{"remark": text, "text": f"note: {text}"} for text in remarks]


def _rights(compiled: list[Compiled], asked: bool) -> list[dict[str, Any]]:
    """What RBAC has to allow; with ``--connect`` the findings say it, and whether it does."""
    if asked:
        return []
    from headrace.deploy.rbac import needs, sentence, unlimited

    lines = [
        {"needs": sentence(need.rule), "whom": need.whom, "text": f"{need.whom} needs {sentence(need.rule)}"}
        for need in needs(compiled)
    ]
    if lines:
        lines.append({"remark": "rights", "text": "note: --connect asks whether the credentials have these rights"})
    for component in unlimited(compiled):
        text = f"Cluster {component} has no allow=: it may do what its credentials may, and its rights are not derived"
        lines.append({"remark": text, "text": f"note: {text}"})
    return lines


async def _inspect_rights(compiled: list[Compiled], settings: Settings) -> list[tuple[str, str, int]]:
    from headrace.deploy.rbac import inspect
    from headrace.errors import HeadraceError

    try:
        return [(finding.level, finding.text, 1) for finding in await inspect(compiled, settings)]
    except HeadraceError as error:
        return [("error", str(error), error.exit_code)]


async def _inspect(app: App, compiled: list[Compiled], settings: Settings) -> list[tuple[str, str, int]]:
    """Level, words, and the exit code where it is an error."""
    from headrace.errors import HeadraceError
    from headrace.worker import Worker, create_broker

    if not settings["broker"]:
        return [("info", "no broker is configured", 0)]
    worker = Worker(app.name, compiled, settings)
    broker = worker.broker = create_broker(settings["broker"], app=app.name, settings=settings)
    try:
        await broker.open()
        names = tuple(one.handler.name for one in compiled)
        pairs = [(one.channel or one.declaration, worker.binding(one, names)) for one in compiled]
        return [(finding.level, finding.message, 1) for finding in await broker.inspect(pairs)]
    except HeadraceError as error:
        return [("error", str(error), error.exit_code)]
    finally:
        await broker.close()
