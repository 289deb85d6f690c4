"""Count what a gateway does and what its limits refuse.

Counting must cost nothing: plain numbers, changed by the loop's thread only, and read when somebody asks.
"""

from __future__ import annotations

from asyncio import WriteTransport
from collections import Counter, defaultdict
from typing import Final

from verani.engine.hook_measures import HookMeasure
from verani.errors import CODES

__all__ = ["LIMITS", "OTHER", "Metrics", "error_label"]

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
    """The counters of one gateway, and which transports are full; each has a bounded set of labels."""

    def __init__(self) -> None:
        self.frames = 0
        self.invalid_frames = 0
        self.dropped_frames = 0
        self.connections = 0
        # Of sockets, headers of frames included, and as compressed as they are.
        self.received_bytes = 0
        self.sent_bytes = 0
        # Transports that are full: their clients have not read for a while.
        self.full: set[WriteTransport] = set()
        # Frames of rooms that were put into the outbox of a connection.
        self.deliveries = 0
        # Of connections, by close code; of handshakes and calls, by the code of the error table ("ok" for a result).
        self.closes: Counter[int | str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        # How the hooks do that decide who may connect, by name of the definition.
        self.identifying: defaultdict[str, HookMeasure] = defaultdict(HookMeasure)
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
