"""Every way to a cluster and into it, on a real API server: files, pods, proxies, plugins, tokens that end."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.kubernetes import Watch
from headrace.kubernetes.reflector import Timing
from tests.kubernetes.actor import Actor
from tests.kubernetes.watching import Watching, eventually, told
from tests.servers.apiserver import ADMIN, ApiServer
from tests.servers.certificates import CLIENT_NAME, make_certificates

RBAC = "rbac.authorization.k8s.io"


async def may_read(actor: Actor, subject: dict[str, str]) -> None:
    """Let somebody read ConfigMaps in the actor's namespace."""
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}]
    await actor.create(f"roles.{RBAC}", {"metadata": {"name": "reader"}, "rules": rules})
    reference = {"kind": "Role", "name": "reader", "apiGroup": RBAC}
    body = {"metadata": {"name": "reader"}, "subjects": [subject], "roleRef": reference}
    await actor.create(f"rolebindings.{RBAC}", body)


async def issue(actor: Actor, account: str) -> str:
    """A token of a ServiceAccount, as a pod gets it."""
    spec = {"spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 600}}
    path = await actor._path("serviceaccounts", account, sub="token")
    answer = await actor._send("POST", path, spec)
    token: str = answer["status"]["token"]
    return token


def config(server: ApiServer, user: dict[str, Any], folder: Path, **cluster: str) -> str:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [
            {
                "name": "c",
                "cluster": {"server": server.url, "certificate-authority": str(server.certificate), **cluster},
            }
        ],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))
    return str(path)


async def test_a_pod_uses_its_service_account(
    cluster: ApiServer, actor: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await actor.create("serviceaccounts", {"metadata": {"name": "app"}})
    await may_read(actor, {"kind": "ServiceAccount", "name": "app", "namespace": actor.namespace})
    (tmp_path / "token").write_text(await issue(actor, "app"))
    (tmp_path / "ca.crt").write_bytes(cluster.certificate.read_bytes())
    (tmp_path / "namespace").write_text(actor.namespace)
    monkeypatch.setattr("headrace.kubernetes.kubeconfig._SERVICE_ACCOUNT", tmp_path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.ports[2]))
    async with Watching(Watch("configmaps")) as seen:  # narrowed to the pod's own namespace by its rights
        await actor.configmap("here")
        await seen.until(told("here", "add"))


async def test_a_token_that_is_no_longer_good_is_said_and_its_successor_is_taken_up(
    cluster: ApiServer, actor: Actor, tmp_path: Path
) -> None:
    await actor.create("serviceaccounts", {"metadata": {"name": "app"}})
    await may_read(actor, {"kind": "ServiceAccount", "name": "app", "namespace": actor.namespace})
    token = tmp_path / "token"
    token.write_text(await issue(actor, "app"))
    kubeconfig = config(cluster, {"tokenFile": "token"}, tmp_path)
    timing = Timing(watch=(1.0, 1.5), grace=5.0, backoff=(0.05, 0.3))
    watch = Watch("configmaps", namespace=actor.namespace, kubeconfig=kubeconfig)
    async with Watching(watch, timing=timing) as seen:
        await seen.ready()
        await actor.delete("serviceaccounts", "app")
        await eventually(lambda: "401" in seen.source.progress().detail, seconds=60)
        await actor.configmap("meanwhile")
        await actor.create("serviceaccounts", {"metadata": {"name": "app"}})
        token.write_text(await issue(actor, "app"))
        await seen.until(told("meanwhile", "add"), seconds=60)
        await eventually(lambda: seen.source.progress().detail == "")


async def test_a_plugins_client_certificate_is_used(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    server = ApiServer(flags=[f"--client-ca-file={made.authority}"])
    await asyncio.to_thread(server.start)
    owner = Actor(server.kubeconfig)
    try:
        await owner.begin()
        await may_read(owner, {"kind": "User", "name": CLIENT_NAME, "apiGroup": RBAC})
        answer = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {
                "clientCertificateData": made.client_certificate.read_text(),
                "clientKeyData": made.client_key.read_text(),
            },
        }
        (tmp_path / "answer.json").write_text(json.dumps(answer))
        plugin = tmp_path / "plugin.sh"
        plugin.write_text(f"#!/bin/sh\ncat '{tmp_path}/answer.json'\n")
        plugin.chmod(0o755)
        entry = {"apiVersion": answer["apiVersion"], "command": "./plugin.sh", "interactiveMode": "Never"}
        watch = Watch("configmaps", namespace=owner.namespace, kubeconfig=config(server, {"exec": entry}, tmp_path))
        async with Watching(watch) as seen:
            await owner.configmap("here")
            await seen.until(told("here", "add"))
    finally:
        await owner.close()
        server.close()


@asynccontextmanager
async def http_proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that tunnels; its address, and where it was asked to connect to."""
    asked: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            return  # either side is gone
        finally:
            writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        asked.append(f"{method} {target}")
        host, _, port = target.rpartition(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(carry(reader, up_writer), carry(up_reader, writer))

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_proxy_of_the_kubeconfig_is_gone_through(cluster: ApiServer, actor: Actor, tmp_path: Path) -> None:
    async with http_proxy() as (url, asked):
        kubeconfig = config(cluster, {"token": ADMIN}, tmp_path, **{"proxy-url": url})
        async with Watching(Watch("configmaps", namespace=actor.namespace, kubeconfig=kubeconfig)) as seen:
            await actor.configmap("here")
            await seen.until(told("here", "add"))
    assert set(asked) == {f"CONNECT 127.0.0.1:{cluster.ports[2]}"}


async def test_a_kubeconfig_in_two_files_reaches_the_server(
    cluster: ApiServer, actor: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a" / "config", tmp_path / "b" / "config"
    for path in (first, second):
        path.parent.mkdir()
    (first.parent / "ca.pem").write_bytes(cluster.certificate.read_bytes())
    place = {"server": cluster.url, "certificate-authority": "ca.pem", "tls-server-name": "kubernetes.default.svc"}
    contexts = [
        {"name": name, "context": {"cluster": "there", "user": user}} for name, user in (("x", "nobody"), ("y", "me"))
    ]
    first.write_text(
        json.dumps({"clusters": [{"name": "there", "cluster": place}], "contexts": contexts, "current-context": "x"})
    )
    users = [{"name": name, "user": {"token": token}} for name, token in (("nobody", "wrong"), ("me", ADMIN))]
    second.write_text(json.dumps({"users": users, "current-context": "nowhere"}))
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join((str(first), str(tmp_path / "missing"), str(second))))
    async with Watching(Watch("configmaps", namespace=actor.namespace, context="y")) as seen:
        await actor.configmap("here")
        await seen.until(told("here", "add"))
