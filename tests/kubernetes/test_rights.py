"""The rights that an app needs: named, asked for, written as manifests, and enough."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.kubernetes.builtin import resource_named
from headrace.kubernetes.resources import Resources
from tests.kubernetes.actor import Actor
from tests.servers.apiserver import OTHER, ApiServer

APP = """
from headrace import App, Event
from headrace.kubernetes import Budget, Cluster, Lease, Watch

app = App("Rights_app")
lease = Lease("rights", namespace="{namespace}")
cluster = Cluster(allow={{"pods": ["delete"], "deployments.apps": ["restart", "scale"]}}, budget=Budget(1, 60), lease=lease)

@app.on(Watch("pods", namespace="{namespace}", label_selector="app=web", lease=lease))
async def pods(event: Event) -> None: ...

@app.on(Watch("gears.nowhere.example.com"))
async def gears(event: Event) -> None: ...

@app.on(Watch("configmaps"))
async def everywhere(event: Event) -> None: ...
"""


async def headrace(folder: Path, kubeconfig: Path, *command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace", *command),
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.fixture
def folder(actor: Actor, tmp_path: Path) -> Path:
    (tmp_path / "rights.py").write_text(APP.format(namespace=actor.namespace))
    return tmp_path


async def test_check_names_the_verbs_without_a_cluster(actor: Actor, folder: Path) -> None:
    code, said = await headrace(folder, folder / "none", "check", "rights.py")
    assert code == 0
    assert f"handler pods needs get, list, watch on pods in namespace {actor.namespace}" in said
    assert "handler gears needs list, watch on gears.nowhere.example.com in all namespaces" in said
    assert "Cluster headrace needs patch on deployments/scale.apps in all namespaces" in said


async def test_what_check_misses_the_manifest_grants(cluster: ApiServer, actor: Actor, folder: Path) -> None:
    config = cluster.kubeconfig_for(OTHER, namespace=actor.namespace)
    code, said = await headrace(folder, config, "check", "rights.py", "--connect")
    assert code == 1
    missing = [line for line in said.splitlines() if line.startswith("error:")]
    assert any("handler everywhere needs list, watch on configmaps" in line for line in missing)
    assert any("get, list, watch missing" in line and "handler pods" in line for line in missing)
    assert any("Cluster headrace needs delete on pods in all namespaces: delete missing" in line for line in missing)
    assert any("create on leases.coordination.k8s.io" in line for line in missing)
    assert "warning: " in said  # the definition of gears is not there

    code, text = await headrace(folder, config, "manifest", "rights.py", "--rbac", "--namespace", actor.namespace)
    again = await headrace(folder, config, "manifest", "rights.py", "--rbac", "--namespace", actor.namespace)
    assert (code, text) == again == (0, text)
    made: list[tuple[str, str]] = []
    try:
        for document in yaml.safe_load_all(text):
            await grant(actor, document, made)
        code, said = await headrace(folder, config, "check", "rights.py", "--connect")
        assert code == 0, said
        assert "handler everywhere needs list, watch on configmaps in all namespaces: granted" in said
        assert "missing" not in said
    finally:
        for resource, name in made:
            if resource.startswith("cluster"):
                await actor.delete(resource, name, namespace="")


async def grant(actor: Actor, document: dict[str, Any], made: list[tuple[str, str]]) -> None:
    """Apply a manifest, with the tests' user in place of the ServiceAccount; ``made`` remembers it."""
    group = ".rbac.authorization.k8s.io" if "rbac" in document["apiVersion"] else ""
    resource = document["kind"].lower() + "s" + group
    if "subjects" in document:
        (subject,) = document["subjects"]
        assert subject == {"kind": "ServiceAccount", "name": "rights-app", "namespace": actor.namespace}
        document["subjects"] = [{"kind": "User", "name": "other", "apiGroup": "rbac.authorization.k8s.io"}]
    await actor.create(resource, document, namespace=document["metadata"].get("namespace", ""))
    made.append((resource, document["metadata"]["name"]))


async def test_a_scope_that_rbac_narrows_is_a_warning(cluster: ApiServer, actor: Actor, tmp_path: Path) -> None:
    (tmp_path / "narrow.py").write_text(
        "from headrace import App, Event\nfrom headrace.kubernetes import Watch\napp = App('narrow')\n"
        "@app.on(Watch('configmaps'))\nasync def handle(event: Event) -> None: ...\n"
    )
    group = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}]
    await actor.create(f"roles.{group}", {"metadata": {"name": "r"}, "rules": rules})
    subjects = [{"kind": "User", "name": "other", "apiGroup": group}]
    reference = {"kind": "Role", "name": "r", "apiGroup": group}
    await actor.create(f"rolebindings.{group}", {"metadata": {"name": "r"}, "subjects": subjects, "roleRef": reference})
    config = cluster.kubeconfig_for(OTHER, namespace=actor.namespace)
    code, said = await headrace(tmp_path, config, "check", "narrow.py", "--connect")
    assert code == 0, said
    assert f"what is allowed is watched: {actor.namespace}" in said


@pytest.mark.parametrize("name", ["pods", "Pod", "po", "deployments.apps", "deploy", "cronjobs.v1.batch", "ns", "crd"])
async def test_the_names_known_without_a_cluster_are_the_servers(actor: Actor, name: str) -> None:
    assert resource_named(name) == await Resources(actor.client).find(name)
