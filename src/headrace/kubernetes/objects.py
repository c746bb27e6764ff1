"""Objects as they cross the wire: metadata decoded, everything else left as the bytes that arrived.

Decoding whole objects is what makes Python clients slow and lossy (fields they do not know are dropped). Here a watch
event costs two passes of a C decoder that skips what nobody asked for, and an object stays byte for byte what the
server sent until a handler wants it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from headrace.errors import InvalidEvent
from headrace.kubernetes.status import Status

__all__ = ["Bookmark", "Object", "Page", "decode_line", "decode_page", "newer", "object_key", "stripped"]

_INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


class Object(NamedTuple):
    """One state of one object: ``key`` is namespace/name (name alone outside namespaces), ``raw`` its JSON."""

    key: str
    uid: str
    version: str
    raw: bytes


class Bookmark(NamedTuple):
    """The server has sent everything up to ``version``; ``initial_end``: the initial events of a WatchList are
    complete."""

    version: str
    initial_end: bool


class Page(NamedTuple):
    """One page of a list. ``token``: how to ask for the next one, empty on the last."""

    version: str
    token: str
    objects: list[Object]


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    namespace: str = ""


class _Partial(msgspec.Struct, frozen=True):
    metadata: _Metadata
    kind: str = ""


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _BookmarkMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    annotations: dict[str, str] | None = None


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: _BookmarkMetadata


class _ListMetadata(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="resourceVersion", default="")
    token: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct, frozen=True):
    metadata: _ListMetadata = _ListMetadata()
    items: list[msgspec.Raw] | None = None


_events = msgspec.json.Decoder(_Event)
_partials = msgspec.json.Decoder(_Partial)
_bookmarks = msgspec.json.Decoder(_Bookmark)
_statuses = msgspec.json.Decoder(Status)
_lists = msgspec.json.Decoder(_List)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def object_key(namespace: str, name: str) -> str:
    """The key of an object within its collection."""
    return f"{namespace}/{name}" if namespace else name


def decode_line(line: bytes) -> tuple[str, Object | Bookmark | Status]:
    """One line of a watch: its type (``ADDED MODIFIED DELETED BOOKMARK ERROR``) and what it carries.

    Raises:
        InvalidEvent: the line is no watch event.
    """
    try:
        event = _events.decode(line)
        kind = event.type
        if kind == "BOOKMARK":
            metadata = _bookmarks.decode(event.object).metadata
            end = (metadata.annotations or {}).get(_INITIAL_EVENTS_END) == "true"
            return kind, Bookmark(metadata.resource_version, end)
        if kind == "ERROR":
            return kind, _statuses.decode(event.object)
        found = _partials.decode(event.object).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidEvent(f"a line of the watch is no watch event: {error}") from error
    if not found.name or not found.resource_version:
        raise InvalidEvent("a watch event's object has no name or no resourceVersion")
    key = f"{found.namespace}/{found.name}" if found.namespace else found.name
    return kind, Object(key, found.uid, found.resource_version, bytes(event.object))


def decode_page(body: bytes, api_version: str, kind: str) -> Page:
    """One page of a list. Items of built-in kinds carry no apiVersion and kind in lists; they are put in front.

    Raises:
        InvalidEvent: the body is no list.
    """
    try:
        page = _lists.decode(body)
        prefix = b'{"apiVersion":"%s","kind":"%s",' % (api_version.encode(), kind.encode())
        objects = []
        for item in page.items or ():
            partial = _partials.decode(item)
            found = partial.metadata
            raw = bytes(item)
            if not partial.kind:
                raw = prefix + raw[raw.index(b"{") + 1 :]
            objects.append(Object(object_key(found.namespace, found.name), found.uid, found.resource_version, raw))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidEvent(f"the answer is no list: {error}") from error
    return Page(page.metadata.version, page.metadata.token or "", objects)


def newer(version: str, than: str) -> bool:
    """Whether a resource version is later than another of the same collection.

    They are decimal numbers without leading zeros (KEP-5504), so the longer one is the later. Where a server of another
    kind gives something else, every difference counts as later.
    """
    if version == than:
        return False
    if version.isdigit() and than.isdigit():
        return (len(version), version) > (len(than), than)
    return True


def latest(versions: Iterable[str]) -> str:
    """The latest of some versions; empty ones count as nothing known."""
    found = ""
    for version in versions:
        if version and (not found or newer(version, found)):
            found = version
    return found


def stripped(raw: bytes) -> bytes:
    """An object without managedFields and without kubectl's last-applied annotation: often half of its bytes."""
    fields = _fields.decode(raw)
    metadata = _fields.decode(fields.get("metadata", msgspec.Raw(b"{}")))
    changed = metadata.pop("managedFields", None) is not None
    annotations = metadata.get("annotations")
    if annotations is not None and _LAST_APPLIED.encode() in bytes(annotations):
        kept: Any = _fields.decode(annotations)
        kept.pop(_LAST_APPLIED, None)
        metadata["annotations"] = msgspec.Raw(msgspec.json.encode(kept))
        changed = True
    if not changed:
        return raw
    fields["metadata"] = msgspec.Raw(msgspec.json.encode(metadata))
    return msgspec.json.encode(fields)
