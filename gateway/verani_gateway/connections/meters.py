"""Give each connection the meter of its frames: its own buckets, and those that its user and its address share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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

    @contextmanager
    def meter(self, definition: RoomDefinition[Any, Any], user_id: str, address: str | None) -> Iterator[Meter]:
        """Give a connection its meter, for as long as the context lasts."""
        settings, now = definition.rated(self._settings), self._now()
        owners = (("_per_user", user_id), ("_per_address", owner_of(address)))
        with ExitStack() as held:

            def buckets(name: str, own: TokenBucket | None) -> list[tuple[str, TokenBucket]]:
                found = [(name, own)] if own is not None else []
                for suffix, key in owners:
                    if (group := self.shared.get(name + suffix)) is not None:
                        found.append((name + suffix, group.acquire(key, now)))
                        held.callback(group.release, key)
                return found

            rate, rate_bytes = settings.rate_limit, settings.rate_limit_bytes
            frames = buckets("rate_limit", TokenBucket(rate, settings.burst(rate), now) if rate else None)
            sized = buckets(
                "rate_limit_bytes", TokenBucket(rate_bytes, _burst(rate_bytes), now) if rate_bytes else None
            )
            yield Meter(frames, sized, policy=settings.rate_policy, events=_event_meters(definition, settings, now))

    def sweep(self, now: float) -> None:
        """Drop the shared buckets that are not needed; call it now and then."""
        for shared in self.shared.values():
            shared.sweep(now)


def _event_meters(definition: RoomDefinition[Any, Any], settings: Settings, now: float) -> dict[str, Meter]:
    return {
        event: Meter(
            [("rate_limit", TokenBucket(limit.rate, limit.burst or _burst(limit.rate), now))],
            policy=limit.policy or settings.rate_policy,
        )
        for event, limit in definition.event_rates.items()
    }


def _burst(rate: float) -> int:
    return max(1, int(2 * rate))
