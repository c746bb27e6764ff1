"""Who owns a keyed consumer, in words: the server knows a pin, which tells nobody which process has it.

Each owner notes its pin, host and pid in the app's bucket (`owner.<durable>`). A note whose pin is not the consumer's says
nothing: its writer was replaced.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

import msgspec

from headrace.errors import StoreUnavailable

if TYPE_CHECKING:
    from headrace.nats.api import Json
    from headrace.nats.bucket import Bucket

__all__ = ["OwnerRecord", "noted_owner", "pin_of"]

log = logging.getLogger("headrace.nats")


class _Note(msgspec.Struct):
    pin: str
    host: str
    pid: int


_decode = msgspec.json.Decoder(_Note).decode


def pin_of(info: Json) -> str:
    """The pin of a consumer's owner, from its info; empty where nobody owns it."""
    groups = info.get("priority_groups") or [{}]
    return groups[0].get("pinned_client_id") or ""


def noted_owner(note: bytes | None, pin: str) -> str:
    """The process that has this pin, in words; empty where the note is of another."""
    try:
        found = _decode(note) if note else None
    except msgspec.DecodeError:
        found = None
    return f"pid {found.pid} on {found.host}" if found is not None and found.pin == pin else ""


def key_of(durable: str) -> str:
    """The bucket's key of a consumer's note."""
    return f"owner.{durable}"


class OwnerRecord:
    """One consumer's note, as an owner writes it and a stand-by reads it. ``owner``: who owns it, as far as is known.

    It is for people: where the bucket does not answer, the work goes on and the note is written or read later.
    """

    def __init__(self, bucket: Bucket, durable: str) -> None:
        self.owner = ""
        self._bucket = bucket
        self._key = key_of(durable)
        self._known = ""

    async def write(self, pin: str) -> None:
        """Note that this process has the pin, once."""
        if pin == self._known:
            return
        note = _Note(pin, socket.gethostname(), os.getpid())
        try:
            await self._bucket.write({self._key: msgspec.json.encode(note)})
        except StoreUnavailable as error:
            log.debug("the owner is not noted: %s", error)
        else:
            self._known = pin

    async def read(self, pin: str) -> None:
        """Find out who has the pin, where it is another than before."""
        if not pin:
            self.owner = self._known = ""
        elif pin != self._known:
            try:
                found = await self._bucket.get(self._key)
            except StoreUnavailable as error:
                log.debug("the owner's note cannot be read: %s", error)
                return
            self.owner = noted_owner(found[0] if found else None, pin)
            self._known = pin if self.owner else ""
