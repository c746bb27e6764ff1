"""Connecting: who we are, what is encrypted, what is said when it fails, and coming back."""

import asyncio
import datetime
import ipaddress
from pathlib import Path

import nkeys
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headrace.errors import ConfigurationError, ConnectionFailed
from headrace.nats.broker import create
from headrace.nats.credentials import address
from headrace.nats.requests import Silent
from tests.nats.conftest import Connect, binding
from tests.nats.flows import events, handle, publish
from tests.nats.server import NatsServer
from tests.servers.nats_auth import make_operator


async def refused(url: str, **settings: str) -> str:
    """What is said where the connection fails, and it is said at once."""
    broker = create(url, app="a", settings=settings, ready_within=60.0)
    began = asyncio.get_running_loop().time()
    with pytest.raises(ConnectionFailed) as caught:
        await broker.open()
    assert asyncio.get_running_loop().time() - began < 40
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_user_and_password(tmp_path: Path, connect: Connect) -> None:
    extra = 'authorization { users = [ {user: me, password: "s3:c/ret"} ] }'
    with NatsServer(tmp_path / "n", extra=extra) as server:
        await connect(f"nats://me:s3%3Ac%2Fret@127.0.0.1:{server.port}")
        broker = await connect(server, nats_user="me", nats_password="s3:c/ret")
        assert "s3" not in broker.url
        assert "refused" in await refused(f"nats://me:wrong@127.0.0.1:{server.port}")
        assert "refused" in await refused(server.url)


async def test_token(tmp_path: Path, connect: Connect) -> None:
    with NatsServer(tmp_path / "n", extra="authorization { token: tok }") as server:
        await connect(f"nats://tok@127.0.0.1:{server.port}")
        await connect(f"{server.url}?token=tok")
        await connect(server, nats_token="tok")
        await refused(server.url, nats_token="other")


async def test_nkey(tmp_path: Path, connect: Connect) -> None:
    seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
    pair = nkeys.from_seed(bytearray(seed))
    public = pair.public_key.decode()
    file = tmp_path / "user.nk"
    file.write_bytes(seed)
    with NatsServer(tmp_path / "n", extra=f"authorization {{ users = [ {{nkey: {public}}} ] }}") as server:
        await connect(server, nats_nkey=str(file))
        await connect(server, nats_nkey=bytes(seed).decode())
        other = nkeys.encode_seed(bytes(range(1, 33)), nkeys.PREFIX_BYTE_USER)
        await refused(server.url, nats_nkey=bytes(other).decode())


async def test_a_replaced_nkey_file_is_taken_at_the_next_connection(tmp_path: Path, connect: Connect) -> None:
    def identity(first: int) -> tuple[bytes, str]:
        seed = bytes(nkeys.encode_seed(bytes(range(first, first + 32)), nkeys.PREFIX_BYTE_USER))
        return seed, nkeys.from_seed(bytearray(seed)).public_key.decode()

    (old, old_public), (new, new_public) = identity(0), identity(1)
    file = tmp_path / "user.nk"
    file.write_bytes(old)
    users = "authorization {{ users = [ {{nkey: {}}} ] }}"
    with NatsServer(tmp_path / "n", extra=users.format(old_public)) as server:
        broker = await connect(server, nats_nkey=str(file))
        file.write_bytes(new)
        server.extra = users.format(new_public)
        server.reload()
        async with asyncio.timeout(20):
            while broker.connection.reconnects == 0:
                await asyncio.sleep(0.05)
        assert broker.connection.lost is None


async def test_a_creds_file(tmp_path: Path, connect: Connect) -> None:
    made = make_operator(tmp_path)
    with NatsServer(tmp_path / "n", extra=made.configuration) as server:
        broker = await connect(server, nats_creds=str(made.creds))
        await publish(broker, "creds.a", events(3))
        await connect(f"{server.url}?creds={made.creds}")
        (tmp_path / "stranger").mkdir()
        stranger = make_operator(tmp_path / "stranger")
        await refused(server.url, nats_creds=str(stranger.creds))
        await refused(server.url)


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key.public_key(), ca=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, subject: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), ca=False)
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


async def test_tls_and_mutual_tls(tmp_path: Path, connect: Connect) -> None:
    ours, strangers = Authority(tmp_path / "ours", "ours"), Authority(tmp_path / "strangers", "strangers")
    certificate, key = ours.issue("server")
    mine, my_key = ours.issue("me")
    tls = f'cert_file: "{certificate}", key_file: "{key}"'
    with NatsServer(tmp_path / "one", extra=f"tls {{ {tls} }}") as server:
        broker = await connect(server, nats_tls_ca=str(ours.file))
        await publish(broker, "tls.a", events(300, size=2000))
        source = broker.channel("tls.a", binding(broker))
        await source.open()
        assert len(await handle(source, 300)) == 300
        await source.close()
        assert "refused" in await refused(f"tls://127.0.0.1:{server.port}", nats_tls_ca=str(strangers.file))
    both = f'tls {{ {tls}, ca_file: "{ours.file}", verify: true }}'
    with NatsServer(tmp_path / "two", extra=both) as server:
        files = {"nats_tls_ca": str(ours.file), "nats_tls_cert": str(mine), "nats_tls_key": str(my_key)}
        await connect(server, **files)
        assert "certificate required" in await refused(server.url, nats_tls_ca=str(ours.file))
        strange, strange_key = strangers.issue("me")
        files |= {"nats_tls_cert": str(strange), "nats_tls_key": str(strange_key)}
        assert "unknown ca" in await refused(server.url, **files)


