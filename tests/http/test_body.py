"""The depth of JSON is counted without parsing it; the count agrees with a parser on every document."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.http.answers import Refused
from headrace.http.body import check_depth

documents = st.recursive(
    st.none() | st.integers() | st.text(alphabet='[]{}"\\ab\n'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='[{}]"\\', max_size=3), inner),
    max_leaves=30,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(inner) for inner in value), default=0)
    return 0


@given(documents, st.integers(1, 6))
def test_exactly_what_is_nested_deeper_than_the_limit_is_refused(document: Any, limit: int) -> None:
    body = json.dumps(document).encode()
    if depth(document) > limit:
        with pytest.raises(Refused):
            check_depth(body, limit)
    else:
        check_depth(body, limit)


@given(st.text(alphabet='[]{}"\\ab').map(str.encode), st.integers(1, 4))
def test_text_that_is_no_json_ends_in_a_verdict(body: bytes, limit: int) -> None:
    with contextlib.suppress(Refused):
        check_depth(body, limit)


@pytest.mark.parametrize("unit", [b"[", b"[]", b'{"a":', b"]", b'"', b'\\"', b"[[[[]]]]", b'["\\\\",'])
def test_a_hostile_megabyte_is_judged_in_linear_time(unit: bytes) -> None:
    def cost(size: int) -> float:
        body = unit * (size // len(unit))
        begun = time.process_time()
        for _ in range(3):
            try:
                check_depth(body, 64)
            except Refused:
                continue
        return time.process_time() - begun

    # Quadratic work would take sixteen times as long; the bound is far from both.
    assert cost(1 << 20) < 10 * cost(1 << 18) + 0.1
