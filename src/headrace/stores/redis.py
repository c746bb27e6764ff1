"""The ledger in Redis (or Valkey): one key an event, claimed and finished by scripts that run for a whole batch at once.

A value is ``c<token>:`` for a claim and ``f:`` for one that was released with attempts to remember, each followed by the
attempts; or one letter for how it ended: ``d`` done, ``x`` dead, ``p`` dropped. A lease is a key of its own that expires.
All keys of an app carry its name in braces, so that a cluster keeps them on one node.

Redis keeps only the ledger. What its settings may lose is said at the start: a forgotten mark means that an event which comes
again is handled again, a forgotten claim that a completion is refused and its event comes again; never that one is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from headrace.engine.ledger import Attempts, Owner
from headrace.errors import ConfigurationError, ConnectionFailed, StoreUnavailable
from headrace.settings import hide_secrets
from headrace.stores.shared import SharedLedger
from headrace.stores.store import Store

__all__ = ["RedisLedger", "create", "hazards"]

log = logging.getLogger("headrace.stores")

#: Seconds to wait for an answer, and, at the start, for a server that is not up yet.
ANSWER: Final = 5.0
STARTING: Final = 5.0
#: Identities that one script takes: while it runs the server does nothing else.
BATCH: Final = 2_000
#: Bytes of one digest.
SIZE: Final = 16

_LETTERS: Final = {"done": "d", "dead": "x", "dropped": "p"}
_NAMES: Final = {"b": "busy", "d": "done", "x": "dead", "p": "dropped"}

# Digests come as one string, which costs less to send and to read than thousands of arguments. ARGV: start of the keys,
# digests, token, seconds until an abandoned row goes, start of the lease keys. Answers: one letter each, and the attempts
# found, by place.
_CLAIM = """
local start, digests, token, keep, leases = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local mine = 'c' .. token .. ':'
local live, answers, found = {}, {}, {}
for index = 1, #digests / 16 do
  local key = start .. string.sub(digests, index * 16 - 15, index * 16)
  local value = redis.call('GET', key)
  if not value then
    redis.call('SET', key, mine, 'EX', keep)
    answers[index] = 'c'
  else
    local kind = string.sub(value, 1, 1)
    local attempts
    if kind == 'c' then
      local colon = string.find(value, ':', 1, true)
      local owner = string.sub(value, 2, colon - 1)
      if owner ~= token then
        if live[owner] == nil then live[owner] = redis.call('EXISTS', leases .. owner) end
        if live[owner] == 1 then kind = 'b' end
      end
      attempts = string.sub(value, colon + 1)
    elseif kind == 'f' then
      attempts = string.sub(value, 3)
      kind = 'c'
    end
    if kind == 'c' then
      redis.call('SET', key, mine .. attempts, 'EX', keep)
      if attempts ~= '' then
        found[#found + 1] = tostring(index - 1)
        found[#found + 1] = attempts
      end
    end
    answers[index] = kind
  end
end
return {table.concat(answers), found}
"""

# ARGV: start, digests, token, how it ended, seconds to keep it. Answers: 1 or 0 each.
_MARK = """
local start, digests, token, state, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local mine = 'c' .. token .. ':'
local finished = state .. token
local answers = {}
for index = 1, #digests / 16 do
  local key = start .. string.sub(digests, index * 16 - 15, index * 16)
  local value = redis.call('GET', key)
  if value and (string.sub(value, 1, #mine) == mine or value == finished) then
    redis.call('SET', key, finished, 'EX', keep)
    answers[index] = '1'
  else
    answers[index] = '0'
  end
end
return table.concat(answers)
"""

# ARGV: start, digests, token, seconds to keep, then the attempts of each.
_RECORD = """
local start, digests, token, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local mine = 'c' .. token .. ':'
for index = 1, #digests / 16 do
  local key = start .. string.sub(digests, index * 16 - 15, index * 16)
  local value = redis.call('GET', key)
  if value and string.sub(value, 1, #mine) == mine then
    redis.call('SET', key, mine .. ARGV[4 + index], 'EX', keep)
  end
end
return 0
"""

# ARGV: start, digests, token, seconds to keep.
_RELEASE = """
local start, digests, token, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local mine = 'c' .. token .. ':'
for index = 1, #digests / 16 do
  local key = start .. string.sub(digests, index * 16 - 15, index * 16)
  local value = redis.call('GET', key)
  if value == mine then
    redis.call('DEL', key)
  elseif value and string.sub(value, 1, #mine) == mine then
    redis.call('SET', key, 'f:' .. string.sub(value, #mine + 1), 'EX', keep)
  end
end
return 0
"""

# ARGV: start, digests. A claim stays a claim; its attempts go.
_FORGET = """
local start, digests = ARGV[1], ARGV[2]
for index = 1, #digests / 16 do
  local key = start .. string.sub(digests, index * 16 - 15, index * 16)
  local value = redis.call('GET', key)
  if value and string.sub(value, 1, 1) == 'c' then
    redis.call('SET', key, string.sub(value, 1, string.find(value, ':', 1, true)), 'KEEPTTL')
  elseif value then
    redis.call('DEL', key)
  end
end
return 0
"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Attempts).decode


def create(url: str, *, app: str, beside: bool) -> Store:
    """The store of ``redis://[user:password@]host:port/number`` or ``rediss://``, not yet open; it keeps only the ledger.
    Servers from Redis 6 on, and Valkey."""
    shown = hide_secrets(url)
    try:
        connection = RedisConnection(url, shown)
    except ValueError as error:
        raise ConfigurationError(f"store {shown!r}: {error}") from error
    return Store(url=shown, durable=True, ledger=RedisLedger(connection, app, beside=beside), connection=connection)


def hazards(settings: Mapping[str, str]) -> list[str]:
    """What a server's settings may lose, one sentence each, for people."""
    found: list[str] = []
    if settings.get("appendonly") == "no":
        found.append(
            "appendonly is no: a restart of the server forgets what was finished since its last snapshot, and events that "
            "come again are handled again; set appendonly yes"
        )
    elif settings.get("appendfsync") == "no":
        found.append(
            "appendfsync is no: a loss of power forgets what the system had not written yet; set everysec or always"
        )
    policy = settings.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and settings.get("maxmemory", "0") != "0":
        found.append(
            f"maxmemory-policy is {policy}: a full server evicts marks and claims without a word, and their events may be "
            "handled twice; set noeviction, then a full server is waited for"
        )
    return found


class RedisConnection:
    """The client. Every failure that waiting may mend is `StoreUnavailable`."""

    def __init__(self, url: str, shown: str) -> None:
        self.url = shown
        self._client: Any = Redis.from_url(
            url, socket_timeout=ANSWER, socket_connect_timeout=ANSWER, retry=Retry(NoBackoff(), 0), max_connections=64
        )
        self._loaded: dict[str, str] = {}
        self._open = False

    async def open(self, owner: Owner) -> None:
        """Connect and look at the server's settings. Raises `ConnectionFailed` where it refuses us, `StoreUnavailable`
        where no server answers."""
        self._open = True
        loop = asyncio.get_running_loop()
        end = loop.time() + STARTING
        while True:
            try:
                await self.call("PING")
                break
            except StoreUnavailable:
                if loop.time() > end:
                    raise
                await asyncio.sleep(0.2)
        try:
            found = await self.settings()
        except exceptions.RedisError as error:
            log.warning(
                "store %s: its settings cannot be read (%s); see to it yourself that appendonly is yes and "
                "maxmemory-policy noeviction, or it forgets what was handled",
                self.url,
                error,
            )
        else:
            for sentence in hazards(found):
                log.warning("store %s: %s", self.url, sentence)

    async def settings(self) -> Mapping[str, str]:
        """What the server is set to, as far as it bears on what it may lose. Raises what the client raises."""
        found: Mapping[str, str] = await self._client.config_get("append*", "maxmemory*")
        return found

    async def call(self, *command: Any) -> Any:
        """One command."""
        if not self._open:
            raise StoreUnavailable(f"store {self.url} is closed")
        try:
            async with asyncio.timeout(ANSWER):
                return await self._client.execute_command(*command)
        except exceptions.NoScriptError:
            raise
        except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
            raise ConnectionFailed(f"store {self.url} refused the connection: {error}") from error
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            # Full (OOM), disk trouble (MISCONF), loading, read-only, busy: whatever it is, the flow waits for it.
            raise StoreUnavailable(f"store {self.url}: {error or 'no answer'}") from error

    async def script(self, source: str, *arguments: Any) -> Any:
        """Run a script, by its digest where the server knows it."""
        known = self._loaded.get(source)
        if known is not None:
            try:
                return await self.call("EVALSHA", known, 0, *arguments)
            except exceptions.NoScriptError:
                # A restarted server has forgotten its scripts.
                self._loaded.clear()
        self._loaded[source] = (await self.call("SCRIPT", "LOAD", source)).decode()
        return await self.call("EVAL", source, 0, *arguments)

    async def close(self) -> None:
        """Close every connection."""
        self._open = False
        await self._client.aclose()


class RedisLedger(SharedLedger):
    """See `headrace.engine.ledger.Ledger` and `headrace.stores.shared.SharedLedger`."""

    def __init__(self, connection: RedisConnection, app: str, *, beside: bool = False) -> None:
        super().__init__(app, beside=beside)
        self.token = 0
        self._connection = connection
        self._owner: Owner | None = None
        self._start = f"headrace:{{{app}}}:l:"
        self._leases = f"headrace:{{{app}}}:o:"

    async def _begin_lease(self, owner: Owner) -> None:
        self._owner = owner
        self.token = await self._connection.call("INCR", f"headrace:{{{self.app}}}:token")
        await self._renew_lease()

    async def _renew_lease(self) -> None:
        assert self._owner is not None
        name = f"{self._owner.id} pid {self._owner.pid} on {self._owner.host}"
        await self._connection.call("SET", f"{self._leases}{self.token}", name, "PX", int(self.lease * 1000))

    async def _end_lease(self) -> None:
        await self._connection.call("DEL", f"{self._leases}{self.token}")

    @property
    def _keep(self) -> int:
        """Seconds until a row goes that nobody touched: a mark, or what a dead owner left behind."""
        return max(1, round(self.retention))

    async def _claim(self, keys: list[bytes]) -> dict[int, tuple[str, Attempts | None]]:
        answers: dict[int, tuple[str, Attempts | None]] = {}
        for first in range(0, len(keys), BATCH):
            part = b"".join(keys[first : first + BATCH])
            letters, found = await self._connection.script(
                _CLAIM, self._start, part, self.token, max(self._keep, 86_400), self._leases
            )
            if letters.count(b"c") < len(letters):
                answers.update(
                    (first + index, (_NAMES[letter], None))
                    for index, letter in enumerate(letters.decode())
                    if letter != "c"
                )
            for index, attempts in zip(found[::2], found[1::2], strict=True):
                answers[first + int(index)] = ("claimed", _decode(attempts))
        return answers

    async def _mark(self, keys: list[bytes], state: str) -> set[int]:
        refused: set[int] = set()
        for first in range(0, len(keys), BATCH):
            part = b"".join(keys[first : first + BATCH])
            answers = await self._connection.script(_MARK, self._start, part, self.token, _LETTERS[state], self._keep)
            if b"0" in answers:
                refused.update(first + index for index, answer in enumerate(answers.decode()) if answer == "0")
        return refused

    async def _record(self, attempts: dict[bytes, Attempts]) -> None:
        keys = list(attempts)
        for first in range(0, len(keys), BATCH):
            part = keys[first : first + BATCH]
            recorded = [_encode(attempts[key]) for key in part]
            keep = max(self._keep, 86_400)
            await self._connection.script(_RECORD, self._start, b"".join(part), self.token, keep, *recorded)

    async def _release(self, keys: list[bytes]) -> None:
        for first in range(0, len(keys), BATCH):
            part = b"".join(keys[first : first + BATCH])
            await self._connection.script(_RELEASE, self._start, part, self.token, self._keep)

    async def _forget(self, keys: list[bytes]) -> None:
        for first in range(0, len(keys), BATCH):
            await self._connection.script(_FORGET, self._start, b"".join(keys[first : first + BATCH]))
