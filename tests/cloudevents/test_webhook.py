"""The web hook handshake and the access token, as pure functions of headers."""

import pytest

from headrace.cloudevents import webhook
from headrace.cloudevents.webhook import Validation, access_token, allows, consent, validation
from headrace.errors import ConfigurationError, InvalidEvent

ORIGIN = ("WebHook-Request-Origin", "eventemitter.example.com")


def granted(request: Validation, **options: object) -> dict[str, str]:
    return dict(consent(request, **options))  # type: ignore[arg-type]


def test_a_request_without_an_origin_is_no_validation() -> None:
    assert validation([("WebHook-Request-Rate", "120")]) is None
    assert validation([("WebHook-Request-Origin", " ")]) is None


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_validation_request_is_read(as_bytes: bool) -> None:
    headers = [
        ("host", "example.com"),
        ORIGIN,
        ("webhook-request-rate", "120"),
        ("WEBHOOK-REQUEST-CALLBACK", "https://example.com/confirm?id=12345&key=abc"),
    ]
    pairs = [(name.encode(), value.encode()) for name, value in headers] if as_bytes else headers
    assert validation(pairs) == Validation(
        "eventemitter.example.com", 120, "https://example.com/confirm?id=12345&key=abc"
    )


@pytest.mark.parametrize(
    "header",
    [
        ("WebHook-Request-Rate", "0"),
        ("WebHook-Request-Rate", "-1"),
        ("WebHook-Request-Rate", "many"),
        ("WebHook-Request-Rate", "9" * 5_000),
        ("WebHook-Request-Callback", "http://example.com/"),
        ("WebHook-Request-Callback", "confirm"),
        ("WebHook-Request-Callback", "https://[broken"),
        ORIGIN,
    ],
)
def test_a_broken_validation_request_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(InvalidEvent, match="webhook-request"):
        validation([ORIGIN, header])


def test_consent_is_in_the_headers_for_an_allowed_origin_only() -> None:
    request = Validation("eventemitter.example.com", None, None)
    assert granted(request, origins=["eventemitter.example.com"]) == {
        "Allow": "POST, OPTIONS",
        "WebHook-Allowed-Origin": "eventemitter.example.com",
        "WebHook-Allowed-Rate": "*",
    }
    for origins in ([], ["example.com"], ["EventEmitter.example.com"]):
        assert granted(request, origins=origins) == {"Allow": "POST, OPTIONS"}


def test_every_origin_may_be_allowed() -> None:
    assert granted(Validation("a.b", None, None), origins="*")["WebHook-Allowed-Origin"] == "a.b"


@pytest.mark.parametrize(
    ("asked", "limit", "rate"),
    [(120, None, "120"), (120, 100, "100"), (50, 100, "50"), (None, 100, "100"), (None, None, "*")],
)
def test_the_lower_rate_is_granted(asked: int | None, limit: int | None, rate: str) -> None:
    assert granted(Validation("a.b", asked, None), origins=["a.b"], rate=limit)["WebHook-Allowed-Rate"] == rate


def test_consent_by_callback_withholds_the_headers() -> None:
    request = Validation("a.b", 10, "https://a.b/confirm")
    assert granted(request, origins=["a.b"], by_callback=True) == {"Allow": "POST, OPTIONS"}


def test_a_rate_of_nothing_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="rate"):
        consent(Validation("a.b", None, None), origins=["a.b"], rate=0)


def test_a_delivery_is_allowed_by_its_exact_origin() -> None:
    assert allows("a.b", ["a.b"])
    assert not allows("x.a.b", ["a.b"])
    assert not allows(None, ["a.b"])
    assert allows(None, [webhook.ANY])


@pytest.mark.parametrize(
    ("headers", "query", "token"),
    [
        ([("Authorization", "Bearer mF_9.B5f-4.1JqM")], "", "mF_9.B5f-4.1JqM"),
        ([(b"authorization", b"bearer abc")], "", "abc"),
        ([], "access_token=mF_9.B5f-4.1JqM&p=q", "mF_9.B5f-4.1JqM"),
        ([], "p=q&access_token=a%20b", "a b"),
        ([("Authorization", "Basic abc")], "", None),
        ([("Authorization", "Bearer ")], "", None),
        ([], "", None),
    ],
)
def test_the_token_is_read_from_header_or_query(headers: list[tuple[str, str]], query: str, token: str | None) -> None:
    assert access_token(headers, query) == token


def test_two_tokens_are_refused() -> None:
    for query in ("access_token=a", "access_token=a&access_token=b"):
        with pytest.raises(InvalidEvent, match="more than one"):
            access_token([("Authorization", "Bearer c")], query)
    with pytest.raises(InvalidEvent, match="100 fields"):
        access_token([], "&".join(["a=b"] * 200))
