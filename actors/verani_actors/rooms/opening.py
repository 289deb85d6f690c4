"""Open rooms once the records of all gateways are merged, and merge those of gateways that link later.

Invariants:
- No input is handled before the snapshots of all linked gateways have been merged: a wake waits for them as long as
  their links last. A gateway whose link ends meanwhile, or is new, is told that it may have missed something.
- Nobody misses in silence what an earlier owner said to others: their gateways know of it, and the connections of those
  that have not heard it are closed before the room goes on. What others have seen of an input is not done again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from thespian.actors import ActorAddress

from verani.engine.room_events import Attached, HookFailed, Woken
from verani.link.messages import Kick, Pull, Record, Snapshot
from verani.room.context import WakeReason

from .engines import Engines
from .hearsay import who_missed
from .hosted_room import HostedRoom, RoomChange, RoomState
from .pulled import UNKNOWN, Pulled
from .room_actor import Open, Post
from .shared import SharedParts

__all__ = ["RoomOpening"]

logger = logging.getLogger(__name__)

# To whom the room may have said something before it knew of them.
_MISSED: Final = 1012, "the room went on without this connection"


class RoomOpening:
    """What the rooms of a host wait for before they go on."""

    def __init__(self, parts: SharedParts, engines: Engines) -> None:
        self._parts = parts
        self._engines = engines
        self._incarnations = 0
        # Until when rooms wait for gateways that have not linked yet, and what tells whether all are there.
        self._settling: asyncio.TimerHandle | None = None
        self._is_whole: Callable[[], bool] = lambda: False

    # --- gateways --------------------------------------------------------------------------------------

    def settle(self, is_whole: Callable[[], bool], seconds: float) -> None:
        """Have rooms wait for gateways that are not linked yet: until `is_whole` says that all are, at most so long."""
        self._is_whole = is_whole
        if not is_whole():
            self._settling = asyncio.get_running_loop().call_later(seconds, self._settled)

    def stop_settling(self) -> None:
        """Wait for no gateway any more that has not linked yet."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None

    def _settled(self) -> None:
        self.stop_settling()
        for room in tuple(self._parts.directory.rooms.values()):
            if UNKNOWN in room.pulled.expected:
                room.pulled.expected.discard(UNKNOWN)
                self._open_if_complete(room)

    def linked(self, gateway: str) -> None:
        """Ask a gateway for its records: it may hold connections of rooms that are awake already.

        What it sends for one of these waits for the records.
        """
        for room in tuple(self._parts.directory.rooms.values()):
            pulled = room.pulled
            if room.has_opened:
                pulled.late.add(gateway)
                self._pull(room, gateway)
            elif gateway not in pulled.expected:
                pulled.expected.add(gateway)
                if room.address is not None:
                    self._pull(room, gateway)
        if self._settling is not None and self._is_whole():
            self._settled()

    def lost(self, room: HostedRoom, gateway: str) -> bool:
        """Take a gateway out of a room, which may have waited for it; False if it had nothing there."""
        was_expected = gateway in room.pulled.expected
        had = room.lose(gateway)
        if was_expected:
            self._open_if_complete(room)
        return had

    # --- records ---------------------------------------------------------------------------------------

    def new_pull(self) -> Pulled:
        """Number an incarnation, which is to wait for all gateways that are linked, or are to be."""
        self._incarnations += 1
        return Pulled(self._incarnations, (*self._parts.gateways, *((UNKNOWN,) if self._settling is not None else ())))

    def pull(self, room: HostedRoom) -> None:
        """Ask all gateways for the records of a room whose actor is there now."""
        for gateway in room.pulled.expected - {UNKNOWN}:
            self._pull(room, gateway)

    def _pull(self, room: HostedRoom, gateway: str) -> None:
        self._parts.gateways[gateway](Pull(room.name, room.pulled.incarnation, self._parts.ownership.epoch))

    def merge(self, gateway: str, snapshot: Snapshot) -> None:
        """Take records; they are merged with the last of them."""
        room = self._parts.directory.rooms.get(snapshot.room)
        if room is None or not room.pulled.take(gateway, snapshot):
            return
        if snapshot.processed:
            room.drop_processed(gateway, snapshot.processed)
        if room.has_opened:
            self._attach(room, gateway)
        else:
            if snapshot.heard is not None:
                room.pulled.heard[gateway] = snapshot.heard
            room.pulled.expected.discard(gateway)
            self._open_if_complete(room)

    def _attach(self, room: HostedRoom, gateway: str) -> None:
        """Merge records that came late, then deliver what has waited for them; their connections are to come again."""
        if room.state is RoomState.GONE:
            return
        assert room.address is not None
        pulled = room.pulled
        pulled.late.discard(gateway)
        records = tuple(pulled.records.pop(gateway, ()))
        held = [(gateway, arrival) for arrival in pulled.held.pop(gateway, ())]
        if records:
            self._parts.actors.tell(room.address, Post(Attached(gateway, records)))
            # Some of what the room said did not reach connections of which it knew nothing until now.
            known = set(room.engine.connections_of(gateway)) if room.engine is not None else set()
            self._close_out(room, gateway, [each for each in records if each.connection not in known])
        room.waiting += held
        if room.state is RoomState.AWAKE:
            room.deliver_waiting()
            self._parts.sleeping.mark_active(room)

    def _close_out(self, room: HostedRoom, gateway: str, records: Iterable[Record]) -> None:
        missed = [Kick(each.connection, *_MISSED) for each in records if not each.closing]
        if missed:
            logger.warning("%d connections missed what a room has said", len(missed), extra={"room": room.name})
            entry = self._parts.entries.entry(gateway, room)
            entry.outputs += missed
            room.reach.owed[gateway] = entry.seq

    # --- opening ---------------------------------------------------------------------------------------

    def _open_if_complete(self, room: HostedRoom) -> None:
        if not room.pulled.expected and not room.has_opened and room.address is not None:
            self._open(room, room.address, room.life.woken_by or "frame")

    def _open(self, room: HostedRoom, address: ActorAddress, reason: WakeReason) -> None:
        def post(event: HookFailed) -> None:
            self._parts.actors.tell(address, Post(event))

        records = tuple((gateway, tuple(found)) for gateway, found in room.pulled.records.items() if found)
        self._settle_hearsay(room)
        room.pulled.records = {}
        logger.debug("room wakes: %s", reason, extra={"room": room.name})
        start = partial(self._engines.make, room, post)
        self._parts.actors.tell(
            address, Open(start, Woken(records, reason), partial(self._parts.directory.woke, room), self._parts.flow)
        )
        room.enter(RoomChange.OPENED)
        room.deliver_waiting()
        self._parts.sleeping.mark_active(room)

    def _settle_hearsay(self, room: HostedRoom) -> None:
        """Close the connections that have missed what an earlier owner said."""
        heard = room.pulled.settle_hearsay()
        room.reach.begin((gateway for gateway, found in room.pulled.records.items() if found), room.pulled.seen)
        if not heard:
            return
        self._parts.entries.speaks_of_others |= bool(room.reach.shared)
        for gateway in who_missed(heard):
            self._close_out(room, gateway, room.pulled.records.get(gateway, ()))
        room.waiting = [(gateway, room.pulled.as_seen(gateway, arrival)) for gateway, arrival in room.waiting]
