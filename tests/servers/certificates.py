"""Certificates for servers that speak TLS: an authority of the test's own, a server on loopback, a client, a stranger."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT_NAME = "headrace-client"


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files; keys are PKCS 8. A store is key, certificate and authority in one file, as Kafka takes it."""

    authority: Path
    server_certificate: Path
    server_key: Path
    server_store: Path
    client_certificate: Path
    client_key: Path
    client_store: Path
    stranger_certificate: Path
    stranger_key: Path


def make_certificates(folder: Path) -> Certificates:
    """The certificates in ``folder``/tls, made where they are missing: a restarted server keeps its own.

    The server's names are ``localhost`` and ``127.0.0.1``; the client's common name is ``CLIENT_NAME``; the stranger is a
    client whose authority the server does not know.
    """
    place = folder / "tls"
    paths = Certificates(
        authority=place / "authority.pem",
        server_certificate=place / "server.pem",
        server_key=place / "server.key",
        server_store=place / "server-store.pem",
        client_certificate=place / "client.pem",
        client_key=place / "client.key",
        client_store=place / "client-store.pem",
        stranger_certificate=place / "stranger.pem",
        stranger_key=place / "stranger.key",
    )
    if paths.stranger_key.exists():
        return paths
    place.mkdir(parents=True, exist_ok=True)
    authority = _Authority("headrace test authority")
    paths.authority.write_bytes(authority.pem)
    authority.issue("localhost", paths.server_certificate, paths.server_key, server=True)
    authority.issue(CLIENT_NAME, paths.client_certificate, paths.client_key, server=False)
    for store, key, certificate in (
        (paths.server_store, paths.server_key, paths.server_certificate),
        (paths.client_store, paths.client_key, paths.client_certificate),
    ):
        store.write_bytes(key.read_bytes() + certificate.read_bytes() + authority.pem)
    _Authority("somebody else").issue(CLIENT_NAME, paths.stranger_certificate, paths.stranger_key, server=False)
    return paths


class _Authority:
    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        certificate = (
            _unsigned(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, certificate: Path, key: Path, *, server: bool) -> None:
        own = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if server:
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        signed = (
            _unsigned(_name(name), self._name, own.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        key.chmod(0o600)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=7))
    )
