"""`Alertmanager`: a sink that turns events into alerts, by Alertmanager's v2 API.

An alert is known by its labels, so they are declared once and read from each event: the same object always means the
same alert. Whether it fires is a field of the event's data. A firing alert ends by itself ``lasts`` seconds after it was
sent last, so that no alert outlives the process that watches over it; who wants it to go on sends it again (a watch with
``resync=`` does). An alert that no longer fires is ended at once.

Source: Alertmanager's OpenAPI specification, ``POST /api/v2/alerts``; prometheus.io, "Sending alerts".
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.engine.sink import Publication, Published
from headrace.errors import ConfigurationError, HeadraceError, PublishFailed
from headrace.http.posting import Poster, Target

if TYPE_CHECKING:
    from headrace.engine.broker import Broker
    from headrace.event import Event

__all__ = ["Alertmanager"]

Fields = Sequence[str] | Mapping[str, str]

_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
#: Alerts in one request.
_BATCH: Final = 256
_ABSENT: Final = object()


class Alertmanager:
    """Events as alerts.

    Args:
        url: where Alertmanager is, without ``/api/v2/alerts``.
        labels: the fields that say which alert it is, ``alertname`` among them: names, or a mapping of label to field. A
            field is a path such as ``metadata.name`` in the event's data, else an attribute of the event. Labels whose
            field is absent or empty are left out.
        fixed: labels that every alert has, such as ``{"alertname": "PodFailing", "severity": "warning"}``.
        annotations: the fields that explain it, given like ``labels``.
        firing: the field that says whether it fires; without that field it does.
        since: the field with the time since when (RFC 3339); without it, Alertmanager takes the first time it heard.
        lasts: seconds for which an alert goes on firing without being sent again.
        generator_url: a link from the alert to its cause.
        headers: further request headers (credentials); never logged.
        timeout: seconds for one request, its connection included.
        allow_private: the host may have a private, loopback or link-local address, as it mostly has; ``False`` refuses
            them.
        name: what metrics and messages call it; default: ``alertmanager:`` and the host.

    Raises:
        ConfigurationError: a URL or setting that cannot be.
    """

    def __init__(
        self,
        url: str,
        *,
        labels: Fields = ("alertname", "namespace", "name"),
        fixed: Mapping[str, str] | None = None,
        annotations: Fields = ("summary", "description"),
        firing: str = "firing",
        since: str = "since",
        lasts: float = 300.0,
        generator_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        allow_private: bool = True,
        name: str | None = None,
    ) -> None:
        self.target = Target(
            "Alertmanager",
            url.rstrip("/") + "/api/v2/alerts",
            headers={**(headers or {}), "Content-Type": "application/json"},
            timeout=timeout,
            allow_private=allow_private,
        )
        if lasts <= 0:
            raise ConfigurationError("Alertmanager: lasts is seconds above 0")
        self.labels = _fields("labels", labels)
        self.fixed = dict(fixed or {})
        self.annotations = _fields("annotations", annotations)
        for label in (*self.labels, *self.fixed):
            if not _LABEL.fullmatch(label):
                raise ConfigurationError(f"Alertmanager: {label!r} is no label: letters, digits and _, no digit first")
        if "alertname" not in self.labels and "alertname" not in self.fixed:
            raise ConfigurationError("Alertmanager: every alert has an alertname: name it in labels= or in fixed=")
        self.firing = firing
        self.since = since
        self.lasts = lasts
        self.generator_url = generator_url
        self.name = name or f"alertmanager:{self.target.host}"

    def __repr__(self) -> str:
        return f"Alertmanager({self.name!r})"

    def sink(self, broker: Broker | None) -> AlertSink:
        """The sink; it needs no broker."""
        return AlertSink(self)

    def alert(self, event: Event, now: float) -> dict[str, Any]:
        """The alert of an event, sent at ``now`` (seconds since the epoch), as the API takes it.

        Raises:
            PublishFailed: it would have no name, or its data cannot be read.
        """
        try:
            data = event.data
        except HeadraceError as error:
            raise PublishFailed(f"{self.name}: the event's data cannot be read: {error}", transient=False) from error
        labels = {**self.fixed, **_texts(self.labels, data, event)}
        if not labels.get("alertname"):
            raise PublishFailed(
                f"{self.name}: the event {event.id!r} has no field {self.labels.get('alertname')!r} to name its alert",
                transient=False,
            )
        alert: dict[str, Any] = {"labels": labels, "annotations": _texts(self.annotations, data, event)}
        since = _find(data, self.since)
        if isinstance(since, str) and since:
            alert["startsAt"] = since
        firing = _find(data, self.firing)
        alert["endsAt"] = _rfc3339(now + self.lasts if firing is _ABSENT or firing else now)
        if self.generator_url is not None:
            alert["generatorURL"] = self.generator_url
        return alert


class AlertSink:
    """Implements `headrace.engine.sink.Sink`: batches in their order, one request at a time."""

    def __init__(self, declaration: Alertmanager) -> None:
        self.name = declaration.name
        self._declaration = declaration
        self._poster = Poster(declaration.name, declaration.target, connections=1)
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Resolve and judge the address. Raises `RefusedError`, `ConnectionFailed`."""
        await self._poster.open()

    async def publish(self, publications: Sequence[Publication]) -> Sequence[Published | Exception]:
        """One request for many alerts; a result per publication."""
        results: list[Published | Exception] = []
        # The end of an alert must not overtake its beginning.
        async with self._turn:
            for start in range(0, len(publications), _BATCH):
                results += await self._batch(publications[start : start + _BATCH])
        return results

    async def _batch(self, publications: Sequence[Publication]) -> list[Published | Exception]:
        now = time.time()
        alerts: list[dict[str, Any] | PublishFailed] = []
        for publication in publications:
            try:
                alerts.append(self._declaration.alert(publication.event, now))
            except PublishFailed as error:
                alerts.append(error)
        sound = [alert for alert in alerts if isinstance(alert, dict)]
        result = await self._send(sound) if sound else Published()
        refused = isinstance(result, PublishFailed) and not result.transient
        results: list[Published | Exception] = []
        for alert in alerts:
            if isinstance(alert, PublishFailed):
                results.append(alert)
            elif refused and len(sound) > 1:
                # One of them is amiss, and the answer does not say which.
                results.append(await self._send([alert]))
            else:
                results.append(result)
        return results

    async def _send(self, alerts: list[dict[str, Any]]) -> Published | PublishFailed:
        return await self._poster.post(msgspec.json.encode(alerts), ())

    async def close(self) -> None:
        """Close its connections."""
        await self._poster.close()


def _fields(what: str, given: Fields) -> dict[str, str]:
    if isinstance(given, str):
        raise ConfigurationError(f"Alertmanager: {what} is a list of fields or a mapping, not a text")
    return dict(given) if isinstance(given, Mapping) else {field: field for field in given}


def _texts(fields: Mapping[str, str], data: Any, event: Event) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in fields.items():
        value = _find(data, field)
        if value is _ABSENT:
            value = event.get(field)
        if isinstance(value, bool):
            value = str(value).lower()
        if value is not None and value != "":
            found[name] = str(value)
    return found


def _find(data: Any, field: str) -> Any:
    for part in field.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return _ABSENT
        data = data[part]
    return data


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
