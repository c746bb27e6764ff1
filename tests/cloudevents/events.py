"""Any event the specification allows, for property tests."""

from datetime import UTC
from typing import Any

from hypothesis import strategies as st

from headrace import Event

# What the String type allows: no controls, no surrogates, no noncharacters (those that categories do not cover).
NONCHARACTERS = "".join(
    [
        *map(chr, range(0xFDD0, 0xFDF0)),
        *(chr(plane + low) for plane in range(0, 0x110000, 0x10000) for low in (0xFFFE, 0xFFFF)),
    ]
)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=NONCHARACTERS), max_size=30)
some_text = texts.filter(bool)

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=24).filter(
    lambda name: (
        name
        not in (
            "data",
            "id",
            "source",
            "type",
            "subject",
            "time",
            "specversion",
            "datacontenttype",
            "dataschema",
        )
    )
)
sources = st.one_of(
    st.text("abcdefghijklmnopqrstuvwxyzABC0123456789-._~:/?#[]@!$&'()*+,;=", min_size=1, max_size=30),
    st.sampled_from(["/", "urn:uuid:6e8bc430", "https://example.com/a?b=c#d", "/a%20b%25", "//host", "/é/ü"]),
)
times = st.one_of(
    st.datetimes(timezones=st.just(UTC)),
    st.builds(
        "{:04}-{:02}-{:02}{}{:02}:{:02}:{:02}{}{}".format,
        st.integers(1, 9998),
        st.integers(1, 12),
        st.integers(1, 28),
        st.sampled_from("Tt"),
        st.integers(0, 23),
        st.integers(0, 59),
        st.integers(0, 60),
        st.sampled_from(["", ".5", ".123456789", ".000000000001"]),
        st.sampled_from(["Z", "z", "-00:00", "+05:30", "-23:59"]),
    ),
)
values = st.one_of(
    texts,
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.binary(max_size=20),
    st.datetimes(timezones=st.just(UTC)),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=("Cs",))),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner, max_size=4),
    ),
    max_leaves=8,
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """An event with any attributes, any extensions, and data of any form."""
    kind = draw(st.sampled_from(["absent", "json", "text", "charset", "bytes"]))
    data: Any = None
    content_type = draw(st.sampled_from([None, "application/json", "text/plain"]))
    if kind == "json":
        data = draw(json_values.filter(lambda value: value is not None and not isinstance(value, bytes)))
        content_type = draw(st.sampled_from([None, "application/json", "application/vnd.x+json; v=1", "TEXT/JSON"]))
    elif kind == "text":
        data = draw(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
        content_type = draw(st.sampled_from(["text/plain", "application/xml", 'text/html; charset="UTF-8"', "a/b"]))
    elif kind == "charset":
        data = draw(st.text(st.characters(max_codepoint=0xFF, exclude_categories=("Cs",)), max_size=40))
        content_type = draw(
            st.sampled_from(
                [
                    "text/plain; charset=iso-8859-1",
                    "text/plain;charset=UTF-16",
                    'application/json; charset="utf-16"',
                    "application/json; charset=latin1",
                ]
            )
        )
    elif kind == "bytes":
        data = draw(st.binary(max_size=60))
        content_type = draw(st.sampled_from([None, "application/octet-stream", "text/plain", "application/avro"]))
    return Event(
        type=draw(some_text),
        source=draw(sources),
        id=draw(some_text),
        subject=draw(st.none() | some_text),
        time=draw(st.none() | times),
        dataschema=draw(st.none() | st.sampled_from(["https://example.com/schema", "urn:x:y", "a+b:/%20"])),
        datacontenttype=content_type,
        data=data,
    ).replace(**draw(st.dictionaries(names, values, max_size=4)))
