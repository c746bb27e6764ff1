"""The text of the completed map."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kafka.completed import LIMIT, Record, contains, decode, encode

TOPIC_ID = "ZTRkMDhhMTctNDNkNS0tMQ"


@st.composite
def records(draw: st.DrawFn, pairs: int = 400, widest: int = 200) -> Record:
    base = draw(st.integers(0, 2**62))
    at, done = base, []
    numbers = st.integers(1, widest)
    for gap, length in draw(st.lists(st.tuples(numbers, numbers), max_size=pairs)):
        done.append((at + gap, at + gap + length))
        at += gap + length
    return Record(
        draw(st.sampled_from([TOPIC_ID, "-"])),
        draw(st.integers(1, 200_000)),
        base,
        base + draw(st.integers(0, 10**6)),
        done,
        draw(st.sampled_from(["", "aB3-_x9z"])),
    )


def same(found: Record | None, meant: Record) -> bool:
    return found is not None and found._replace(done=list(found.done)) == meant._replace(done=list(meant.done))


def count(runs: Sequence[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in runs)


@settings(deadline=None)
@given(records())
def test_what_is_written_is_read_back(record: Record) -> None:
    text = encode(record, limit=1 << 20)
    assert text.isascii()
    assert text.isprintable()
    assert same(decode(text), record)


@settings(deadline=None)
@given(records(pairs=900), st.integers(0, LIMIT))
def test_a_map_that_does_not_fit_is_cut_from_its_end(record: Record, limit: int) -> None:
    text = encode(record, limit=limit)
    assert len(text) <= limit
    found = decode(text)
    if found is None:
        assert limit < len(encode(record._replace(done=())))
        return
    assert found._replace(done=()) == record._replace(done=())
    whole = {offset for start, stop in record.done for offset in range(start, stop)}
    kept = {offset for start, stop in found.done for offset in range(start, stop)}
    assert kept <= whole
    assert not kept or kept == {offset for offset in whole if offset <= max(kept)}


@settings(deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="hr1 b-0123456789AZaz+/=\0", max_size=60).map("hr1 ".__add__))
def test_garbage_is_no_record(text: str) -> None:
    record = decode(text)
    assert record is None or count(record.done) >= 0


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "NONE",
        "hr2 - 1 1 ",
        "hr1 - 4 1 1",
        "hr1 - 4 x 1 ",
        "hr1 - 4 1 1 q",
        "hr1 - 4 1 1 b===",
        "hr1 - 4 1 1 bé",
        "hr1 - 4 1 1 rgA",  # a number cut off
        "hr1 - 4 1 1 rAQ",  # an odd number of lengths
        "hr1 - 4 1 1 rAQA",  # an empty run
        "hr1 - 4 1 1 r" + "gICAgICAgICAgICAAQ",  # beyond any log
        "hr1 - 4 1 1  ",
    ],
)
def test_what_no_writer_makes_is_no_record(text: str | None) -> None:
    assert decode(text) is None


def test_a_trailing_nul_is_read_over() -> None:
    # Some clients send the terminator along with the text.
    assert same(decode(encode(Record(TOPIC_ID, 4, 7, 9, [(8, 9)])) + "\0"), Record(TOPIC_ID, 4, 7, 9, [(8, 9)]))


def test_sparse_completions_take_run_lengths_and_dense_patterns_a_bit_set() -> None:
    sparse = encode(Record(TOPIC_ID, 4, 0, 0, [(1, 1_000_000)]))
    dense = encode(Record(TOPIC_ID, 4, 0, 0, [(i, i + 1) for i in range(1, 8000, 2)]))
    assert sparse.split(" ")[5][0] == "r"
    assert dense.split(" ")[5][0] == "b"
    assert len(sparse) < 50
    assert len(dense) < 1400


@settings(deadline=None)
@given(records(), st.integers(-3, 3))
def test_contains_says_what_a_walk_says(record: Record, off: int) -> None:
    for start, stop in list(record.done)[:20]:
        for offset in (start + off, stop + off):
            assert contains(record.done, offset) == any(first <= offset < last for first, last in record.done)
