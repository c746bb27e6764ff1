"""``headrace new NAME``: a folder with an app, its test and a Dockerfile."""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["command"]


@click.command("new")
@click.argument("name")
@click.option(
    "--broker",
    type=click.Choice(["nats", "kafka"]),
    default="nats",
    show_default=True,
    help="The broker that its requirements are for.",
)
@click.option("--folder", type=click.Path(file_okay=False), help="Where it goes (a folder NAME here).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file.")
def command(name: str, broker: str, folder: str | None, as_json: bool) -> int:
    """Make a folder with the app NAME, a test that passes, and a Dockerfile. A folder that holds something is refused."""
    from headrace.cli.scaffold import FILES
    from headrace.errors import RefusedError
    from headrace.naming import check_name

    check_name(name, "App")
    place = Path(folder or name)
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise RefusedError(f"{place} is not empty: name another folder with --folder, or empty this one")
        for file, text in FILES.items():
            # A file that appeared meanwhile is somebody else's.
            with (place / file).open("x", encoding="utf-8") as written:
                written.write(text.format(name=name, broker=broker))
            click.echo(json.dumps({"file": str(place / file)}) if as_json else place / file)
    except OSError as error:
        raise click.BadParameter(f"{place}: {error.strerror}", param_hint="NAME") from None
    click.echo(f"headrace: next: cd {place}; python -m pytest; headrace dev app:app", err=True)
    return 0
