"""Event data: between the bytes of a message body and Python values.

Data reaches an event in one of four forms, and what it means depends on the form as well as on `datacontenttype`: the
body of a binary-mode message, a JSON value (whose content type may be implied), a text, or bytes that came as such.
`decoder` compiles the way from an event straight to a handler's type once, so that nothing is looked up per event.

Sources: CloudEvents 1.0.2, "Event Data"; JSON format 1.0.2, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union, get_args, get_origin

import msgspec

from headrace.cloudevents.forms import JSON, TEXT, Form
from headrace.cloudevents.media import decode_text, encode_text, media
from headrace.errors import ConfigurationError, InvalidEvent

if TYPE_CHECKING:
    from headrace.event import Event

T = TypeVar("T")

_decode_any = msgspec.json.Decoder().decode
_BAD_JSON = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError)
_NOT_PARSED = (TypeError, *_BAD_JSON)


def encode_data(data: Any, content_type: str | None) -> bytes:
    """A value that is not bytes as the bytes of a message body.

    Raises:
        InvalidEvent: the value has no representation in the content type.
    """
    if content_type is None:
        return encode_json(data)
    kind = media(content_type)
    if not kind.is_json:
        return encode_text(data, content_type)
    encoded = encode_json(data)
    return encoded if kind.utf8 else encode_text(encoded.decode("utf-8"), content_type)


def encode_json(data: Any) -> bytes:
    """A value as JSON, UTF-8 and compact.

    Raises:
        InvalidEvent: a value that JSON has no form for, NaN and infinities included.
    """
    try:
        encoded = _encode(data)
        # msgspec writes NaN as null; the search is only made where there is a null to explain.
        if b"null" in encoded:
            _refuse_nan(msgspec.to_builtins(data, enc_hook=_plain))
    except InvalidEvent:
        raise
    except _NOT_PARSED as error:
        raise InvalidEvent(f"data of type {type(data).__name__} cannot be encoded as JSON: {error}") from None
    return encoded


def sorted_json(value: Any) -> bytes:
    """A decoded JSON value in one writing, for comparison: true, 1 and 1.0 differ, the order of members does not."""
    return msgspec.json.encode(value, order="sorted")


def decode_data(raw: Any, form: Form, content_type: str | None) -> Any:
    """Data as `event.data` gives it.

    Raises:
        InvalidEvent: the bytes are not what the content type declares.
    """
    if raw is None:
        return None
    if content_type is None:
        return decode_json(raw, None) if form is JSON else bytes(raw)
    kind = media(content_type)
    if kind.is_json:
        return decode_json(raw, content_type)
    return decode_text(bytes(raw), content_type) if kind.is_text or form is TEXT else bytes(raw)


def decode_json(raw: Any, content_type: str | None) -> Any:
    """JSON bytes in the charset of their content type as Python values.

    Raises:
        InvalidEvent: no JSON, or JSON that Python cannot hold (too deep, a number out of range).
    """
    try:
        return _decode_any(in_utf8(raw, content_type))
    except _BAD_JSON as error:
        raise InvalidEvent(f"data is declared as JSON but is not: {error}") from None


def in_utf8(raw: Any, content_type: str | None) -> Any:
    """JSON bytes as UTF-8, whatever charset their content type names."""
    if content_type is None or media(content_type).utf8:
        return raw
    return decode_text(bytes(raw), content_type).encode("utf-8")


def is_json_text(raw: bytes) -> bool:
    """Whether bytes are one complete JSON value that can stand in a JSON document."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
        str(raw, "utf-8")
    except _BAD_JSON:
        return False
    return True


decoders: Final[dict[Any, Callable[[Event], Any]]] = {}
"""What `decoder` has compiled, by type; emptied when it is full."""
_DECODERS_LIMIT: Final = 256


def decoder(wanted: type[T]) -> Callable[[Event], T]:
    """Compile the way from an event to a value of a type.

    bytes gets the body as it is. str gets a JSON string where data is declared as JSON, else the text. Everything
    else is decoded from JSON, which is also tried where no content type is declared. `Any` and `object` get
    `event.data`.

    Args:
        wanted: a msgspec Struct, pydantic model, dataclass, TypedDict, NamedTuple, str, bytes, or any other type that
            msgspec decodes from JSON; `X | None` accepts events without data.

    Returns:
        a function that raises `InvalidEvent` naming the type and the place in the data.

    Raises:
        ConfigurationError: no data can be decoded to such a type.
    """
    try:
        return decoders[wanted]
    except KeyError:
        compiled = _compile(wanted)
    except TypeError:
        # A type that cannot be hashed is compiled each time.
        return _compile(wanted)
    if len(decoders) >= _DECODERS_LIMIT:
        decoders.clear()
    decoders[wanted] = compiled
    return compiled


