"""Give each connection the meter of its frames: its own buckets, and those that its user and its address share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from verani.room.definition import RoomDefinition
from verani.settings import Settings

from ..http.addresses import owner_of
from .rate import Meter, SharedBuckets, TokenBucket

__all__ = ["Meters"]


class Meters:
    """The shared buckets of one gateway, for each setting that is on; `now` counts seconds."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        frames = ("rate_limit_per_user", "rate_limit_per_address")
        sized = ("rate_limit_bytes_per_user", "rate_limit_bytes_per_address")
        self.shared = {
            **{name: SharedBuckets(rate, settings.burst(rate)) for name in frames if (rate := getattr(settings, name))},
            **{name: SharedBuckets(rate, _burst(rate)) for name in sized if (rate := getattr(settings, name))},
        }

    def meter(self, definition: RoomDefinition[Any, Any], user_id: str, address: str | None) -> Meter:
        """Give a connection its meter, which is to be released when that is over."""
        settings, now = definition.rated(self._settings), self._now()
        rate, rate_bytes = settings.rate_limit, settings.rate_limit_bytes
        frames = [("rate_limit", TokenBucket(rate, settings.burst(rate), now), False)] if rate else []
        sized = [("rate_limit_bytes", TokenBucket(rate_bytes, _burst(rate_bytes), now), True)] if rate_bytes else []
        shared: list[Callable[[], None]] = []
        for name, group in self.shared.items():
            key = user_id if name.endswith("_per_user") else owner_of(address)
            is_sized = "bytes" in name
            (sized if is_sized else frames).append((name, group.acquire(key, now), is_sized))
            shared.append(partial(group.release, key))
        if not frames and not sized and not definition.event_rates:
            return _UNLIMITED
        events = _event_meters(definition, settings, now) if definition.event_rates else _NO_EVENTS
        return Meter(frames + sized, policy=settings.rate_policy, events=events, shared=shared)

    def sweep(self, now: float) -> None:
        """Drop the shared buckets that are not needed; call it now and then."""
        for shared in self.shared.values():
            shared.sweep(now)


# One for all: it has nothing to be released.
_UNLIMITED = Meter()

_NO_EVENTS: Mapping[str, Meter] = MappingProxyType({})


def _event_meters(definition: RoomDefinition[Any, Any], settings: Settings, now: float) -> dict[str, Meter]:
    return {
        event: Meter(
            [("rate_limit", TokenBucket(limit.rate, limit.burst or _burst(limit.rate), now), False)],
            policy=limit.policy or settings.rate_policy,
        )
        for event, limit in definition.event_rates.items()
    }


def _burst(rate: float) -> int:
    return max(1, int(2 * rate))
