"""The I/O around the reflector: one list and watch, shared by every handler that asks for the same.

An informer carries out what its reflector requests, hands it what came back, and passes the facts on to its
subscribers in the order of the server. A subscriber that joins late, or that had to let facts go by, is brought up to
date by a new list: no object is kept here for its sake, unless a handler asked for a cache.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, NamedTuple, Protocol

from headrace.errors import ConnectionFailed, HeadraceError, InvalidEvent
from headrace.kubernetes.client import Client
from headrace.kubernetes.objects import Bookmark, Object, decode_line, decode_page, stripped
from headrace.kubernetes.reflector import Fact, Gone, Present, Reflector, Replaced, Request, Timing
from headrace.kubernetes.resources import Resource, ResourceAbsent, Resources
from headrace.kubernetes.status import ApiError, Status
from headrace.kubernetes.writes import Writes

__all__ = ["Informer", "Lines", "Selection", "Subscriber"]

_log = logging.getLogger("headrace.kubernetes")

#: Seconds before the first list, in which the other handlers of a starting app join.
_GATHER: Final = 0.02
_JSON: Final = "application/json"
_METADATA: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class Selection(NamedTuple):
    """What an informer watches; two handlers with the same selection share one."""

    resource: str
    namespace: str
    labels: str
    fields: str
    metadata_only: bool


class Subscriber(Protocol):
    """Who is told."""

    def facts(self, selection: Selection, facts: list[Fact]) -> None:
        """Facts in the server's order. Must not block."""