def _compile(wanted: Any) -> Callable[[Event], Any]:
    if wanted is Any or wanted is object:
        return lambda event: event.data
    if wanted is bytes:
        return lambda event: event.raw or b""
    parse = _json_parser(wanted)
    accepts_none = wanted is None or wanted is NoneType or NoneType in _members(wanted)
    accepts_str = wanted is str or str in _members(wanted)
    name = type_name(wanted)

    def typed(event: Event) -> Any:
        declared = event._attributes.get("datacontenttype")
        # Data that is absent, empty or not encoded yet is no input for a parser, and ends below like data that is
        # wrong.
        if declared == "application/json" or declared is None:
            try:
                return parse(event._raw)
            except _NOT_PARSED as error:
                problem: Exception | None = error
        else:
            problem = None
        raw = event.raw
        if not raw:
            return _without_data(name, accepts_none=accepts_none, accepts_str=accepts_str)
        if declared is None or media(declared).is_json:
            try:
                return parse(in_utf8(raw, declared))
            except _NOT_PARSED as error:
                problem = error
        if accepts_str and not (event._form is JSON or (declared is not None and media(declared).is_json)):
            return decode_text(raw, declared or "text/plain")
        if problem is not None:
            raise InvalidEvent(f"data is not {name}: {_reason(problem)}") from problem
        raise InvalidEvent(
            f"data is declared as {declared!r}, which is not decoded to {name}: take bytes or str, or send JSON"
        )

    return typed


def _without_data(name: str, *, accepts_none: bool, accepts_str: bool) -> str | None:
    if accepts_none:
        return None
    if accepts_str:
        return ""
    raise InvalidEvent(f"the event has no data, and the handler wants {name}: {name} | None accepts that")


def _json_parser(wanted: Any) -> Callable[[Any], Any]:
    if _is_pydantic(wanted):
        return _pydantic_parser(wanted.model_validate_json)
    try:
        custom = _custom_types(msgspec.inspect.type_info(wanted))
        strange = [kind for kind in custom if not _is_pydantic(kind)]
        if not strange:
            if custom:
                return _pydantic_parser(_type_adapter(wanted).validate_json)
            return msgspec.json.Decoder(wanted).decode
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"data cannot be decoded to {type_name(wanted)}: {error}") from error
    raise ConfigurationError(
        f"data cannot be decoded to {type_name(wanted)}, because of {type_name(strange[0])}: "
        "use a msgspec Struct, a pydantic model, a dataclass, a TypedDict, dict, list, str or bytes"
    )


def _pydantic_parser(validate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def parse(raw: Any) -> Any:
        return validate(raw if raw.__class__ is bytes else bytes(raw))

    return parse


def _type_adapter(wanted: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(wanted)


def _is_pydantic(wanted: Any) -> bool:
    return isinstance(wanted, type) and hasattr(wanted, "__pydantic_validator__")


def _custom_types(info: Any) -> list[Any]:
    """Every type below `info` that msgspec leaves to the caller."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting = [info]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType):
            if node.cls is not object:
                found.append(node.cls)
        elif isinstance(node, (msgspec.inspect.Type, msgspec.inspect.Field)):
            waiting.extend(getattr(node, name) for name in node.__struct_fields__)
        elif isinstance(node, tuple):
            waiting.extend(node)
    return found


def _members(wanted: Any) -> tuple[Any, ...]:
    return get_args(wanted) if get_origin(wanted) in (Union, UnionType) else ()


def type_name(wanted: Any) -> str:
    """A type as it is written in an annotation."""
    return wanted.__qualname__ if isinstance(wanted, type) and not get_args(wanted) else str(wanted)


def _reason(error: BaseException) -> str:
    """An error in one line with its place; pydantic's is a table, of which the first row is told."""
    if callable(errors := getattr(error, "errors", None)):
        first = errors()[0]
        return f"{first['msg']} - at `{'.'.join(('$', *map(str, first['loc'])))}`"
    text = str(error)
    return f"{text} - at `$`" if isinstance(error, msgspec.ValidationError) and "`$" not in text else text


def _plain(value: Any) -> Any:
    """What msgspec cannot encode by itself: pydantic models."""
    if _is_pydantic(type(value)):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode


def _refuse_nan(value: Any) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                raise InvalidEvent(f"data holds {item}, which JSON cannot write")
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, Iterable) and not isinstance(item, (str, bytes)):
            waiting.extend(item)
