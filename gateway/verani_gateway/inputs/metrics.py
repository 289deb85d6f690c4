"""Count what a gateway does and what its limits refuse, and write that down in Prometheus' text format 0.0.4.

Counting must cost nothing: plain numbers, changed by the loop's thread only, and read when somebody asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from verani.errors import CODES
from verani_actors.operating.measures import Family, labelled, rooms_family, written

if TYPE_CHECKING:
    from ..gateway import Gateway

__all__ = ["CONTENT_TYPE", "LIMITS", "OTHER", "Family", "Metrics", "error_label", "exposition", "labelled"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4"


# Every setting that refuses clients something, cuts it short or makes it wait in a gateway; docs/security.md has a row
# for each, and `verani_actors.rooms.host.ROOM_LIMITS` those of rooms.
LIMITS: Final = (
    "allowed_origins",
    "header_timeout",
    "hook_timeout",
    "max_connections",
    "max_connections_per_address",
    "max_connections_per_room",
    "max_discard_bytes",
    "max_frame_bytes",
    "max_header_bytes",
    "max_invalid_frames",
    "max_meta_bytes",
    "max_rpc_bytes",
    "max_rpc_calls",
    "max_send_buffer",
    "max_unread",
    "pong_timeout",
    "public_hosts",
    "rate_limit",
    "rate_limit_bytes",
    "rate_limit_bytes_per_address",
    "rate_limit_bytes_per_user",
    "rate_limit_per_address",
    "rate_limit_per_user",
    "rpc_timeout",
)

# Close codes and error codes that are counted one by one. A client may close with any of 2,000 codes, and an
# application make up its own; each would be a time series for ever.
_CLOSE_CODES: Final = frozenset({*range(1000, 1004), *range(1005, 1016), 4001, 4009})
_ERROR_CODES: Final = CODES | {"ok", "upgrade_required", "compressed"}
OTHER: Final = "other"


class Metrics:
    """The counters of one gateway; they only ever rise, and each has a bounded set of labels."""

    def __init__(self) -> None:
        self.frames = 0
        self.invalid_frames = 0
        self.dropped_frames = 0
        self.connections = 0
        # Of connections, by close code; of handshakes and calls, by the code of the error table ("ok" for a result).
        self.closes: Counter[int | str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        # How often a limit made itself felt, by the name of its setting.
        self.limited: Counter[str] = Counter(dict.fromkeys(LIMITS, 0))

    def closed(self, code: int) -> None:
        """Count a connection that ended with this close code."""
        self.closes[code if code in _CLOSE_CODES else OTHER] += 1

    def refused(self, code: str) -> None:
        """Count a request that was refused with this error code."""
        self.refusals[error_label(code)] += 1

    def called(self, code: str) -> None:
        """Count a call that came to this error code, or `ok`."""
        self.calls[error_label(code)] += 1


def error_label(code: str) -> str:
    """Give an error code, or one word for all that applications make up."""
    return code if code in _ERROR_CODES else OTHER


def exposition(gateway: Gateway) -> str:
    """Write down all counters and gauges of a gateway and of what it knows of the room hosts."""
    return written(_families(gateway))


def _families(gateway: Gateway) -> Iterator[Family]:
    metrics = gateway.metrics
    closes = {str(code): count for code, count in metrics.closes.items()}
    yield Family("connections", "gauge", "open connections", {"": len(gateway.connections)})
    yield Family("connections_total", "counter", "connections accepted", {"": metrics.connections})
    yield Family("closes_total", "counter", "connections closed, by close code", labelled("code", closes))
    yield Family(
        "refusals_total", "counter", "handshakes and bodies refused, by error code", labelled("code", metrics.refusals)
    )
    yield Family("frames_total", "counter", "frames forwarded to rooms", {"": metrics.frames})
    yield Family("invalid_frames_total", "counter", "invalid frames dropped", {"": metrics.invalid_frames})
    yield Family("dropped_frames_total", "counter", "frames dropped by the rate", {"": metrics.dropped_frames})
    yield Family("limited_total", "counter", "what limits did, by setting", labelled("setting", metrics.limited))
    yield Family("calls_total", "counter", "calls answered, by error code or ok", labelled("code", metrics.calls))
    yield Family("calls_waiting", "gauge", "calls that wait for their answer", {"": len(gateway.calls)})
    yield rooms_family(gateway.room_states())
    yield from gateway.placement.families()
    yield Family("in_flight_bytes", "gauge", "bytes of inputs not yet processed", {"": gateway.in_flight})
