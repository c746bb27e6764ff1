"""Settings and parameters that cannot be are refused before anything starts, by the name of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from headrace import App, Event, Retry
from headrace.errors import ConfigurationError
from headrace.settings import Settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"concurrency": 0}, "App(concurrency=0) is below 1"),
        ({"concurrency": "x"}, "App(concurrency='x') is not a whole number"),
        ({"concurrency": True}, "App(concurrency=True) is not a whole number"),
        ({"prefetch": 2.5}, "App(prefetch=2.5) is not a whole number"),
        ({"parked": "x"}, "App(parked='x') is not a whole number"),
        ({"breaker_failures": -1}, "App(breaker_failures=-1) is below 0"),
        ({"drain": "soon"}, "App(drain='soon') is not a number"),
        ({"drain": -1}, "App(drain=-1) is below 0"),
        ({"ready_within": float("inf")}, "App(ready_within=inf) is not a number"),
        ({"log": "loud"}, "App(log='loud') is not one of debug, info"),
        ({"log": 5}, "App(log=5) is no text"),
        ({"broker": 5}, "App(broker=5) is no text"),
        ({"store": 5}, "App(store=5) is no text"),
        ({"http": 8080}, "App(http=8080) is no text"),
    ],
)
def test_an_argument_that_cannot_be_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        App("shop", **given).settings()
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("HEADRACE_CONCURRENCY", "-5", "HEADRACE_CONCURRENCY='-5' is below 1"),
        ("HEADRACE_DRAIN", "-1", "HEADRACE_DRAIN='-1' is below 0"),
        ("HEADRACE_DRAIN", "nan", "HEADRACE_DRAIN='nan' is not a number"),
        ("HEADRACE_PREFETCH", "1.5", "HEADRACE_PREFETCH='1.5' is not a whole number"),
        ("HEADRACE_LOG", "loud", "HEADRACE_LOG='loud' is not one of debug"),
    ],
)
def test_a_variable_that_cannot_be_is_named(variable: str, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.resolve({}, {variable: text})
    assert words in str(caught.value)


def test_values_at_their_limits_are_taken() -> None:
    settings = Settings.resolve(
        {"drain": 0, "concurrency": 1}, {"HEADRACE_LOG": "WARNING", "HEADRACE_BREAKER_FAILURES": "0"}
    )
    assert (settings["drain"], settings["concurrency"], settings["log"], settings["breaker_failures"]) == (
        0,
        1,
        "WARNING",
        0,
    )


@pytest.mark.parametrize("key", ["", "@", "a..b", "customer.", 3, ["customer"]])
@pytest.mark.parametrize("parameter", ["key", "publish_key"])
def test_a_key_that_is_none_is_refused_with_handler_and_parameter(parameter: str, key: Any) -> None:
    app = App("shop", broker="memory://")

    async def bill(event: Event) -> None: ...

    app.on("order.created", publishes="order.paid", **{parameter: key})(bill)
    with pytest.raises(ConfigurationError, match=rf"handler 'bill': {parameter}=.* is no key"):
        app.compile(app.settings())


def test_a_publish_key_without_publishes_is_refused() -> None:
    app = App("shop", broker="memory://")

    @app.on("order.created", publish_key="customer")
    async def bill(event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="handler 'bill': publish_key="):
        app.compile(app.settings())


def test_a_backoff_that_is_none_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"Retry\(backoff=…\) is a Backoff"):
        Retry(backoff=lambda failures: 1.0)  # type: ignore[arg-type]
