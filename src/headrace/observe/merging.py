"""Several workers behind one admin port: their expositions as one, their probes as one.

Counters and histograms are added. Of gauges, each has the rule that keeps its meaning: what is counted in each process is
added, a lag or an age is the largest that anybody sees, a connection counts where somebody has one. A source whose partitions
are handed out to its members, which is one that counts rebalances, has each in one of them: of it the lag is added too.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

__all__ = ["merged_exposition", "merged_readiness"]

#: Gauges of which the sum is meant; of the others the largest.
_ADDED: Final = frozenset({"headrace_events_inflight", "headrace_handler_concurrency_limit"})
#: That of events behind, and that of sources with partitions.
_LAG: Final = "headrace_source_lag_events"
_REBALANCES: Final = "headrace_rebalances"


class _Merged:
    def __init__(self, expositions: Sequence[str]) -> None:
        self._expositions = expositions

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        parsed = [family for text in self._expositions for family in text_string_to_metric_families(text)]
        divided = {
            sample.labels["source"] for family in parsed if family.name == _REBALANCES for sample in family.samples
        }
        for family in parsed:
            families.setdefault(family.name, Family(family.name, family.documentation, family.type))
            _add(values.setdefault(family.name, {}), family.type, family.name, family.samples, divided)
        for name, family in families.items():
            for (sample, labels), value in values[name].items():
                family.add_sample(sample, dict(labels), value)
            yield family


def _add(
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float],
    kind: str,
    family: str,
    samples: Iterable[Sample],
    divided: Container[str],
) -> None:
    every = kind != "gauge" or family in _ADDED
    for sample in samples:
        added = every or (family == _LAG and sample.labels["source"] in divided)
        series = (sample.name, tuple(sample.labels.items()))
        known = values.get(series)
        if known is None:
            values[series] = sample.value
        else:
            values[series] = known + sample.value if added else max(known, sample.value)


def merged_exposition(expositions: Sequence[str], accept: str) -> tuple[str, bytes]:
    """Content type and body of all workers' metrics together, each given in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(expositions))
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


def merged_readiness(answers: Sequence[tuple[int, dict[str, Any]]], expected: int) -> tuple[bool, dict[str, Any]]:
    """One verdict of all workers' answers (status, body): good where every worker is there and its own is good."""
    missing = expected - len(answers)
    reasons = [f"{missing} of {expected} workers do not answer"] if missing else []
    for _, body in answers:
        reasons.extend(reason for reason in body.get("reasons", []) if reason not in reasons)
    good = not missing and all(status == 200 for status, _ in answers)
    merged: dict[str, Any] = {"status": "ready" if good else "not ready", "workers": [body for _, body in answers]}
    if reasons:
        merged["reasons"] = reasons
    return good, merged
