"""The laws of reflector and store, held against a model of an API server under every fault that the contract allows."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from headrace.kubernetes.objects import newer
from headrace.kubernetes.reflector import Reflector, Timing
from headrace.kubernetes.store import Store
from tests.kubernetes.model import FAULTS, Server

KEYS = st.sampled_from(["a/one", "a/two", "b/one", "b/two", "c"])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Informed(RuleBasedStateMachine):
    """One handler's view of a server on which anything may happen between two requests."""

    @initialize(seed=st.integers(0, 2**32), streams=st.booleans(), page=st.integers(1, 4))
    def begin(self, seed: int, streams: bool, page: int) -> None:
        self.chance = random.Random(seed)
        self.server = Server(self.chance, streams=streams, page=page)
        self.clock = Clock()
        self.known: dict[str, tuple[str, str]] = {}
        self.finished: dict[str, tuple[str, str, str]] = {}
        self.begun: dict[str, tuple[str, str, str]] = {}
        self.floor = ""
        self.restored = False
        self._connect()

    def _connect(self) -> None:
        self.reflector = Reflector(Timing(), monotonic=self.clock, chance=self.chance.random)
        self.store = Store(baseline=None)
        self.store.know(self.finished, dict(self.begun), "")
        if self.floor:
            self.reflector.require(self.floor)

    @rule(key=KEYS)
    def put(self, key: str) -> None:
        self.server.put(key)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.server.delete(key)

    @rule(key=KEYS)
    def recreate(self, key: str) -> None:
        self.server.delete(key)
        self.server.put(key)

    @rule()
    def elsewhere(self) -> None:
        self.server.elsewhere()

    @rule()
    def compact(self) -> None:
        self.server.compact()

    @rule()
    def restore(self) -> None:
        """Noticed while the restored history is shorter than ours; once it has grown past it, no client can tell."""
        self.server.restore()
        self.restored = True
        self._in_peace()

    @rule()
    def relist(self) -> None:
        self.reflector.relist()
        self._take()

    @rule()
    def restart(self) -> None:
        """The process dies and begins again from its checkpoint; of some objects it had only begun to tell."""
        entries = {key: (uid, version, "") for key, (uid, version) in self.known.items()}
        self.begun = {key: entry for key, entry in entries.items() if self.chance.random() < 0.3}
        self.finished = {key: entry for key, entry in entries.items() if key not in self.begun}
        self._connect()

    @rule(fault=st.sampled_from(FAULTS), waits=st.floats(0, 400))
    def step(self, fault: str, waits: float) -> None:
        request = self.reflector.request()
        self.clock.now += request.delay
        self.server.answer(self.reflector, request, fault)
        self.clock.now += waits
        self._take()

    def _take(self) -> None:
        for fact in self.reflector.take():
            for delta in self.store.apply(fact):
                known = self.known.get(delta.key)
                begun = self.begun.pop(delta.key, None)
                if delta.verb == "add":
                    if begun is not None:
                        assert delta.uid == begun[0], f"{delta} before the end of its predecessor"
                    else:
                        assert known is None, f"{delta} of an object that was known as {known}"
                    self.known[delta.key] = (delta.uid, delta.version)
                elif delta.verb == "update":
                    assert known is not None
                    assert known[0] == delta.uid
                    assert begun is None, f"{delta} of an object of which nothing was told to its end"
                    assert self.restored or newer(delta.version, known[1]), f"{delta} after {known}"
                    self.known[delta.key] = (delta.uid, delta.version)
                else:
                    assert known is not None, f"{delta} of an object that was not known"
                    assert known[0] == delta.uid
                    living = {found.uid for found in self.server.objects.values()}
                    assert self.restored or delta.uid not in living, f"{delta}, and it lives"
                    del self.known[delta.key]
                if not self.floor or newer(delta.version, self.floor):
                    self.floor = delta.version

    def _in_peace(self) -> None:
        # A watch at a version that the server has not reached is silent, and ends without an event or a bookmark.
        self.clock.now += 400
        for _ in range(12):
            request = self.reflector.request()
            self.clock.now += request.delay
            self.server.answer(self.reflector, request, "none")
            self.clock.now += 300
            self._take()

    def teardown(self) -> None:
        """Left in peace, the handler comes to know exactly what the server has."""
        if not hasattr(self, "server"):
            return
        self._in_peace()
        expected = {key: (found.uid, found.version) for key, found in self.server.objects.items()}
        assert self.known == expected


Informed.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestInformed = Informed.TestCase
