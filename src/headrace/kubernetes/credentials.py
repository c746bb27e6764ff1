"""Who we are and whom we trust, kept fresh: tokens that rotate, plugins whose answers expire, certificates replaced
on disk.

Files are looked at once a minute and after a refusal (401); a 403 means that we are known and not allowed, and is no
reason to log in again. What is built here is asked for before every request, so it does no work that was done a
minute ago.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from headrace.errors import ConfigurationError, ConnectionFailed
from headrace.kubernetes.execplugin import Granted, run_plugin
from headrace.kubernetes.kubeconfig import ClusterConfig

__all__ = ["Credentials"]

_log = logging.getLogger("headrace.kubernetes")

#: Seconds after which files are looked at again (client-go re-reads the projected token once a minute as well).
_REREAD: Final = 60.0
#: Seconds before its end that a plugin's credential is replaced.
_EARLY: Final = 30.0


class Credentials:
    """The headers and the TLS settings for one cluster as one user.

    Args:
        cluster: where and who, as the kubeconfig says.
        monotonic, now: clocks in seconds; tests replace them.
    """

    def __init__(
        self,
        cluster: ClusterConfig,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._monotonic = monotonic
        self._now = now
        self._looked: float | None = None
        self._token: str | None = None
        self._granted: Granted | None = None
        self._context: ssl.SSLContext | None = None
        self._fingerprint: tuple[object, ...] | None = None
        self._lock = asyncio.Lock()

    async def prepare(self) -> None:
        """Make headers and TLS settings current; cheap when they are.

        Raises:
            ConnectionFailed: a plugin failed, or a token file is gone and no token was read before.
            ConfigurationError: a certificate or key that TLS refuses, where there was no good one before.
        """
        if self._fresh():
            return
        async with self._lock:
            if not self._fresh():
                await self._renew()

    async def refused(self) -> None:
        """The server answered 401: read and ask again now, whatever the clock says. Raises as `prepare`."""
        async with self._lock:
            self._granted = None
            await self._renew()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """``Authorization`` and impersonation, after `prepare`."""
        user = self._cluster.user
        headers = list(user.impersonate)
        if self._token:
            headers.append(("Authorization", f"Bearer {self._token}"))
        elif user.username is not None:
            pair = f"{user.username}:{user.password or ''}".encode()
            headers.append(("Authorization", f"Basic {base64.b64encode(pair).decode()}"))
        return headers

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The TLS settings, after `prepare`; ``None`` for a plain http server. A new object whenever they changed."""
        return self._context

    def _fresh(self) -> bool:
        if self._looked is None or self._monotonic() - self._looked >= _REREAD:
            return False
        return not self._expiring()

    def _expiring(self) -> bool:
        granted = self._granted
        if granted is None or granted.expires is None:
            return False
        expires = granted.expires if granted.expires.tzinfo else granted.expires.replace(tzinfo=UTC)
        return expires <= datetime.fromtimestamp(self._now() + _EARLY, UTC)

    async def _renew(self) -> None:
        user = self._cluster.user
        if user.exec is not None:
            if self._granted is None or self._expiring():
                self._granted = await run_plugin(user.exec, self._cluster)
            self._token = self._granted.token
        elif user.token_file is not None:
            self._token = self._read_token(Path(user.token_file)) or self._token or user.token
            if not self._token:
                raise ConnectionFailed(f"token file {user.token_file} is empty; is the service account token mounted?")
        else:
            self._token = user.token
        self._renew_tls()
        self._looked = self._monotonic()

    def _read_token(self, path: Path) -> str:
        try:
            return path.read_text().strip()
        except OSError as error:
            # A projected volume is swapped by symlink; the token read before stays good until the server says
            # otherwise.
            if self._token:
                return ""
            raise ConnectionFailed(f"token file {path} cannot be read: {error}") from error

    def _renew_tls(self) -> None:
        cluster, user = self._cluster, self._cluster.user
        if cluster.server.startswith("http://"):
            return
        certificate: bytes | str | None = user.client_certificate
        key: bytes | str | None = user.client_key
        if self._granted is not None and self._granted.client_certificate is not None:
            certificate, key = self._granted.client_certificate, self._granted.client_key
        fingerprint = tuple(_fingerprint(part) for part in (cluster.certificate_authority, certificate, key))
        if fingerprint == self._fingerprint:
            return
        try:
            self._context = _context(cluster, certificate, key)
        except (OSError, ssl.SSLError, ValueError) as error:
            if self._context is not None:
                # They are being replaced (half of a pair is new, or one is gone for a moment): what works is kept, and they
                # are looked at again in a minute.
                _log.warning("TLS for %s (%s) stays as it was: %s", cluster.server, cluster.origin, error)
                return
            raise ConfigurationError(f"TLS for {cluster.server} ({cluster.origin}): {error}") from error
        self._fingerprint = fingerprint


def _fingerprint(part: bytes | str | None) -> object:
    if not isinstance(part, str):
        return part
    try:
        found = os.stat(part)
    except OSError:
        return part
    return (part, found.st_mtime_ns, found.st_size, found.st_ino)


def _context(cluster: ClusterConfig, certificate: bytes | str | None, key: bytes | str | None) -> ssl.SSLContext:
    # Not create_default_context: from Python 3.13 on it sets VERIFY_X509_STRICT, which many clusters' own CAs fail.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority = cluster.certificate_authority
    if isinstance(authority, bytes):
        context.load_verify_locations(cadata=authority.decode("ascii"))
    elif authority is not None:
        context.load_verify_locations(cafile=authority)
    else:
        context.load_default_certs()
    if cluster.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        _load_pair(context, certificate, key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes | str, key: bytes | str | None) -> None:
    """The ssl module reads key pairs from files only; what is in memory passes through files that only we can read."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        names: list[str] = []
        for name, part in (("certificate", certificate), ("key", key)):
            if isinstance(part, bytes):
                path = os.path.join(folder, name)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(part)
                names.append(path)
            elif part is not None:
                names.append(part)
        # An encrypted key would ask on the terminal; a callback that gives nothing makes it an error instead.
        context.load_cert_chain(names[0], names[1] if len(names) > 1 else None, password=lambda: b"")
