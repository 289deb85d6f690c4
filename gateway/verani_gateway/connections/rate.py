"""Meter frames and their bytes: token buckets of connections, users and addresses, and a window for invalid frames.

Time is passed in, in seconds of any monotonic clock. What happens beyond the limit is the connection's choice.

Invariants:
- A shared bucket outlives its last connection until it is full again, so that reconnecting does not refill it.
- Shared buckets are bounded: one for each user, or address, that is connected or was within the time a bucket takes to
  fill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from verani.settings import RatePolicy

__all__ = ["INVALID_WINDOW", "InvalidFrames", "Meter", "SharedBuckets", "TokenBucket", "Turns"]

# Protocol 7: invalid frames count for this long.
INVALID_WINDOW = 60.0


class TokenBucket:
    """Allow `rate` frames, or bytes, a second and `burst` at once."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float, cost: int = 1) -> float:
        """Take the tokens if they are there; return 0, or how many seconds are missing.

        What costs more than a burst passes when the bucket is full, and leaves a debt.
        """
        tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        missing = min(cost, self._burst) - tokens
        if missing <= 0:
            self._tokens = tokens - cost
            return 0.0
        self._tokens = tokens
        return missing / self._rate

    def give_back(self, cost: int = 1) -> None:
        """Undo a `take` or a `reserve`."""
        self._tokens += cost

    def reserve(self, now: float, cost: int = 1) -> float:
        """Take tokens that may only come later, and return in how many seconds.

        Who waits does so once: a thousand connections that share a bucket have their turns one after the other.
        """
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - cost
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    def is_full(self, now: float) -> bool:
        """True if a new bucket would be equal to this one."""
        return self._tokens + (now - self._at) * self._rate >= self._burst

    def span(self, seconds: float) -> float:
        """Return how long to wait to use so many seconds' worth of tokens at once: no more than half a burst."""
        return min(seconds, self._burst / self._rate / 2)

    @property
    def used(self) -> float:
        """Tokens that were taken and are not refilled yet."""
        return self._burst - self._tokens


class SharedBuckets:
    """The buckets of all users, or of all addresses."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[str, TokenBucket] = {}
        self._users: dict[str, int] = {}
        # Buckets that no connection uses and that may not be full yet.
        self._idle: set[str] = set()

    def __len__(self) -> int:
        return len(self._buckets)

    def acquire(self, key: str, now: float) -> TokenBucket:
        """Return the bucket of a user or an address; `release` gives it back."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst, now)
        self._users[key] = self._users.get(key, 0) + 1
        self._idle.discard(key)
        return bucket

    def release(self, key: str) -> None:
        """Give back what `acquire` returned."""
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self._idle.add(key)

    def sweep(self, now: float) -> None:
        """Drop the buckets that no connection uses and that are full; call it now and then."""
        for key in [key for key in self._idle if self._buckets[key].is_full(now)]:
            self._idle.discard(key)
            del self._buckets[key]


class Meter:
    """All the buckets that a connection's frames pass, each with the setting it is for, and whether it is of bytes.

    `policy` says what happens beyond, and `events` has the meters of events that have a rate of their own. `shared`
    gives back the buckets that others have, too.
    """

    __slots__ = ("_buckets", "_shared", "events", "policy")

    def __init__(
        self,
        buckets: Iterable[tuple[str, TokenBucket, bool]] = (),
        *,
        policy: RatePolicy = "throttle",
        events: Mapping[str, Meter] = MappingProxyType({}),
        shared: Iterable[Callable[[], None]] = (),
    ) -> None:
        self.policy = policy
        self.events = events
        self._buckets = tuple(buckets)
        self._shared = tuple(shared)

    def release(self) -> None:
        """Give back what is shared; the connection is over."""
        for release in self._shared:
            release()

    def take(self, now: float, size: int = 0) -> str | None:
        """Take one token, or the bytes, of each bucket; if one has none, take nothing and name its setting."""
        for setting, bucket, is_sized in self._buckets:
            if bucket.take(now, size if is_sized else 1):
                self._undo(bucket, size)
                return setting
        return None

    def _undo(self, refused: TokenBucket, size: int) -> None:
        """Give back what was taken of the buckets before the one that has refused."""
        for _, bucket, is_sized in self._buckets:
            if bucket is refused:
                break
            bucket.give_back(size if is_sized else 1)

    def reserve(self, now: float, size: int = 0) -> float:
        """Take what `take` does, whenever it comes; return in how many seconds all is there."""
        return max(bucket.reserve(now, size if is_sized else 1) for _, bucket, is_sized in self._buckets)

    def give_back(self, size: int = 0) -> None:
        """Undo a `reserve` whose connection does not wait any more."""
        for _, bucket, is_sized in self._buckets:
            bucket.give_back(size if is_sized else 1)

    def span(self, seconds: float) -> float:
        """Return how long to wait to use so many seconds' worth of tokens at once: no more than half a burst."""
        return min(bucket.span(seconds) for _, bucket, _ in self._buckets)

    @property
    def used(self) -> float:
        """Tokens of frames that are not refilled yet, of the emptiest bucket; 0 without a rate."""
        used = 0.0
        for _, bucket, is_sized in self._buckets:
            if not is_sized:
                used = max(used, bucket.used)
        return used


class Turns:
    """Let connections that have much to read take turns, a few in each pass of the event loop.

    A connection that reads little waits for about one pass at most, however much others read.
    """

    __slots__ = ("_free", "_loop", "_per_pass", "_running", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, per_pass: int) -> None:
        self._loop = loop
        self._per_pass = per_pass
        self._free = per_pass
        self._running = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn, in the order of asking; until the next pass at least once this one gave all of its."""
        self._run()
        if self._free:
            self._free -= 1
        else:
            await self.ask()

    def ask(self) -> asyncio.Future[None]:
        """Ask for a turn of a later pass."""
        self._run()
        turn = self._loop.create_future()
        self._waiting.append(turn)
        return turn

    def _run(self) -> None:
        if not self._running:
            self._running = True
            self._loop.call_soon(self._next_pass)

    def _next_pass(self) -> None:
        waiting, self._free = self._waiting, self._per_pass
        while waiting and self._free:
            turn = waiting.popleft()
            if not turn.done():  # its connection was cancelled
                turn.set_result(None)
                self._free -= 1
        self._running = self._free < self._per_pass
        if self._running:
            self._loop.call_soon(self._next_pass)


class InvalidFrames:
    """Count invalid frames of the last minute."""

    __slots__ = ("_limit", "_times")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: deque[float] = deque(maxlen=limit)

    def add(self, now: float) -> bool:
        """Count one; True if the limit within the window is reached (never, if the limit is 0)."""
        if not self._limit:
            return False
        self._times.append(now)
        return len(self._times) == self._limit and now - self._times[0] <= INVALID_WINDOW
