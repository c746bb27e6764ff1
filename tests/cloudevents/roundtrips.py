"""The law of round trips: through any binding in any mode, an equal event with equal bytes comes back."""

from collections.abc import Callable

from headrace import Event
from headrace.cloudevents import http, json, kafka, mqtt, nats
from headrace.cloudevents.types import canonical

Path = Callable[[Event], Event]


def _bytes_http(event: Event) -> Event:
    headers, body = http.binary(event)
    return http.decode([(name.title().encode(), value.encode()) for name, value in headers], body)[0]


def _batched(event: Event) -> Event:
    other = Event(type="other", source="/", data={"a": 1})
    first, back, last = http.decode(*http.batch([other, event, other]))
    assert first == last == other
    return back


PATHS: dict[str, Path] = {
    "JSON": lambda event: Event.from_json(event.to_json()),
    "JSON batch": lambda event: Event.from_json_batch(json.batch([event]))[0],
    "HTTP binary": lambda event: http.decode(*http.binary(event))[0],
    "HTTP binary, headers in bytes": _bytes_http,
    "HTTP structured": lambda event: http.decode(*http.structured(event))[0],
    "HTTP batch": _batched,
    "Kafka binary": lambda event: kafka.decode(*kafka.binary(event))[0],
    "Kafka structured": lambda event: kafka.decode(*kafka.structured(event))[0],
    "NATS binary": lambda event: nats.decode(*nats.binary(event))[0],
    "NATS structured": lambda event: nats.decode(*nats.structured(event))[0],
    "MQTT binary": lambda event: mqtt.decode(*mqtt.binary(event))[0],
    "MQTT structured": lambda event: mqtt.decode(*mqtt.structured(event))[0],
    "HTTP binary, tolerant": lambda event: http.decode(*http.binary(event), tolerant=True)[0],
    "NATS binary, tolerant": lambda event: nats.decode(*nats.binary(event), tolerant=True)[0],
    "MQTT binary, tolerant": lambda event: mqtt.decode(*mqtt.binary(event), tolerant=True)[0],
}


def check(event: Event, path: str) -> Event:
    """Send an event along a path and compare what comes back."""
    back = PATHS[path](event)
    assert back == event, path
    assert event == back, path
    assert hash(back) == hash(event), path
    assert (back.raw or b"") == (event.raw or b""), path
    sent = {name: canonical(value) for name, value in event._attributes.items()}
    arrived = back.attributes
    if "datacontenttype" not in sent:
        # What JSON implies, a binding spells.
        arrived.pop("datacontenttype", None)
    assert arrived == sent, path
    assert back.time == event.time, path
    return back
