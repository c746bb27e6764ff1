"""What was published and not handled yet, read from the end of a history that grows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from headrace.testing.history import Fact

__all__ = ["Outstanding"]

_decode = msgspec.json.Decoder(Fact).decode
#: Bytes read at once.
CHUNK = 4 * 1024 * 1024


class Outstanding:
    """``ids``: published, not handled. ``handled``: facts of that sort so far, repeats included."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        # Handled before its publisher heard of the confirmation.
        self._early: set[str] = set()
        self.ids: set[str] = set()
        self.handled = 0
        self._growth = asyncio.Event()

    async def grown(self) -> None:
        """Return when more was handled."""
        self._growth.clear()
        await self._growth.wait()

    def read(self) -> None:
        """Take in what was written since."""
        while self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                whole, end, _ = file.read(CHUNK).rpartition(b"\n")
            if not end:
                return
            self._at += len(whole) + 1
            for line in whole.split(b"\n"):
                self._take(_decode(line))

    def _take(self, fact: Fact) -> None:
        if fact.what == "published":
            if fact.id in self._early:
                self._early.discard(fact.id)
            else:
                self.ids.add(fact.id)
        elif fact.what == "handled":
            self.handled += 1
            self._growth.set()
            if fact.handler != "file":
                if fact.id in self.ids:
                    self.ids.discard(fact.id)
                else:
                    self._early.add(fact.id)
