"""The reflector: which request comes next, and what an answer means. A state machine without I/O.

In go pages, events, refusals, ends and failures; out come the next `Request` (with the delay before it) and facts about
objects. It is tested against a model of an API server, property by property; the I/O around it (`informer`) is small.

What it keeps, whatever the server does:

- A fact is a state that the server has shown; `Replaced` comes only after a complete list, so that what is not in it
  is gone.
- No list is asked for that could be older than anything already shown. The only list whose objects may have lower
  versions is one read with an empty version (the server's latest); its facts are marked ``truth``.
- The same version is never watched again after a 410, and no failure is repeated without a growing, jittered delay.

Source of the protocol: kubernetes.io, "Kubernetes API Concepts" (efficient detection of changes, streaming lists,
resource versions); of the parameters: k8s.io/client-go/tools/cache, Reflector.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from headrace.kubernetes.objects import Bookmark, Object, Page, latest, newer
from headrace.kubernetes.status import Status, is_gone, is_too_large_version

__all__ = ["Gone", "Present", "Reflector", "Replaced", "Request", "Timing"]


class Present(NamedTuple):
    """The object has this state. ``truth``: it is the latest the server has, even where its version is lower than
    one seen."""

    object: Object
    truth: bool = False


class Gone(NamedTuple):
    """The server reported the object's end (or that it left the selector); the object is its last state."""

    object: Object


class Replaced(NamedTuple):
    """A list is complete: ``present`` is everything there is (key to uid), at ``version``."""

    present: dict[str, str]
    version: str
    truth: bool


Fact = Present | Gone | Replaced


