"""NATS identities: nkeys, and the operator, account and user tokens that a creds file stands on.

The tokens are what ``nsc`` would make: JSON claims signed with Ed25519, the signer named by its public key.
"""

import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys

_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}
_LIMITS = {**_UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
# The system account must have none of these.
_STORE_LIMITS = {
    "mem_storage": -1,
    "disk_storage": -1,
    "streams": -1,
    "consumer": -1,
}


class Identity:
    """A key pair: ``public`` is what a server is told, ``seed`` what only its owner has."""

    def __init__(self, prefix: int) -> None:
        self.seed: bytes = bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix))
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def sign(self, claims: dict[str, Any]) -> str:
        """A token of this identity."""
        body = {**claims, "iss": self.public, "iat": int(time.time())}
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        header = _encode(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
        signed = f"{header}.{_encode(json.dumps(body).encode())}"
        return f"{signed}.{_encode(self._pair.sign(signed.encode()))}"


def user_identity() -> Identity:
    """A key pair of a user."""
    return Identity(nkeys.PREFIX_BYTE_USER)


@dataclass(frozen=True)
class Operated:
    """What a server under an operator is configured with, and the creds file of its one user."""

    configuration: str
    creds: Path


def make_operator(folder: Path) -> Operated:
    """An operator, its system account, an account with JetStream and a user in it; made once in ``folder``."""
    configuration, creds = folder / "operator.conf", folder / "user.creds"
    if not creds.exists():
        operator = Identity(nkeys.PREFIX_BYTE_OPERATOR)
        system, account = Identity(nkeys.PREFIX_BYTE_ACCOUNT), Identity(nkeys.PREFIX_BYTE_ACCOUNT)
        user = user_identity()
        operator_token = operator.sign(
            {"sub": operator.public, "name": "tests", "nats": {"type": "operator", "version": 2}}
        )
        system_token = operator.sign(
            {"sub": system.public, "name": "SYS", "nats": {"type": "account", "version": 2, "limits": _LIMITS}}
        )
        limits = {**_LIMITS, **_STORE_LIMITS}
        account_token = operator.sign(
            {"sub": account.public, "name": "APP", "nats": {"type": "account", "version": 2, "limits": limits}}
        )
        user_token = account.sign(
            {
                "sub": user.public,
                "name": "app",
                "nats": {"type": "user", "version": 2, "pub": {}, "sub": {}, **_UNLIMITED},
            }
        )
        configuration.write_text(
            f'operator: "{operator_token}"\nsystem_account: {system.public}\nresolver: MEMORY\n'
            f'resolver_preload {{\n  {system.public}: "{system_token}"\n  {account.public}: "{account_token}"\n}}\n'
        )
        creds.write_text(
            f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        creds.chmod(0o600)
    return Operated(configuration.read_text(), creds)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
