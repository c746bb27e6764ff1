"""What `headrace doctor` says about a store: settings of its server that lose or repeat work, limits, clocks. Only reads."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from headrace.engine.broker import Finding
from headrace.engine.ledger import Owner
from headrace.stores.sqlite.ownership import holder_of
from headrace.stores.store import open_store

__all__ = ["inspect_store"]

#: Seconds by which clocks may differ: leases and retention are compared across machines.
SKEW: Final = 2.0
#: Free bytes below which a disk is nearly full.
FREE: Final = 2**30
#: Connections that one worker may open at most (`headrace.stores.postgres.pool`).
CONNECTIONS: Final = 36
#: File systems on which SQLite's locks and its write-ahead log do not hold.
REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.s3fs", "ceph", "glusterfs")


async def inspect_store(url: str) -> list[Finding]:
    """Findings about the store of a URL.

    Raises `ConfigurationError` for a URL that names none, `ConnectionFailed` or `StoreUnavailable` where it does not answer.
    """
    scheme = urlsplit(url).scheme
    shown = open_store(url, app="doctor", beside=True).url
    if scheme == "memory":
        text = (
            "the ledger is in memory: after a crash, events that were handled and not yet acknowledged are handled again; "
            "set HEADRACE_STORE to sqlite:///FILE or postgresql://…"
        )
        return [Finding("warning", text)]
    if scheme == "sqlite":
        return _sqlite(url.removeprefix("sqlite://")[1:])
    if scheme.startswith("redis"):
        return await _redis(url, shown)
    return await _postgres(url, shown)


def _sqlite(path: str) -> list[Finding]:
    place = Path(os.path.realpath(path))
    folder = place.parent
    while not folder.exists():
        folder = folder.parent
    found = []
    if not os.access(folder, os.W_OK):
        found.append(Finding("error", f"store {path}: the folder {folder} cannot be written by this user"))
    free = shutil.disk_usage(folder).free
    if free < FREE:
        text = f"store {path}: {free // 2**20} MiB are free on its disk; when it is full the flow waits"
        found.append(Finding("warning", text))
    system = _file_system(folder)
    if system in REMOTE:
        text = f"store {path} lies on {system}: locks and write-ahead log of SQLite do not hold there; use a local disk"
        found.append(Finding("error", text))
    holder = holder_of(path)
    if holder is not None:
        found.append(Finding("info", f"store {path}: the worker with pid {holder} owns this file"))
    if place.exists():
        try:
            connection = sqlite3.connect(f"file:{place}?mode=ro", uri=True)
            try:
                connection.execute("SELECT count(*) FROM sqlite_master")
            finally:
                connection.close()
        except sqlite3.Error as error:
            found.append(Finding("error", f"store {path} cannot be read as a SQLite file: {error}"))
    return found or [Finding("info", f"store {path}: one worker at a time; {free // 2**20} MiB are free on its disk")]


def _file_system(folder: Path) -> str:
    """The type of the file system that a folder lies on, where the machine tells; else empty."""
    best, kind = "", ""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, at, type, *_ = line.split(" ")
        inside = at == "/" or str(folder) == at or str(folder).startswith(at + "/")
        if inside and len(at) >= len(best):
            best, kind = at, type
    return kind


async def _redis(url: str, shown: str) -> list[Finding]:
    from redis import exceptions

    from headrace.stores.redis import RedisConnection, hazards

    connection = RedisConnection(url, shown)
    try:
        await connection.open(_nobody())
        about = await connection.call("INFO")
        found = _version(shown, "Redis", str(about.get("redis_version", "0")), 6)
        try:
            settings = await connection.settings()
        except exceptions.RedisError as error:
            text = (
                f"store {shown}: its settings cannot be read ({error}); see to it yourself that appendonly is yes and "
                "maxmemory-policy noeviction"
            )
            found.append(Finding("warning", text))
        else:
            found += [Finding("warning", f"store {shown}: {sentence}") for sentence in hazards(settings)]
            limit, used = int(settings.get("maxmemory", "0") or 0), int(about.get("used_memory", 0))
            if limit and used > 0.9 * limit:
                text = f"store {shown} uses {used} of its {limit} bytes (maxmemory): when it is full the flow waits"
                found.append(Finding("warning", text))
        if about.get("role") == "slave":
            found.append(Finding("error", f"store {shown} is a replica, which cannot be written: name the primary"))
        seconds, micros = await connection.call("TIME")
        return found + _clock(shown, int(seconds) + int(micros) / 1e6)
    finally:
        await connection.close()


async def _postgres(url: str, shown: str) -> list[Finding]:
    from headrace.stores.postgres.pool import Pool

    pool = Pool(shown, url)
    try:
        connection = await pool.connect()
        names = ("server_version_num", "fsync", "full_page_writes", "synchronous_commit", "max_connections")
        settings: dict[str, str] = {}
        for name in names:
            cursor = await connection.execute("SELECT current_setting(%s)", (name,))
            (settings[name],) = await cursor.fetchone() or ("",)
        cursor = await connection.execute(
            "SELECT pg_is_in_recovery(), extract(epoch FROM clock_timestamp())::float8, (SELECT count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend')"
        )
        standby, now, used = await cursor.fetchone() or (False, time.time(), 0)
    finally:
        await pool.close()
    found = _version(shown, "PostgreSQL", str(int(settings["server_version_num"]) // 10_000), 14)
    if standby:
        found.append(Finding("error", f"store {shown} is a standby, which cannot be written: name the primary"))
    if settings["fsync"] == "off":
        text = f"store {shown}: fsync is off: a crash of the machine may damage the database; set it on"
        found.append(Finding("error", text))
    if settings["full_page_writes"] == "off":
        text = f"store {shown}: full_page_writes is off: a crash of the machine may damage the database; set it on"
        found.append(Finding("warning", text))
    if settings["synchronous_commit"] == "off":
        text = (
            f"store {shown}: synchronous_commit is off: a crash of the server forgets what was committed just before, so "
            "that events are handled again and dead letters are lost; set it on"
        )
        found.append(Finding("error", text))
    most = int(settings["max_connections"])
    if most - used < CONNECTIONS:
        text = (
            f"store {shown}: {used} of {most} connections are in use (max_connections), and one worker opens up to "
            f"{CONNECTIONS}: raise it, or put a pooler in session mode before it"
        )
        found.append(Finding("warning", text))
    return found + _clock(shown, now)


def _version(shown: str, what: str, version: str, oldest: int) -> list[Finding]:
    major = int(version.partition(".")[0] or 0)
    if major < oldest:
        return [Finding("error", f"store {shown}: {what} {version} is too old; use {oldest} or later")]
    return [Finding("info", f"store {shown}: {what} {version}")]


def _clock(shown: str, server: float) -> list[Finding]:
    skew = abs(server - time.time())
    if skew > SKEW:
        text = f"store {shown}: its clock differs from this machine's by {skew:.1f} s: leases and ages are off; use NTP"
        return [Finding("warning", text)]
    return []


def _nobody() -> Owner:
    """Whoever only looks."""
    return Owner("doctor", "", os.getpid(), "")