class Request(NamedTuple):
    """What to ask the server. ``query`` lacks the selectors. Times in seconds: wait ``delay`` first; the whole answer
    takes ``deadline`` at most; ``silence`` is how long an unfinished streaming list may say nothing (``None``: no
    such limit)."""

    watch: bool
    query: tuple[tuple[str, str], ...]
    delay: float
    deadline: float
    silence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds, as design and client-go have them; tests shorten them.

    ``watch``: the range from which a watch's ``timeoutSeconds`` is drawn; ``grace``: how much longer the client waits
    for its end; ``silence``: of a streaming list, after which it is given up; ``at_once``: a watch that ends within
    this time with no event failed; ``backoff``: first and greatest delay; ``reset``: how long nothing must fail until
    delays start from the first again;
    ``absent``: greatest delay between looks for a resource that the server does not know (yet).
    """

    watch: tuple[float, float] = (300.0, 600.0)
    grace: float = 30.0
    silence: float = 15.0
    at_once: float = 1.0
    backoff: tuple[float, float] = (0.8, 30.0)
    reset: float = 120.0
    absent: float = 5.0
    list_deadline: float = 120.0


_PAGE: Final = "500"
#: Streaming lists, or watches that end at once, that may fail in a row before the other way is taken.
_PATIENCE: Final = 3


class Reflector:
    """The state of one list and watch.

    Args:
        monotonic: seconds; chance: a number in [0, 1). Tests replace both.
        streaming: whether to try WatchList (``sendInitialEvents``) first.

    Attributes:
        version: everything up to it has been reported; empty before the first complete list.
        synced: a list has been completed, and nothing has been missed since.
        trouble: what is amiss, in one sentence; empty when nothing is.
        restarts: how often it had to begin anew, by reason.
        forbidden: the last request was refused for want of rights.
    """

    def __init__(
        self,
        timing: Timing | None = None,
        *,
        monotonic: Callable[[], float],
        chance: Callable[[], float] = random.random,
        streaming: bool = True,
    ) -> None:
        self.version = ""
        self.synced = False
        self.trouble = ""
        self.restarts: dict[str, int] = {}
        self.streaming = streaming
        self._timing = timing or Timing()
        self._monotonic = monotonic
        self._chance = chance
        self._facts: list[Fact] = []
        self._watching = False
        self.forbidden = False
        self._latest = False  # the next list asks for the server's latest
        self._unpaged = False
        self._token = ""
        self._highest = ""  # of any object shown, also by lists that were never completed
        self._present: dict[str, str] = {}
        self._delay = 0.0
        self._failures = 0
        self._failed_at = float("-inf")
        self._opened_at = 0.0
        self._events = 0  # of this watch; bookmarks are no events
        self._bookmarks = 0
        self._short = 0  # streaming lists or watches in a row that came to nothing

    # What to do next

    def request(self) -> Request:
        """The request to make now. Asking again without an answer gives the same request without its delay."""
        delay, self._delay = self._delay, 0.0
        timing = self._timing
        if self._watching or self.streaming:
            low, high = timing.watch
            seconds = low + self._chance() * (high - low)
            query = [("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", str(max(1, int(seconds))))]
            if not self._watching:
                self._begin_list()
                query += [("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]
            version = self.version if self._watching else self._wanted()
            if version:
                query.append(("resourceVersion", version))
            self._events = self._bookmarks = 0
            silence = None if self._watching else timing.silence
            return Request(True, tuple(query), delay, seconds + timing.grace, silence)
        return Request(False, self._list_query(), delay, timing.list_deadline, None)

    def _wanted(self) -> str:
        """The version that a list must not be older than; empty: the latest."""
        return "" if self._latest else latest((self.version, self._highest))

    def _list_query(self) -> tuple[tuple[str, str], ...]:
        if self._token:
            return (("limit", _PAGE), ("continue", self._token))
        self._begin_list()
        if self._unpaged:
            return ()
        wanted = self._wanted()
        if self._latest:
            return (("limit", _PAGE),)
        if not wanted:
            # Nothing was ever shown, so an old answer cannot contradict anything.
            return (("limit", _PAGE), ("resourceVersion", "0"))
        return (("limit", _PAGE), ("resourceVersion", wanted), ("resourceVersionMatch", "NotOlderThan"))

    def _begin_list(self) -> None:
        self._present = {}
        self._token = ""

    def take(self) -> list[Fact]:
        """The facts since the last call."""
        facts, self._facts = self._facts, []
        return facts

    # What came back

    def opened(self) -> None:
        """A watch was accepted."""
        self.forbidden = False
        self._opened_at = self._monotonic()
        if self._watching:
            self.trouble = ""

    def page(self, page: Page) -> None:
        """A page of a list arrived."""
        self.forbidden = False
        truth = self._latest or self._unpaged
        for found in page.objects:
            self._show(found, truth)
        if page.token:
            self._token = page.token
        else:
            self._complete(page.version, truth)

    def event(self, kind: str, found: Object) -> None:
        """An ADDED, MODIFIED or DELETED event arrived; another type is of a newer protocol and is left alone."""
        self._events += 1
        if kind == "DELETED":
            self._facts.append(Gone(found))
            if not self._watching:
                self._present.pop(found.key, None)
        elif kind in ("ADDED", "MODIFIED"):
            if self._watching:
                self._facts.append(Present(found))
            else:
                self._show(found, self._latest)
        else:
            return
        if self._watching and newer(found.version, self.version):
            self.version = found.version

    def bookmark(self, bookmark: Bookmark) -> None:
        """A BOOKMARK arrived."""
        self._bookmarks += 1
        if self._watching:
            if newer(bookmark.version, self.version):
                self.version = bookmark.version
        elif bookmark.initial_end:
            self._complete(bookmark.version, self._latest)

    def error(self, status: Status) -> None:
        """An ERROR event arrived; the stream is of no further use."""
        if status.code == 429 or status.reason == "TooManyRequests":
            self._fail("throttled", _sentence(status), retry_after=status.retry_after)
        elif is_too_large_version(status):
            self._relist("too_large_version", _sentence(status), from_latest=True)
        elif is_gone(status):
            self._relist("expired", _sentence(status), from_latest=True)
        else:
            # Among them: an object that was deleted although it could not be read, so that no DELETED will ever come.
            self._relist("error_event", _sentence(status))

    def refused(self, status: Status, retry_after: float | None = None) -> None:
        """The request got an HTTP error. ``retry_after``: seconds, of the header."""
        wait = status.retry_after if retry_after is None else retry_after
        sentence = _sentence(status)
        self.forbidden = status.code == 403
        if is_too_large_version(status):
            # Not a failure of the server: this history is not (or no longer) that long. Ask once without a version.
            self._relist("too_large_version", sentence, from_latest=True, at_once=not self._latest, retry_after=wait)
        elif is_gone(status):
            first = bool(self._token) and not self._unpaged
            self._unpaged = self._unpaged or first
            self._relist("expired", sentence, from_latest=True, at_once=first)
        elif status.code == 422 or status.code == 400:
            if self.streaming and not self._watching:
                self.streaming = False  # remembered: the server does not stream lists
                self._token = ""
                return
            self._relist("invalid", sentence)
        elif status.code == 404:
            self.synced = False
            self._watching = False
            self._token = ""
            self._fail("absent", sentence, at_most=self._timing.absent)
        elif status.code in (401, 403):
            self._fail("forbidden" if status.code == 403 else "unauthorized", sentence, retry_after=wait)
        elif status.code == 429:
            self._fail("throttled", sentence, retry_after=wait)
        else:
            self._fail("server_error", sentence, retry_after=wait)

    def ended(self) -> None:
        """The stream ended properly."""
        if not self._watching:
            self._unfinished("the streaming list ended before it was complete")
        elif self._events:
            self._short = 0
        elif self._monotonic() - self._opened_at < self._timing.at_once:
            self._short += 1
            if self._short >= _PATIENCE:
                self._relist("empty_watch", "watches end at once with no event")
            else:
                self._fail("empty_watch", "the watch ended at once with no event")
        elif self._bookmarks:
            self._short = 0
        else:
            # Not even a bookmark: perhaps the server's history ends before our version, and it would stay silent for
            # ever.
            self._relist("silent_watch", "the watch ended without an event or a bookmark", failed=False)

    def broke(self, reason: str) -> None:
        """The connection failed, the answer broke off, or its deadline passed. ``reason``: one sentence."""
        if not self._watching and self.streaming:
            self._unfinished(reason)
        else:
            self._fail("connection", reason)

    def fell_silent(self) -> None:
        """A streaming list said nothing for longer than the request's ``silence``: the server does not know how to
        stream."""
        self.streaming = False
        self._token = ""
        self._count("silent_list")

    def garbled(self, reason: str) -> None:
        """A complete line or page could not be read. What it said is unknown, so everything is listed anew."""
        self._relist("garbled", reason)

    def relist(self) -> None:
        """Begin anew on purpose: somebody joined who has to see everything. Nothing shown so far is taken back."""
        self._watching = False
        self._unpaged = False
        self._token = ""
        self._delay = 0.0

    def require(self, version: str) -> None:
        """No list may be older than ``version``, which somebody has handled already (a checkpoint)."""
        self._highest = latest((self._highest, version))

    # Inside

    def _show(self, found: Object, truth: bool) -> None:
        self._present[found.key] = found.uid
        if not self._highest or newer(found.version, self._highest):
            self._highest = found.version
        self._facts.append(Present(found, truth))

    def _complete(self, version: str, truth: bool) -> None:
        present, self._present = self._present, {}
        self._facts.append(Replaced(present, version, truth))
        self.version = version
        if truth:
            self._highest = version
        self.trouble = ""
        self.synced = self._watching = True
        self._latest = self._unpaged = False
        self._token = ""
        self._short = 0
        self._opened_at = self._monotonic()
        self._events = self._bookmarks = 0

    def _unfinished(self, reason: str) -> None:
        self._short += 1
        if self._short >= _PATIENCE:
            self.streaming = False
            self._short = 0
        self._fail("unfinished_list", reason)

    def _relist(
        self,
        why: str,
        sentence: str,
        *,
        from_latest: bool = False,
        at_once: bool = False,
        failed: bool = True,
        retry_after: float | None = None,
    ) -> None:
        self._watching = False
        self.synced = False
        self._token = ""
        self._short = 0
        if from_latest:
            self._latest = True
        if at_once or not failed:
            self._count(why)
            self._delay = 0.0
            self.trouble = sentence if failed else ""
        else:
            self._fail(why, sentence, retry_after=retry_after)

    def _fail(self, why: str, sentence: str, *, retry_after: float | None = None, at_most: float | None = None) -> None:
        now = self._monotonic()
        first, greatest = self._timing.backoff
        if now - self._failed_at > self._timing.reset:
            self._failures = 0
        self._failed_at = now
        grown = min(greatest if at_most is None else at_most, first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        # Full jitter, so that a thousand informers do not come back together; what the server asks for wins.
        self._delay = retry_after or grown * self._chance()
        self._count(why)
        self.trouble = sentence

    def _count(self, why: str) -> None:
        self.restarts[why] = self.restarts.get(why, 0) + 1


def _sentence(status: Status) -> str:
    return f"the API server answered {status.code} {status.reason}: {status.message}".strip()
