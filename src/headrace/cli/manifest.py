"""``headrace manifest APP``: manifests derived from what the app declares."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.command("manifest")
@click.argument("app")
@click.option("--rbac", is_flag=True, help="The ServiceAccount and the least roles that its watches and actions need.")
@click.option("--namespace", default="default", show_default=True, help="Where the app runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of YAML.")
def command(app: str, rbac: bool, namespace: str, as_json: bool) -> int:
    """Write manifests for APP to stdout. The same app always gives the same bytes; no cluster is asked."""
    from headrace.cli.loading import load
    from headrace.deploy.rbac import documents, needs, unlimited

    if not rbac:
        raise click.UsageError("say what to write: --rbac")
    loaded = load(app)
    compiled = loaded.compile()
    for component in unlimited(compiled):
        click.echo(f"headrace: Cluster {component} has no allow=, so what it needs cannot be derived", err=True)
    found = documents(loaded.name, [need.rule for need in needs(compiled, namespace=namespace)], namespace=namespace)
    if as_json:
        for document in found:
            click.echo(json.dumps(document))
        return 0
    import yaml

    click.echo(yaml.safe_dump_all(found, sort_keys=False), nl=False)
    return 0
