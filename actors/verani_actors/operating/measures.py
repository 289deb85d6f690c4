"""Name what there is to measure of a room host, and render measures for Prometheus.

What gateways measure is named in `verani_gateway.operating.exposition`; a metric that both have is named here, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from ..rooms.host import RoomHost

__all__ = ["Metric", "counter", "counters", "gauge", "gauges", "host_metrics", "render", "room_states", "rooms_gauges"]

_PREFIX = "verani_"


def counter(name: str, text: str, value: float) -> Metric:
    """Describe what only ever rises; the name goes without the prefix, and ends in `_total` when rendered."""
    return CounterMetricFamily(_PREFIX + name, text, value)


def gauge(name: str, text: str, value: float) -> Metric:
    """Describe what rises and falls; the name goes without the prefix."""
    return GaugeMetricFamily(_PREFIX + name, text, value)


def counters(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    """Describe counters that a label tells apart, whose values are of a bounded set: nothing that a client chose."""
    return _labelled(CounterMetricFamily(_PREFIX + name, text, labels=[label]), counts)


def gauges(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    """Describe gauges that a label tells apart; see `counters`."""
    return _labelled(GaugeMetricFamily(_PREFIX + name, text, labels=[label]), counts)


def _labelled(family: CounterMetricFamily | GaugeMetricFamily, counts: Mapping[str, int]) -> Metric:
    for value in sorted(counts):
        family.add_metric([value], counts[value])
    return family


def rooms_gauges(states: Mapping[str, int]) -> Metric:
    """Describe rooms that were counted by state."""
    return gauges("rooms", "rooms that are awake, or sleep with connections, by state", "state", states)


def room_states(host: RoomHost) -> Counter[str]:
    """Count the rooms of a host by state."""
    return Counter(host.rooms().values()) + Counter(asleep=host.directory.sleeping_count)


def host_metrics(host: RoomHost) -> Iterator[Metric]:
    """Yield how the rooms of a host woke and slept; how many there are is `rooms_gauges`."""
    yield counter("wakes", "rooms woken", host.wakes)
    yield counter("sleeps", "rooms fallen asleep", host.directory.sleeps)
    yield counters("room_limited", "what limits of rooms did, by setting", "setting", host.limited)
    yield gauge("awake_excess", "rooms awake above max_awake_rooms", host.sleeping.excess)


class _Collected(Collector):
    """Metrics as a registry: nothing is registered, so that no process counts what another gateway in it does."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def render(metrics: Iterable[Metric]) -> str:
    """Render metrics in Prometheus' text format 0.0.4."""
    return generate_latest(_Collected(metrics)).decode()
