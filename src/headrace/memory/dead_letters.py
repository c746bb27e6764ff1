"""Dead letters in the memory of one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from headrace.engine.dead_letters import DeadLetter, Revision, Stored

__all__ = ["MemoryDeadLetters"]


class MemoryDeadLetters:
    """Letters by id, oldest first; a revision is a counter of the letter's own."""

    def __init__(self) -> None:
        self.stored: dict[str, Stored] = {}

    async def open(self) -> None:
        """Nothing to open."""

    async def put(self, letters: Sequence[DeadLetter]) -> Sequence[Exception | None]:
        for letter in letters:
            self.stored.setdefault(letter.id, Stored(msgspec.structs.replace(letter), 1))
        return [None] * len(letters)

    async def get(self, id: str) -> Stored | None:
        found = self.stored.get(id)
        return None if found is None else Stored(msgspec.structs.replace(found.letter), found.revision)

    async def scan(self, app: str, *, handler: str | None = None) -> AsyncIterator[Stored]:
        for letter, revision in list(self.stored.values()):
            if letter.app == app and handler in (None, letter.handler):
                yield Stored(msgspec.structs.replace(letter), revision)

    async def update(self, letter: DeadLetter, revision: Revision) -> bool:
        found = self.stored.get(letter.id)
        if found is None or found.revision != revision:
            return False
        self.stored[letter.id] = Stored(msgspec.structs.replace(letter), int(revision) + 1)
        return True

    async def counts(self, app: str) -> dict[str, tuple[int, float]]:
        counted: dict[str, tuple[int, float]] = {}
        for letter, _ in self.stored.values():
            if letter.app == app and letter.state == "dead":
                number, oldest = counted.get(letter.handler, (0, letter.last_seen))
                counted[letter.handler] = (number + 1, min(oldest, letter.last_seen))
        return counted

    async def close(self) -> None:
        """Letters stay as long as the object."""