async def test_credentials_are_not_sent_where_tls_is_wanted_and_not_offered(server: NatsServer) -> None:
    broker = create(f"tls://127.0.0.1:{server.port}", app="a", settings={}, ready_within=3.0)
    with pytest.raises(ConnectionFailed, match="TLS is asked for"):
        await broker.open()


async def test_a_replaced_certificate_is_taken_at_the_next_connection(tmp_path: Path, connect: Connect) -> None:
    old, new = Authority(tmp_path / "old", "old"), Authority(tmp_path / "new", "new")
    certificate, key = old.issue("server")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(old.file.read_bytes())
    with NatsServer(tmp_path / "n", extra=f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}') as server:
        broker = await connect(server, nats_tls_ca=str(trusted))
        renewed, renewed_key = new.issue("server")
        server.extra = f'tls {{ cert_file: "{renewed}", key_file: "{renewed_key}" }}'
        trusted.write_bytes(new.file.read_bytes())
        server.restart()
        async with asyncio.timeout(20):
            while broker.connection.reconnects == 0:
                await asyncio.sleep(0.05)


async def test_what_is_written_to_a_connection_that_just_ended_is_refused_and_harms_nobody(
    server: NatsServer, connect: Connect
) -> None:
    """The transport knows first: uvloop raises then, and the whole app ended."""
    connection = (await connect(server)).connection
    transport = connection._socket
    assert transport is not None
    transport.close()
    assert connection.is_connected
    assert connection.written(b"PING\r\n") is False
    with pytest.raises(Silent):
        await connection.round_trip(0.5)
    async with asyncio.timeout(20):
        while connection.reconnects == 0:
            await asyncio.sleep(0.02)
    await connection.round_trip()


async def test_what_one_iteration_of_the_loop_writes_leaves_together(
    server: NatsServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = (await connect(server)).connection
    transport = connection._socket
    assert transport is not None
    assert transport._io_writer is not None
    sent: list[bytes] = []
    write = transport._io_writer.write

    def noted(data: bytes) -> None:
        sent.append(data)
        write(data)

    monkeypatch.setattr(transport._io_writer, "write", noted)
    for number in range(3):
        assert connection.written(b"PUB a 1\r\n%d\r\n" % number)
    await connection.round_trip()
    assert sent[0].startswith(b"PUB a 1\r\n0\r\nPUB a 1\r\n1\r\nPUB a 1\r\n2\r\n")


async def test_nobody_there_is_said_after_the_time_that_is_given() -> None:
    broker = create("nats://127.0.0.1:1", app="a", settings={}, ready_within=0.5)
    began = asyncio.get_running_loop().time()
    with pytest.raises(ConnectionFailed, match=r"could not be reached within 0.5 s.*Is the server running"):
        await broker.open()
    assert asyncio.get_running_loop().time() - began > 0.4


async def test_any_of_several_servers_will_do(server: NatsServer, connect: Connect) -> None:
    await connect(f"nats://127.0.0.1:1,127.0.0.1:{server.port}")


async def test_revoked_credentials_are_tried_again_and_then_given_up(tmp_path: Path, connect: Connect) -> None:
    extra = "authorization {{ users = [ {{user: {}, password: p}} ] }}"
    with NatsServer(tmp_path / "n", extra=extra.format("me")) as server:
        broker = await connect(server, nats_user="me", nats_password="p", nats_refused_for="0.5")
        source = broker.channel("auth.a", binding(broker))
        await source.open()
        fetching = asyncio.create_task(handle(source, 1, within=30))
        await asyncio.sleep(0.1)
        server.extra = extra.format("other")
        server.reload()
        with pytest.raises(ConnectionFailed, match="refused"):
            await fetching
        server.extra = extra.format("me")
        server.reload()
        async with asyncio.timeout(20):
            while not broker.connection.is_connected:
                await asyncio.sleep(0.05)
        await publish(broker, "auth.a", events(1))
        assert await handle(source, 1) == ["0"]
        await source.close()


@pytest.mark.parametrize(
    ("url", "settings", "words"),
    [
        ("http://x", {}, "starts with nats://"),
        ("nats://", {}, "no host and port"),
        ("nats://x:port", {}, "no host and port"),
        ("nats://x?colour=red", {}, "unknown option 'colour'"),
        ("nats://u:p@x?token=t", {}, "given twice"),
        ("nats://x", {"nats_creds": "/nowhere/x.creds"}, "does not exist"),
        ("nats://x", {"nats_tls_key": "/nowhere/x.key"}, "without tls_cert"),
        ("nats://x", {"nats_password": "p"}, "without a user"),
        ("nats://x", {"nats_refused_for": "long"}, "number of seconds"),
        ("nats://x", {"nats_stream_replicas": "many"}, "no whole number"),
        ("nats://x", {"nats_stream_max_age": "soon"}, "seconds"),
    ],
)
def test_what_cannot_be_is_said_before_connecting(url: str, settings: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        create(url, app="a", settings=settings, ready_within=1.0)
    assert "p@" not in str(caught.value)


def test_a_url_without_its_secrets_and_with_its_parts() -> None:
    found = address("nats://me:pass@a,b:4333?domain=hub", {"nats_stream_max_age": "7d"})
    assert found.shown == "nats://a:4222,b:4333"
    assert (found.options["user"], found.options["password"]) == ("me", "pass")
    assert found.settings["domain"] == "hub"
    assert found.settings["stream_max_age"] == "7d"
    assert address("nats://[::1]:4222", {}).servers == ["nats://[::1]:4222"]
