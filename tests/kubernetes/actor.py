"""Changes objects on a real API server, as users and controllers would."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from headrace.kubernetes.client import Client
from headrace.kubernetes.kubeconfig import load
from headrace.kubernetes.resources import Resources


class Actor:
    """An admin. Each has a namespace of its own, made by `begin`."""

    def __init__(self, kubeconfig: Path) -> None:
        self.client = Client(load([kubeconfig]))
        self.namespace = f"test-{secrets.token_hex(4)}"
        self._resources = Resources(self.client)

    async def begin(self) -> None:
        await self.make_namespace(self.namespace)

    async def make_namespace(self, name: str) -> None:
        await self._send("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    async def close(self) -> None:
        await self.client.close()

    async def create(self, resource: str, body: dict[str, Any], *, namespace: str | None = None) -> dict[str, Any]:
        return await self._send("POST", await self._path(resource, "", namespace), body)

    async def patch(
        self, resource: str, name: str, body: Any, *, namespace: str | None = None, sub: str = ""
    ) -> dict[str, Any]:
        path = await self._path(resource, name, namespace, sub)
        return await self._send("PATCH", path, body, "application/merge-patch+json")

    async def get(self, resource: str, name: str, *, namespace: str | None = None) -> dict[str, Any]:
        return await self._send("GET", await self._path(resource, name, namespace))

    async def list(self, resource: str, *, namespace: str | None = None) -> list[dict[str, Any]]:
        answer = await self._send("GET", await self._path(resource, "", namespace))
        items: list[dict[str, Any]] = answer["items"]
        return items

    async def delete(self, resource: str, name: str, *, namespace: str | None = None) -> None:
        await self._send("DELETE", await self._path(resource, name, namespace), {"gracePeriodSeconds": 0})

    async def configmap(self, name: str, **data: str) -> dict[str, Any]:
        return await self.create("configmaps", {"metadata": {"name": name}, "data": data})

    async def pod(self, name: str, *, labels: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
        containers = [{"name": "main", "image": "none"}]
        body = {"metadata": {"name": name, "labels": labels or {}, **more}, "spec": {"containers": containers}}
        return await self.create("pods", body)

    async def status(self, name: str, status: dict[str, Any]) -> dict[str, Any]:
        return await self.patch("pods", name, {"status": status}, sub="status")

    async def _path(self, resource: str, name: str = "", namespace: str | None = None, sub: str = "") -> str:
        found = await self._resources.find(resource)
        return found.path(self.namespace if namespace is None else namespace, name, sub)

    async def _send(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        encoded = None if body is None else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads(await self.client.request(method, path, body=encoded, content_type=kind))
        return answer
