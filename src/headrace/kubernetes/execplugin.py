"""Runs credential plugins: commands that print an ExecCredential.

Source: kubernetes.io, "client-go credential plugins"; API client.authentication.k8s.io/v1 and v1beta1. Plugins are run
without a terminal, so one that insists on asking a person ends with a clear error.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from datetime import datetime
from typing import Final

import msgspec

from headrace.errors import ConnectionFailed
from headrace.kubernetes.kubeconfig import ClusterConfig, ExecPlugin

__all__ = ["Granted", "run_plugin"]

_TIMEOUT: Final = 60.0


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin gave: a token, a client certificate with its key (PEM), or both; until when (aware), if it said
    so."""

    token: str | None = None
    client_certificate: bytes | None = None
    client_key: bytes | None = None
    expires: datetime | None = None


class _CredentialStatus(msgspec.Struct, frozen=True, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: datetime | None = None


class _ExecCredential(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _CredentialStatus | None = None


async def run_plugin(plugin: ExecPlugin, cluster: ClusterConfig) -> Granted:
    """Run the plugin and read its answer.

    Raises:
        ConnectionFailed: it is not installed, failed, took longer than a minute, or printed no credential.
    """
    name = os.path.basename(plugin.command)
    environment = {**os.environ, **dict(plugin.env), "KUBERNETES_EXEC_INFO": _exec_info(plugin, cluster)}
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command,
            *plugin.args,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        hint = f"; {plugin.install_hint}" if plugin.install_hint else ""
        raise ConnectionFailed(f"credential plugin {name!r} cannot be started: {error}{hint}") from error
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, complaints = await process.communicate()
    except TimeoutError as error:
        raise ConnectionFailed(f"credential plugin {name!r} gave nothing within {_TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = complaints.decode("utf-8", "replace").strip()[-500:]
        raise ConnectionFailed(f"credential plugin {name!r} ended with {process.returncode}: {said}")
    try:
        answer = msgspec.json.decode(output, type=_ExecCredential)
    except msgspec.MsgspecError as error:
        raise ConnectionFailed(f"credential plugin {name!r} printed no ExecCredential: {error}") from error
    status = answer.status
    if answer.api_version != plugin.api_version:
        raise ConnectionFailed(
            f"credential plugin {name!r} speaks {answer.api_version!r}, the kubeconfig asks for {plugin.api_version!r}"
        )
    if status is None or not (status.token or (status.client_certificate_data and status.client_key_data)):
        raise ConnectionFailed(f"credential plugin {name!r} gave neither a token nor a client certificate with its key")
    return Granted(
        token=status.token,
        client_certificate=_encoded(status.client_certificate_data),
        client_key=_encoded(status.client_key_data),
        expires=status.expiration_timestamp,
    )


def _encoded(pem: str | None) -> bytes | None:
    return pem.encode() if pem else None


def _exec_info(plugin: ExecPlugin, cluster: ClusterConfig) -> str:
    spec: dict[str, object] = {"interactive": False}
    if plugin.provide_cluster_info:
        authority = cluster.certificate_authority
        if isinstance(authority, str):
            with open(authority, "rb") as file:
                authority = file.read()
        described: dict[str, object] = {"server": cluster.server}
        if authority is not None:
            described["certificate-authority-data"] = base64.b64encode(authority).decode()
        if cluster.tls_server_name:
            described["tls-server-name"] = cluster.tls_server_name
        if cluster.insecure_skip_tls_verify:
            described["insecure-skip-tls-verify"] = True
        if cluster.proxy_url:
            described["proxy-url"] = cluster.proxy_url
        spec["cluster"] = described
    return json.dumps({"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec})
