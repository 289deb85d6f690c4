"""Name what there is to measure of a room host, and render measures for Prometheus.

What gateways measure is named in `verani_gateway.operating.exposition`; a metric that both have is named here, once.
All of it is counted while it happens, so that a look takes no longer where there are more rooms.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from verani.histogram import BOUNDS, Histogram
from verani.version import __version__

from ..rooms.host import RoomHost
from ..rooms.hosted_room import RoomState

__all__ = [
    "Measure",
    "counter",
    "counters",
    "gauge",
    "gauges",
    "histograms",
    "host_metrics",
    "process_metrics",
    "render",
    "room_states",
]

_PREFIX: Final = "verani_"

# As Prometheus writes the numbers.
_BUCKETS: Final = (*map(repr, BOUNDS), "+Inf")

_PAGE: Final = resource.getpagesize()

_NO_ROOMS: Final = {state.shown: 0 for state in RoomState} | {"asleep": 0}

# A family of metrics: as the library has it, or written down already.
Measure = Metric | str


def counter(name: str, text: str, value: float) -> Measure:
    """Describe what only ever rises; the name goes without the prefix, and ends in `_total` when rendered."""
    return CounterMetricFamily(_PREFIX + name, text, value)


def gauge(name: str, text: str, value: float) -> Measure:
    """Describe what rises and falls; the name goes without the prefix."""
    return GaugeMetricFamily(_PREFIX + name, text, value)


def counters(name: str, text: str, label: str, counts: Mapping[str, int]) -> Measure:
    """Describe counters that a label tells apart, whose values are of a bounded set: nothing that a client chose."""
    return _labelled(CounterMetricFamily(_PREFIX + name, text, labels=[label]), counts)


def gauges(name: str, text: str, label: str, counts: Mapping[str, int]) -> Measure:
    """Describe gauges that a label tells apart; see `counters`."""
    return _labelled(GaugeMetricFamily(_PREFIX + name, text, labels=[label]), counts)


def _labelled(family: CounterMetricFamily | GaugeMetricFamily, counts: Mapping[str, int]) -> Measure:
    for value in sorted(counts):
        family.add_metric([value], counts[value])
    return family


def histograms(name: str, text: str, rows: Iterable[tuple[Mapping[str, str], Histogram]]) -> Measure:
    """Describe durations in seconds, each histogram with its labels.

    They are written down here: the library takes ten times as long for these lines, and there may be thousands.
    """
    name = f"{_PREFIX}{name}_seconds"
    lines = [f"# HELP {name} {text}\n# TYPE {name} histogram\n"]
    for labels, histogram in rows:
        told = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())
        counts = tuple(accumulate(histogram.counts))
        lines += [f'{name}_bucket{{{told},le="{le}"}} {n}.0\n' for le, n in zip(_BUCKETS, counts, strict=True)]
        lines.append(f"{name}_count{{{told}}} {counts[-1]}.0\n{name}_sum{{{told}}} {histogram.seconds!r}\n")
    return "".join(lines)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def room_states(host: RoomHost) -> Counter[str]:
    """Count the rooms of a host by state."""
    return host.directory.counts + Counter(asleep=host.directory.sleeping_count)


def host_metrics(host: RoomHost) -> Iterator[Measure]:
    """Yield how many rooms a host has, how they woke and slept, and how their hooks do."""
    directory = host.directory
    states = _NO_ROOMS | room_states(host)
    yield gauges("rooms", "Rooms that are awake, or sleep with connections, by state.", "state", states)
    yield counters("wakes", "Rooms woken, by what woke them.", "reason", directory.woken_by)
    yield counter("sleeps", "Rooms fallen asleep.", directory.sleeps)
    waking = (({"definition": name}, times) for name, times in directory.wake_times.items())
    yield histograms("wake_duration", "Time from what woke a room to the end of its hooks of a wake.", waking)
    yield from _hook_metrics(host)
    # None is asked where none has any: a scrape takes no longer where there are many.
    rooms = directory.rooms.values() if host.entries.working else ()
    unprocessed = sum(len(room.in_flight) for room in rooms)
    yield gauge("mailbox_inputs", "Inputs that rooms have, and have not processed.", unprocessed)
    yield gauge("busy_rooms", "Rooms that have inputs which they have not processed.", host.entries.working)
    yield counters("room_limited", "What limits of rooms did, by setting.", "setting", host.limited)
    yield gauge("awake_excess", "Rooms awake above max_awake_rooms.", host.sleeping.excess)
    yield gauge("linked_gateways", "Gateways that are linked to the room host.", len(host.gateways))


def _hook_metrics(host: RoomHost) -> Iterator[Measure]:
    labels = ("definition", "kind", "hook")
    rows = [
        (dict(zip(labels, (definition, kind, name), strict=True)), measure)
        for definition, measures in host.directory.hooks.items()
        for kind, name, measure in measures
    ]
    run = ((row, measure) for row, measure in rows if any(measure.counts))
    yield histograms("hook_duration", "Time that hooks took, waiting included.", run)
    errors = CounterMetricFamily(f"{_PREFIX}hook_errors", "Hooks that failed.", labels=labels)
    refusals = CounterMetricFamily(f"{_PREFIX}hook_refusals", "Hooks that refused a client or caller.", labels=labels)
    for row, measure in rows:
        errors.add_metric(tuple(row.values()), measure.errors)
        refusals.add_metric(tuple(row.values()), measure.refusals)
    yield from (errors, refusals)


@cache
def _began(pid: int) -> float:
    """Tell when the process with this id began, which is our own: room hosts are forks of one that has loaded all."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def process_metrics() -> Iterator[Measure]:
    """Yield what there is to say of any process, by the names that Prometheus' libraries have for it."""
    yield CounterMetricFamily("process_cpu_seconds", "Processor time of the process.", time.process_time())
    with suppress(OSError):  # a system without /proc
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        yield GaugeMetricFamily("process_resident_memory_bytes", "Memory of the process.", pages * _PAGE)
        began = _began(os.getpid())
        yield GaugeMetricFamily("process_start_time_seconds", "When the process began, in seconds since 1970.", began)
    info = GaugeMetricFamily(f"{_PREFIX}build_info", "1, with the version of Verani.", labels=["version"])
    info.add_metric([__version__], 1)
    yield info


class _Collected(Collector):
    """Metrics as a registry: nothing is registered, so that no process counts what another gateway in it does."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def render(measures: Iterable[Measure]) -> str:
    """Render measures in Prometheus' text format 0.0.4."""
    families = list(measures)
    described = _Collected([family for family in families if not isinstance(family, str)])
    return "".join((generate_latest(described).decode(), *(family for family in families if isinstance(family, str))))
