"""Remember how a room has lived over its incarnations, so that an operator can ask why it is awake.

A sleeping room costs its records and one of these; a room without connections is forgotten when it sleeps.
"""

from __future__ import annotations

from msgspec import Struct

from verani.room.context import WakeReason

__all__ = ["RoomLife", "RoomStatus"]


class RoomStatus(Struct, frozen=True):
    """One room, for the operator. Durations are in seconds; None where there is nothing to say.

    `state`: waking, awake, moving, retiring or asleep, for `state_seconds`. `kept_awake_by`: running hook, RPC, spawned
    task, keep_awake, queued events, recent activity, or hibernate_after never. `doing`: the hook that runs, by its
    event or method, or the function of the oldest spawned task, for `doing_seconds`. `woken_by`: connect, frame, close,
    call (an operator's wake, too), crash or moved. `wake_seconds`: how long the last wake took, hooks included.
    `cycles`: how often it slept. `awake_seconds`: in all. `host`: whose the room is, where hosts are processes of their
    own. `inputs`: what it was given to handle, `deliveries`: what it said, once for each connection that this was for.
    """

    name: str
    definition: str
    state: str
    connections: int
    state_seconds: float | None = None
    kept_awake_by: str | None = None
    woken_by: str | None = None
    wake_seconds: float | None = None
    cycles: int = 0
    awake_seconds: float = 0.0
    doing: str | None = None
    doing_seconds: float | None = None
    host: str | None = None
    inputs: int = 0
    deliveries: int = 0


class RoomLife:
    """What is kept of one room, awake or asleep."""

    __slots__ = ("awake_seconds", "cycles", "deliveries", "gateways", "inputs", "since", "wake_seconds", "woken_by")

    def __init__(self, now: float) -> None:
        # When the room woke or fell asleep last.
        self.since = now
        self.woken_by: WakeReason | None = None
        self.wake_seconds: float | None = None
        self.cycles = 0
        self.awake_seconds = 0.0
        self.inputs = 0
        self.deliveries = 0
        # How many connections there were at each gateway when it fell asleep, without those that were lost since.
        self.gateways: dict[str, int] = {}

    @property
    def connections(self) -> int:
        """How many connections the room has that sleeps."""
        return sum(self.gateways.values())

    def wakes(self, now: float, woken_by: WakeReason) -> None:
        """Note that a wake begins."""
        self.since, self.woken_by, self.wake_seconds = now, woken_by, None

    def woke(self, now: float) -> float:
        """Note that it is over, and return how long it took, in seconds."""
        self.wake_seconds = took = now - self.since
        return took

    def ended(self, now: float, *, slept: bool, gateways: dict[str, int]) -> None:
        """Note that the room is awake no more: it has fallen asleep, or something killed it."""
        self.awake_seconds += now - self.since
        self.since = now
        self.cycles += slept
        self.gateways = gateways
