"""Offsets of one partition against a model that keeps a plain set."""

import random
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kafka.completed import LIMIT, contains, decode, encode
from headrace.kafka.offsets import Offsets

SMALL = 300  # characters: the bounds are met with few offsets


class Model:
    """What a set and a loop say."""

    def __init__(self, start: int, done: set[int]) -> None:
        self.start = start
        self.arrived: list[int] = []
        self.done = set(done)
        self.restored = set(done)

    def watermark(self) -> int:
        for offset in self.arrived:
            if offset not in self.done:
                return offset
        base = self.arrived[-1] + 1 if self.arrived else self.start
        while base in self.restored:
            base += 1
        return base


def expand(runs: Sequence[tuple[int, int]]) -> set[int]:
    return {offset for start, stop in runs for offset in range(start, stop)}


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], list[tuple[str, int]]]:
    start = draw(st.integers(0, 1 << 40))
    at, restored = start, []
    for gap, length in draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=6)):
        restored.append((at + gap, at + gap + length))
        at += gap + length
    steps = draw(
        st.lists(st.tuples(st.sampled_from(["arrive", "complete", "commit"]), st.integers(0, 30)), max_size=120)
    )
    return start, restored, steps


@settings(deadline=None)
@given(histories())
def test_watermark_and_map_agree_with_a_set(
    history: tuple[int, list[tuple[int, int]], list[tuple[str, int]]],
) -> None:
    start, restored, steps = history
    model = Model(start, expand(restored))
    offsets = Offsets(start, restored)
    tokens: dict[int, int] = {}
    at = start
    for step, number in steps:
        if step == "arrive":
            offset = at + (number % 4 == 3) * (number % 3)  # now and then a gap
            at = offset + 1
            token = offsets.hand_over(offset)
            model.arrived.append(offset)
            assert (token is None) == (offset in model.done)
            if token is not None:
                tokens[offset] = token
        elif step == "complete" and tokens:
            offset = sorted(tokens)[number % len(tokens)]
            offsets.complete([tokens.pop(offset)])
            model.done.add(offset)
        assert offsets.watermark() == model.watermark()
        assert offsets.outstanding == len(tokens)
        done = offsets.done()
        for pending in tokens:
            assert not contains(done, pending)
            assert pending >= offsets.watermark()
        for completed in model.done - {o for o in model.restored if o < at and o not in model.arrived}:
            assert completed < offsets.watermark() or contains(done, completed)
        assert all(before[1] < after[0] for before, after in pairwise(done))
        assert all(offsets.watermark() < first < last for first, last in done)


@settings(deadline=None)
@given(histories(), st.integers(0, 2**32))
def test_a_successor_repeats_exactly_what_was_not_completed(
    history: tuple[int, list[tuple[int, int]], list[tuple[str, int]]], seed: int
) -> None:
    start, restored, steps = history
    draw = random.Random(seed)
    handled: set[int] = set()
    end = start + len(steps) + 80
    log = [offset for offset in range(start, end) if draw.random() < 0.9]
    base, done = start, list(restored)
    for _ in range(4):
        offsets = Offsets(base, done)
        open_: list[tuple[int, int]] = []
        reach = draw.randrange(base, end + 1)
        for offset in log:
            if base <= offset < reach:
                token = offsets.hand_over(offset)
                if token is not None:
                    assert offset not in handled
                    open_.append((offset, token))
        draw.shuffle(open_)
        for offset, token in open_[: draw.randint(0, len(open_))]:
            offsets.complete([token])
            handled.add(offset)
        record = decode(encode(offsets.record("topic-id", 3)))
        assert record is not None
        base, done = record.base, list(record.done)
    final = Offsets(base, done)
    for offset in log:
        if offset >= base and final.hand_over(offset) is not None:
            assert offset not in handled
            handled.add(offset)
    assert handled == set(log) - expand(restored)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["random", "one stuck", "every second", "keys"]))
def test_below_the_ceiling_every_map_fits_uncut(seed: int, pattern: str) -> None:
    draw = random.Random(seed)
    offsets = Offsets(10**18, limit=SMALL)
    tokens: list[int] = []
    at = 10**18
    stuck = draw.randrange(8)
    for _ in range(4000):
        if at >= offsets.ceiling():
            break
        if draw.random() < 0.002:
            at += draw.randrange(10**7)
            offsets.skip_to(at)
            if at >= offsets.ceiling():
                break
        token = offsets.hand_over(at)
        assert token is not None
        tokens.append(token)
        at += 1 + (draw.random() < 0.05) * draw.randrange(300)
        if len(tokens) > 40:
            index = 0 if pattern == "random" and draw.random() < 0.01 else draw.randrange(1, len(tokens))
            wanted = {"every second": index % 2 == 1, "keys": index % 8 != stuck}
            if wanted.get(pattern, True):
                offsets.complete([tokens.pop(index)])
        record = offsets.record("a" * 22, 200_000, 10**18 + 10**6)
        assert decode(encode(record, limit=SMALL)) == record
    draw.shuffle(tokens)
    for token in tokens:  # whatever the order in which the rest finishes
        offsets.complete([token])
        record = offsets.record("a" * 22, 200_000, 10**18 + 10**6)
        assert decode(encode(record, limit=SMALL)) == record
    assert offsets.done() == []
    assert offsets.ceiling() > at


def test_one_stuck_key_of_sixty_four_lets_sixty_thousand_pass() -> None:
    offsets = Offsets(0)
    offset = 0
    while offset < (ceiling := offsets.ceiling()) and offset < 200_000:
        while offset < ceiling:
            token = offsets.hand_over(offset)
            assert token is not None
            if offset % 64:
                offsets.complete([token])
            offset += 1
    assert offset > 60_000
    assert len(encode(offsets.record("a" * 22, 200_000, 10**18))) <= LIMIT


def test_a_gap_beside_one_stuck_event_is_one_number_however_wide_it_is() -> None:
    offsets = Offsets(0)
    assert offsets.hand_over(0) is not None
    assert offsets.skip_to(10**9) == 10**9 - 1
    assert offsets.ceiling() > 10**9 + 1000


def test_what_a_gap_skips_of_a_former_owners_map_is_let_go_and_the_rest_of_it_holds() -> None:
    offsets = Offsets(0, [(100, 200), (5000, 6000)])
    offsets.skip_to(5500)
    assert offsets.watermark() == 6000
    assert offsets.hand_over(5500) is None
    token = offsets.hand_over(6000)
    assert token is not None
    assert offsets.done() == []
    offsets.complete([token])
    assert offsets.watermark() == 6001


def test_memory_of_what_is_done_is_let_go() -> None:
    offsets = Offsets(0)
    for offset in range(100_000):
        token = offsets.hand_over(offset)
        assert token is not None
        offsets.complete([token])
        if offset % 1000 == 999:
            assert offsets.watermark() == offset + 1
    assert len(offsets._flags) <= 5_000


def test_an_offset_that_comes_again_is_not_handed_over_twice() -> None:
    offsets = Offsets(5)
    assert offsets.hand_over(4) is None
    assert offsets.hand_over(5) is not None
    assert offsets.hand_over(5) is None
