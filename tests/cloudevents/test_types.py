"""Times and text, as every event is checked for them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import Event
from headrace.cloudevents.types import check_text, format_time, parse_time
from headrace.errors import InvalidEvent


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2018-04-05T17:31:00Z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2018-04-05t17:31:00z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2018-04-05T17:31:00-00:00", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2018-04-05T17:31:00.1Z", datetime(2018, 4, 5, 17, 31, 0, 100_000, tzinfo=UTC)),
        ("2018-04-05T17:31:00.123456999Z", datetime(2018, 4, 5, 17, 31, 0, 123_456, tzinfo=UTC)),
        ("2018-04-05T17:31:00+05:30", datetime(2018, 4, 5, 17, 31, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2016-02-29T00:00:00Z", datetime(2016, 2, 29, tzinfo=UTC)),
    ],
)
def test_rfc_3339_is_read(text: str, moment: datetime) -> None:
    assert parse_time(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2018-04-05",
        "2018-04-05T17:31:00",
        "2018-04-05 17:31:00Z",
        "2018-04-05T17:31Z",
        "2018-04-05T24:00:00Z",
        "2018-02-30T00:00:00Z",
        "2017-02-29T00:00:00Z",
        "2018-04-05T17:31:61Z",
        "2018-04-05T17:60:00Z",
        "2018-04-05T17:31:00.Z",
        "2018-04-05T17:31:00,5Z",
        "2018-04-05T17:31:00+24:00",
        "2018-04-05T17:31:00+0200",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "２018-04-05T17:31:00Z",
        "2018-04-05T17:31:00Z\n",
        "18-04-05T17:31:00Z",
        "20180405T173100Z",
    ],
)
def test_everything_else_is_no_time(text: str) -> None:
    with pytest.raises(InvalidEvent, match="time"):
        parse_time(text)


def test_a_received_time_is_read_when_it_is_asked_for() -> None:
    event = Event.from_json(b'{"specversion":"1.0","id":"1","source":"/","type":"t","time":"yesterday"}')
    assert event.attributes["time"] == "yesterday"
    with pytest.raises(InvalidEvent, match="RFC 3339"):
        _ = event.time


@given(st.datetimes(timezones=st.timezones()))
def test_a_datetime_survives_its_text(moment: datetime) -> None:
    try:
        text = format_time(moment)
    except InvalidEvent:
        # An offset of whole minutes is all that RFC 3339 can write.
        assert moment.utcoffset() % timedelta(minutes=1)  # type: ignore[operator]
        return
    read = parse_time(text)
    assert (read.replace(tzinfo=None), read.utcoffset()) == (moment.replace(tzinfo=None), moment.utcoffset())


def test_the_excluded_characters_are_exactly_those_of_the_specification() -> None:
    def allowed(code: int) -> bool:
        try:
            check_text("ext", chr(code))
        except InvalidEvent:
            return False
        return True

    refused = {code for code in range(0x110000) if not allowed(code)}
    noncharacters = {
        *range(0xFDD0, 0xFDF0),
        *(plane + low for plane in range(0, 0x110000, 0x10000) for low in (0xFFFE, 0xFFFF)),
    }
    assert refused == {*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000), *noncharacters}