class Informer:
    """One list and watch.

    Attributes:
        resource: what is watched, as the server serves it now.
        connected: the watch is open and nothing has been missed.
        last_progress: ``time.monotonic()`` of the last bytes from the server.
        objects: the cache, by key, while somebody asked for one; stripped of managedFields.
    """

    def __init__(
        self,
        client: Client,
        resources: Resources,
        writes: Writes,
        selection: Selection,
        resource: Resource,
        timing: Timing | None = None,
    ) -> None:
        self.selection = selection
        self.resource = resource
        self.connected = False
        self.last_progress = 0.0
        self.objects: dict[str, bytes] | None = None
        self.reflector = Reflector(timing, monotonic=time.monotonic)
        self._client = client
        self._resources = resources
        self._writes = writes
        self._listed_since = 0.0  # time.monotonic() when the list under way, or the last one, was asked for
        self._subscribers: list[Subscriber] = []
        self._absent = False
        self._shown = False
        self._told = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str:
        """What is amiss, in one sentence; empty when nothing is."""
        return self.reflector.trouble

    def join(self, subscriber: Subscriber, *, floor: str, cache: bool) -> None:
        """Be told of everything from now on, beginning with all there is.

        Args:
            floor: a version that the subscriber knows already; nothing older is shown.
            cache: keep the objects for `objects`.
        """
        self._subscribers.append(subscriber)
        if floor:
            self.reflector.require(floor)
        if cache and self.objects is None:
            self.objects = {}
        if self._task is None:
            self._start()
        elif self._shown:
            self.refresh()

    def leave(self, subscriber: Subscriber) -> bool:
        """Be told no more; whether nobody is left."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
        return not self._subscribers

    def refresh(self) -> None:
        """List anew, for a subscriber that missed something."""
        self.reflector.relist()
        if self._task is not None:
            self._task.cancel()
        self._start()

    async def close(self) -> None:
        """End the watch."""
        task, self._task = self._task, None
        self.connected = False
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"informer {self.selection.resource}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task is self._task and not task.cancelled() and task.exception() is not None:
            # Not begun anew: what a subscriber had made of it is unknown, and a restart of the process skips nothing.
            _log.error("watch of %s ended by a defect", self.selection.resource, exc_info=task.exception())
            self.reflector.garbled(f"the watch ended by a defect, restart the process: {task.exception()!r}")
            self._say(False)

    async def _run(self) -> None:
        reflector = self.reflector
        if not self._shown:
            await asyncio.sleep(_GATHER)
        while True:
            request = reflector.request()
            if request.delay:
                await asyncio.sleep(request.delay)
            if self._absent and not await self._rediscover():
                continue
            if not any(name == "continue" for name, _ in request.query):
                self._listed_since = time.monotonic()
            try:
                await (self._watch(request) if request.watch else self._list(request))
            except ApiError as error:
                self._absent = error.code == 404
                reflector.refused(error.status, error.retry_after)
            except InvalidEvent as error:
                reflector.garbled(str(error))
            except HeadraceError as error:
                reflector.broke(str(error))
            self._say(False)

    async def _rediscover(self) -> bool:
        """After a 404: the resource may be served at another version now, or not at all."""
        try:
            self.resource = await self._resources.find(self.selection.resource, again=True)
        except ResourceAbsent as error:
            self.reflector.refused(Status(404, "NotFound", str(error)))
        except ApiError as error:
            self.reflector.refused(error.status, error.retry_after)
        except HeadraceError as error:
            self.reflector.broke(str(error))
        else:
            self._absent = False
            return True
        self._say(False)
        return False

    async def _list(self, request: Request) -> None:
        body = await self._client.request(
            "GET", self._path(), query=self._query(request), accept=self._accept("List"), timeout=request.deadline
        )
        self.last_progress = time.monotonic()
        self.reflector.page(decode_page(body, self.resource.api_version, self.resource.kind))
        self._tell()

    async def _watch(self, request: Request) -> None:
        reflector = self.reflector
        lines = Lines()
        loop = asyncio.get_running_loop()
        silence = request.silence
        try:
            async with (
                asyncio.timeout(silence) as limit,
                self._client.stream(
                    "GET", self._path(), query=self._query(request), accept=self._accept(""), timeout=request.deadline
                ) as answer,
            ):
                reflector.opened()
                if silence is None:
                    self._say(True)
                async for chunk in answer.chunks():
                    self.last_progress = time.monotonic()
                    if not self._read(lines.feed(chunk)):
                        return
                    if silence is not None:
                        if reflector.synced:
                            silence = None
                            limit.reschedule(None)
                        else:
                            limit.reschedule(loop.time() + silence)
                if lines.rest:
                    raise ConnectionFailed("the watch broke off inside a line")
                reflector.ended()
        except TimeoutError:
            reflector.fell_silent()

    def _read(self, lines: list[bytes]) -> bool:
        """Whether the stream is of further use."""
        reflector = self.reflector
        try:
            for line in lines:
                if not line:
                    continue
                kind, found = decode_line(line)
                if found.__class__ is Object:
                    reflector.event(kind, found)
                elif isinstance(found, Bookmark):
                    reflector.bookmark(found)
                elif isinstance(found, Status):
                    reflector.error(found)
                    return False
        finally:
            # What came before a line that cannot be read, or an error, holds.
            self._tell()
        return True

    def _tell(self) -> None:
        facts = self.reflector.take()
        if not facts:
            return
        self._shown = True
        for fact in facts:
            if isinstance(fact, Present) and fact.truth:
                self._writes.truth(self.resource.name, fact.object.key, fact.object.version, self._listed_since)
        if self.objects is not None:
            self._keep(facts, self.objects)
        for subscriber in self._subscribers:
            subscriber.facts(self.selection, facts)
        if self.reflector.synced and not self.connected:
            self._say(True)

    def _keep(self, facts: list[Fact], objects: dict[str, bytes]) -> None:
        for fact in facts:
            if isinstance(fact, Present):
                objects[fact.object.key] = stripped(fact.object.raw)
            elif isinstance(fact, Gone):
                objects.pop(fact.object.key, None)
            elif isinstance(fact, Replaced):
                for key in [key for key in objects if key not in fact.present]:
                    del objects[key]

    def _say(self, connected: bool) -> None:
        self.connected = connected and self.reflector.synced
        trouble = self.reflector.trouble
        if trouble != self._told:
            self._told = trouble
            if trouble:
                _log.warning("watch of %s: %s", self.selection.resource, trouble)
            else:
                _log.info("watch of %s: recovered", self.selection.resource)

    def _path(self) -> str:
        return self.resource.path(self.selection.namespace)

    def _accept(self, suffix: str) -> str:
        return _METADATA.format(suffix) if self.selection.metadata_only else _JSON

    def _query(self, request: Request) -> list[tuple[str, str]]:
        query = list(request.query)
        if self.selection.labels:
            query.append(("labelSelector", self.selection.labels))
        if self.selection.fields:
            query.append(("fieldSelector", self.selection.fields))
        return query


class Lines:
    """Splits a stream at line feeds, and at nothing else: U+0085 and U+2028 are data. A line may be of any length."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    @property
    def rest(self) -> bool:
        """Something came after the last line feed."""
        return bool(self._parts)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, without their line feeds."""
        lines = chunk.split(b"\n")
        last = lines.pop()
        if lines and self._parts:
            # Joined once when the line is complete: an object of megabytes comes in many chunks.
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts.clear()
        if last:
            self._parts.append(last)
        return lines
