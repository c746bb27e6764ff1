"""Logins and TLS: the right ones work for every client of an app, wrong ones end its start with the cause."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from headrace import App, Event, Retry
from headrace.errors import ConnectionFailed
from tests.kafka.harness import until
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.kafka import PASSWORD, USER, Kafka

#: What the handler's own login function hands out, and how often it was asked.
LOGIN = f"{USER}:{PASSWORD}"


def _part(claims: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()


def token(config: str) -> tuple[str, float]:
    """An unsecured token for whom the configuration names, as the test broker takes it."""
    expiry = time.time() + 300
    claims = {"sub": config.removeprefix("user="), "iat": time.time(), "exp": expiry}
    return f"{_part({'alg': 'none'})}.{_part(claims)}.", expiry


def refuse(config: str) -> tuple[str, float]:
    """A token that no broker takes."""
    return f"{_part({'alg': 'none'})}.{_part({'sub': USER, 'iat': 1, 'exp': 2})}.", time.time() + 300


@pytest.fixture(scope="module")
def secure() -> Iterator[Kafka]:
    with Kafka(security=True).start() as server:
        yield server


@pytest.fixture(scope="module")
def certificates(secure: Kafka) -> Certificates:
    return make_certificates(secure.folder)


def url(secure: Kafka, listener: str, login: str = "", **options: object) -> str:
    query = "&".join(f"{name.replace('_', '.')}={quote(str(value))}" for name, value in options.items())
    return f"kafka://{login + '@' if login else ''}127.0.0.1:{secure.secure_ports[listener]}?{query}"


def addresses(secure: Kafka, files: Certificates) -> dict[str, str]:
    """A good address for each way in."""
    tls = {"ssl_ca_location": files.authority}
    oauth = {"sasl_mechanism": "OAUTHBEARER"}
    return {
        "plain": url(secure, "SASL_PLAIN", LOGIN),
        "scram 256": url(secure, "SASL_SCRAM", LOGIN, sasl_mechanism="SCRAM-SHA-256"),
        "scram 512": url(secure, "SASL_SCRAM", LOGIN, sasl_mechanism="SCRAM-SHA-512"),
        "oauthbearer": url(
            secure,
            "SASL_OAUTH",
            **oauth,
            oauth_callback="tests.kafka.test_security:token",
            sasl_oauthbearer_config=f"user={USER}",
        ),
        "tls": url(secure, "TLS", **tls),
        "mutual tls": url(
            secure, "MTLS", **tls, ssl_certificate_location=files.client_certificate, ssl_key_location=files.client_key
        ),
        "sasl over tls": url(secure, "SASL_TLS", LOGIN, **tls),
    }


def wrong_addresses(secure: Kafka, files: Certificates) -> dict[str, str]:
    tls = {"ssl_ca_location": files.authority}
    return {
        "plain": url(secure, "SASL_PLAIN", f"{USER}:guessed"),
        "scram 256": url(secure, "SASL_SCRAM", f"{USER}:guessed", sasl_mechanism="SCRAM-SHA-256"),
        "scram 512": url(secure, "SASL_SCRAM", f"{USER}:guessed", sasl_mechanism="SCRAM-SHA-512"),
        "oauthbearer": url(
            secure, "SASL_OAUTH", sasl_mechanism="OAUTHBEARER", oauth_callback="tests.kafka.test_security:refuse"
        ),
        "tls": url(secure, "TLS", ssl_ca_location=files.stranger_certificate),
        "mutual tls": url(
            secure,
            "MTLS",
            **tls,
            ssl_certificate_location=files.stranger_certificate,
            ssl_key_location=files.stranger_key,
        ),
        "sasl over tls": url(secure, "SASL_TLS", f"{USER}:guessed", **tls),
    }


WAYS = ["plain", "scram 256", "scram 512", "oauthbearer", "tls", "mutual tls", "sasl over tls"]


@pytest.mark.parametrize("way", WAYS)
async def test_an_app_publishes_handles_and_dead_letters(
    secure: Kafka, certificates: Certificates, app_name: str, way: str
) -> None:
    app = App(app_name, broker=addresses(secure, certificates)[way], store="memory://")
    seen: list[Any] = []

    @app.on(f"{app_name}.events", retry=Retry(attempts=1))
    async def handle(event: Event) -> None:
        if event.data == "bad":
            raise ValueError(event.data)
        seen.append(event.data)

    async with app.running() as worker:
        await asyncio.gather(*(app.publish(f"{app_name}.events", data) for data in ("good", "bad")))
        await until(lambda: seen == ["good"])
        letters = worker.dead_letters
        assert letters is not None

        async def stored() -> bool:
            return bool(await letters.counts(app_name))

        await until(stored)


@pytest.mark.parametrize("way", WAYS)
async def test_wrong_credentials_end_the_start_with_the_cause(
    secure: Kafka, certificates: Certificates, app_name: str, way: str
) -> None:
    # At once: nobody waits until the start gives up.
    app = App(app_name, broker=wrong_addresses(secure, certificates)[way], store="memory://", ready_within=600.0)

    @app.on(f"{app_name}.events")
    async def handle(event: Event) -> None: ...

    with pytest.raises(ConnectionFailed) as failed:
        async with app.running():
            raise AssertionError("it must not run")
    said = str(failed.value)
    assert "127.0.0.1" in said
    assert "guessed" not in said
    words = ("certificate", "SSL") if "tls" in way and way != "sasl over tls" else ("refused", "uthentic")
    assert any(word in said for word in words), said
