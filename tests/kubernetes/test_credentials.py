"""Credentials kept fresh: tokens, plugins, certificates that are replaced."""

from __future__ import annotations

import asyncio
import json
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headrace.errors import ConfigurationError, ConnectionFailed
from headrace.kubernetes import Watch
from headrace.kubernetes.client import Client
from headrace.kubernetes.credentials import Credentials
from headrace.kubernetes.kubeconfig import ClusterConfig, ExecPlugin, UserConfig
from tests.kubernetes.scripted import Scripted, hang
from tests.kubernetes.test_wire_faults import refuse
from tests.kubernetes.watching import binding, eventually
from tests.servers.certificates import make_certificates

HTTP = "http://127.0.0.1:1"


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


def plugin(folder: Path, **status: str) -> ExecPlugin:
    """A plugin that counts its calls in ``calls`` and gives ``status`` with the count in its token."""
    script = folder / "plugin.sh"
    answer = json.dumps({"apiVersion": "x/v1", "kind": "ExecCredential", "status": {"token": "t@", **status}})
    script.write_text(
        f'#!/bin/sh\necho "$KUBERNETES_EXEC_INFO" >> "{folder}/calls"\n'
        f'n=$(wc -l < "{folder}/calls" | tr -d " ")\ncat <<EOF | sed "s/@/$n/"\n{answer}\nEOF\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return ExecPlugin(command=str(script), api_version="x/v1", provide_cluster_info=True)


def token(credentials: Credentials) -> str:
    return dict(credentials.headers)["Authorization"].removeprefix("Bearer ")


async def test_a_token_file_is_read_again_every_minute_and_after_a_refusal(tmp_path: Path) -> None:
    path, clock = tmp_path / "token", Clock()
    path.write_text("one\n")
    credentials = Credentials(ClusterConfig(server=HTTP, user=UserConfig(token_file=str(path))), monotonic=clock)
    await credentials.prepare()
    path.write_text("two")
    clock.seconds += 59
    await credentials.prepare()
    assert token(credentials) == "one"
    clock.seconds += 2
    await credentials.prepare()
    assert token(credentials) == "two"
    path.write_text("three")
    await credentials.refused()
    assert token(credentials) == "three"
    path.unlink()  # a projected volume while it is swapped
    await credentials.refused()
    assert token(credentials) == "three"


async def test_a_plugin_is_asked_again_shortly_before_its_credential_ends(tmp_path: Path) -> None:
    clock = Clock()
    user = UserConfig(exec=plugin(tmp_path, expirationTimestamp="2027-01-15T08:10:00Z"))  # 600 s from the clock's start
    credentials = Credentials(ClusterConfig(server=HTTP, user=user), monotonic=clock, now=clock)
    await credentials.prepare()
    assert token(credentials) == "t1"
    clock.seconds += 500
    await credentials.prepare()
    assert token(credentials) == "t1"
    clock.seconds += 80
    await credentials.prepare()
    assert token(credentials) == "t2"
    said = json.loads((tmp_path / "calls").read_text().splitlines()[0])
    assert said["spec"]["cluster"]["server"] == HTTP


async def test_a_plugin_that_fails_is_said_with_its_words(tmp_path: Path) -> None:
    script = tmp_path / "broken.sh"
    script.write_text("#!/bin/sh\necho log in first >&2\nexit 3\n")
    script.chmod(0o755)
    credentials = Credentials(ClusterConfig(server=HTTP, user=UserConfig(exec=ExecPlugin(command=str(script)))))
    with pytest.raises(ConnectionFailed, match=r"ended with 3: log in first"):
        await credentials.prepare()
    absent = ExecPlugin(command=str(tmp_path / "none"), install_hint="install it with apt")
    with pytest.raises(ConnectionFailed, match="install it with apt"):
        await Credentials(ClusterConfig(server=HTTP, user=UserConfig(exec=absent))).prepare()


async def test_a_403_is_no_reason_to_log_in_again(tmp_path: Path) -> None:
    made = plugin(tmp_path)
    entry = {"apiVersion": made.api_version, "command": made.command, "interactiveMode": "Never"}
    async with Scripted(refuse(403, "Forbidden"), refuse(403, "Forbidden"), hang) as server:
        watch = Watch("configmaps", namespace="n", kubeconfig=server.kubeconfig(tmp_path, exec=entry))
        source = watch.bind(binding())
        await source.open()
        await eventually(lambda: len(server.asked) >= 2)
        await source.close()
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


@asynccontextmanager
async def tls_server(folder: Path) -> AsyncIterator[int]:
    """Answers every request with an empty object, to clients of its authority only; its port."""
    made = make_certificates(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server_certificate, made.server_key)
    context.load_verify_locations(made.authority)
    context.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            writer.close()  # the client is done, or was refused

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_an_authority_and_a_client_certificate_that_are_replaced_on_disk_are_taken_up(tmp_path: Path) -> None:
    right, wrong = make_certificates(tmp_path / "right"), make_certificates(tmp_path / "wrong")
    authority, certificate, key = (tmp_path / name for name in ("ca.pem", "client.pem", "client.key"))
    clock = Clock()

    def install(made: object) -> None:
        for path, name in ((authority, "authority"), (certificate, "client_certificate"), (key, "client_key")):
            path.write_bytes(getattr(made, name).read_bytes())

    install(wrong)
    async with tls_server(tmp_path / "right") as port:
        user = UserConfig(client_certificate=str(certificate), client_key=str(key))
        cluster = ClusterConfig(server=f"https://127.0.0.1:{port}", certificate_authority=str(authority), user=user)
        client = Client(cluster, credentials=Credentials(cluster, monotonic=clock))
        with pytest.raises(ConnectionFailed, match=r"(?i)certificate"):
            await client.request("GET", "/")
        install(right)
        clock.seconds += 61
        assert await client.request("GET", "/") == b"{}"
        await client.close()


async def test_files_that_are_gone_for_a_moment_leave_what_tls_knows_in_use(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    authority, certificate, key = (tmp_path / name for name in ("a.pem", "c.pem", "c.key"))
    clock = Clock()
    user = UserConfig(client_certificate=str(certificate), client_key=str(key))
    async with tls_server(tmp_path) as port:
        cluster = ClusterConfig(server=f"https://127.0.0.1:{port}", certificate_authority=str(authority), user=user)
        client = Client(cluster, credentials=Credentials(cluster, monotonic=clock))
        with pytest.raises(ConfigurationError, match="No such file"):
            await client.request("GET", "/")  # at the start there is nothing to go on with
        for path, found in (
            (authority, made.authority),
            (certificate, made.client_certificate),
            (key, made.client_key),
        ):
            path.write_bytes(found.read_bytes())
        assert await client.request("GET", "/") == b"{}"
        for path in (authority, certificate):
            path.rename(f"{path}.away")
            clock.seconds += 61
            assert await client.request("GET", "/") == b"{}"
        await client.close()


async def test_the_name_that_tls_expects_can_be_another_than_the_address(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    user = UserConfig(client_certificate=made.client_certificate.read_bytes(), client_key=made.client_key.read_bytes())
    async with tls_server(tmp_path) as port:
        for name, passes in (("localhost", True), ("elsewhere.example", False)):
            cluster = ClusterConfig(
                server=f"https://127.0.0.1:{port}",
                certificate_authority=made.authority.read_bytes(),
                tls_server_name=name,
                user=user,
            )
            client = Client(cluster)
            if passes:
                assert await client.request("GET", "/") == b"{}"
            else:
                with pytest.raises(ConnectionFailed, match=r"(?i)hostname"):
                    await client.request("GET", "/")
            await client.close()
