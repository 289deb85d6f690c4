"""Be the asyncio half of a room host process: rooms, links and lease, told what to do by the registrar.

The other half is Thespian's actor, in the main thread; control messages pass between them. Which epochs there are is
the registrar's decision.

Invariants:
- Nothing is processed and nothing leaves unless this host is a member of its committed epoch and its lease holds.
- `Prepared` is said when no room that is lost is left, and every gateway has what they last said.
- A room that the committed epoch gives to another host is gone before anything else is done in that epoch.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from verani.errors import DefinitionError
from verani.link.epoch import Epoch, Member
from verani.room.definition import RoomDefinition

from ..links.link_server import LinkServer
from ..links.tls import server_context
from ..membership.control import Beat, Beaten, Commit, Control, DrainHost, Knock, Prepare, Prepared, Vouch
from ..membership.lease import Lease
from ..membership.ownership import Share
from ..operating.answers import HostOverview, HostStatus
from ..rooms.host import RoomHost
from ..upkeep.code_check import CodeCheck
from ..upkeep.collector import quieten_collector
from ..upkeep.fresh import import_from_source
from ..upkeep.runtime import Plan, Runtime
from ..upkeep.start import Stopped, unless_stopped
from ..upkeep.watchdog import Watchdog
from .slot import Slot

__all__ = ["REGISTRAR", "Hosting"]

logger = logging.getLogger(__name__)

# Where `post` takes what is for the registrar; other destinations are ``host:`` and an incarnation.
REGISTRAR: Final = "registrar"

# Seconds that a new member's rooms wait for gateways that other members have been linked to, at most; and those where
# nothing is known of any.
_SETTLE_KNOWN: Final = 5.0
_SETTLE: Final = 0.5

# Beats in one lease: two may be lost and the third late.
_BEATS: Final = 6


def _clock() -> float:
    """Seconds that run on while the process is stopped and while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Hosting:
    """One room host process, from `run` to its end.

    Every method is called in the loop's thread but two, which say so: the watchdog's thread calls them while the loop
    is blocked, as it believes. They touch nothing but the last beat, whose lock keeps the beats in order.
    """

    def __init__(
        self,
        plan: Plan,
        runtime: Runtime,
        member_id: str,
        incarnation: str,
        secret: bytes,
        post: Callable[[str, Control], None],
    ) -> None:
        """Prepare a host; `post` takes control messages for the registrar and for other hosts."""
        self._plan = plan
        self._runtime = runtime
        self._id = member_id
        self._incarnation = incarnation
        self._secret = secret
        self._post = post
        self._share = Share(incarnation)
        self._lease = Lease(plan.machine, plan.settings.lease, _clock)
        self._preparations: asyncio.Queue[Epoch] = asyncio.Queue()
        # The highest epoch of which `Prepared` was said.
        self._said = 0
        self._served = False
        # Whether rooms may live here: before that, there is nothing that a stop could lose.
        self.has_started = False
        self._draining = False
        self._restarting = False
        self.check = CodeCheck(plan)
        self._stopping = asyncio.Event()
        self._knocks = itertools.count()
        self._beat_timer: asyncio.TimerHandle | None = None
        self._last_beat: Beat | None = None
        self._beating = threading.Lock()

    # --- life ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `stop`; raises what keeps the host from starting: an import, a start-up hook, a port.

        A start-up hook that still runs at `stop` is cancelled.
        """
        self._loop = asyncio.get_running_loop()
        settings = self._plan.settings
        definitions = self._load()
        slot = Slot(self._runtime.slot(self._incarnation), self._incarnation)
        watchdog = Watchdog(
            settings.hook_blocked, self._die_of_a_blocking_hook, self._beat_for_the_loop, period=settings.lease / _BEATS
        )
        self._host = RoomHost(definitions, settings, ownership=self._share, marker=slot, watchdog=watchdog)
        self._overview = HostOverview(self._id, self._host, self)
        self._links = LinkServer(
            self._host,
            self._id,
            self._incarnation,
            grace=settings.link_grace,
            compression=settings.link_compression,
            serves=self._serves,
            ask=self._overview.asked,
            told=lambda gateway, told: self._overview.told(told),
            given_up=self._overview.unlinked,
            lease=self._lease_left,
        )
        try:
            await unless_stopped(self._stopping, self._host.start())
        except Stopped:
            slot.close()
            return
        self.has_started = True
        try:
            await self._listen()
            quieten_collector()
            self._beat()
            preparing = asyncio.create_task(self._prepare_in_turn())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait((preparing, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if preparing.done():
                preparing.result()  # our own bug: without it no epoch is ever prepared again, so this process ends
            preparing.cancel()
        finally:
            await self._end()
            slot.close()

    def _load(self) -> list[RoomDefinition[Any, Any]]:
        import_from_source(self._plan.directory)
        return [_definition(address) for address in self._plan.definitions]

    async def _listen(self) -> None:
        settings, path, url = self._plan.settings, self._runtime.socket(self._incarnation), ""
        if self._plan.spans_machines:
            place = int(self._id.rpartition("-")[2])
            port = settings.link_port + place if settings.link_port else 0
            await self._links.start(
                path, (self._plan.address, port), server_context(settings, self._secret, refusals=self._links.refusals)
            )
            url = f"wss://{self._plan.authority(self._links.port or 0)}"
        else:
            await self._links.start(path)
        self._member = Member(self._id, self._incarnation, self._plan.machine, os.getpid(), path, url)

    def stop(self) -> None:
        """Begin to end: rooms go to sleep, links close, `on_shutdown` runs."""
        self._stopping.set()

    async def _end(self) -> None:
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        await self._host.stop(self._plan.settings.drain_seconds)
        # What the gateways do not hear of is done again elsewhere.
        await self._links.said(self._plan.settings.link_grace)
        await self._links.stop()

    # --- control ---------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Control) -> None:
        """Take a control message; `sender` is where an answer goes."""
        match message:
            case Beaten():
                self._lease.beaten(message.sent)
                self._look_at_lease()
            case Prepare():
                if self._share.prepare(message.epoch):
                    self._lease.voted(message.epoch.number)
                    self._preparations.put_nowait(message.epoch)
                elif message.epoch.number == self._said:  # the registrar has not heard it
                    self._say_prepared()
            case Commit():
                self._commit(message.epoch, message.gateways)
            case Knock() if self._lease.may_vouch(message.epoch, self._share.prepared):
                self._post(sender, Vouch(self._plan.machine, message.sent))
            case Vouch():
                self._lease.vouched(message.machine, message.sent)
                self._look_at_lease()
            case _:
                pass  # a knock that is not answered, or what is for others

    def _beat(self) -> None:
        # First, so that nothing that goes wrong below ends it.
        self._beat_timer = self._loop.call_later(self._plan.settings.lease / _BEATS, self._beat)
        now = _clock()
        epoch = self._share.committed
        linked = tuple(self._host.gateways)
        with self._beating:
            self._last_beat = Beat(self._member, now, epoch, self._share.prepared, self._lease.vouched_ago, linked)
            self._post(REGISTRAR, self._last_beat)
        if self._restarting:  # a message may be lost, and a registrar replaced
            self._post(REGISTRAR, DrainHost(self._id, again=True))
        if self._lease.lost_registrar:
            self._knock(epoch, now)
        self._look_at_lease()
        self._links.tell_lease()
        if not Path(self._member.path).exists() and self._runtime.is_whole and not self._stopping.is_set():
            logger.error("somebody has deleted %s, on which gateways link: ending", self._member.path)
            self.stop()

    def _beat_for_the_loop(self) -> None:
        """Say that this process lives while a hook blocks its loop; called in the watchdog's thread.

        Else its rooms would move, and the hook would block the next host, before the watchdog knows what to blame. A
        loop that is blocked neither prepares nor vouches, so the last beat is true still; should it go on in this very
        moment, its own next beat comes after this one.
        """
        with self._beating:
            if self._last_beat is not None:
                self._post(REGISTRAR, msgspec.structs.replace(self._last_beat, sent=_clock()))

    def _knock(self, epoch: Epoch, now: float) -> None:
        """Knock at one host of every other machine, another one each time."""
        turn = next(self._knocks)
        for machine in epoch.machines - {self._plan.machine}:
            there = [member for member in epoch.members if member.machine == machine]
            if there:
                self._post(f"host:{there[turn % len(there)].incarnation}", Knock(self._plan.machine, now, epoch.number))

    def _serves(self) -> bool:
        epoch = self._share.committed
        return self._lease.serves(epoch) and self._is_member(epoch)

    def _lease_left(self) -> float:
        """Say for how many seconds this host serves at least; 0 where it does not."""
        return self._lease.until(self._share.committed) - _clock() if self._serves() else 0.0

    def _is_member(self, epoch: Epoch) -> bool:
        return any(member.incarnation == self._incarnation for member in epoch.members)

    def _look_at_lease(self) -> None:
        serves = self._serves()
        if serves and not self._served:
            self._links.resume()
            self._links.tell_lease()
        elif self._served and not serves and self._is_member(self._share.committed):
            logger.warning("host %s has lost its lease and waits", self._id)
        self._served = serves

    async def _prepare_in_turn(self) -> None:
        while True:
            epoch = await self._preparations.get()
            await self._host.release(self._plan.settings.drain_seconds)
            await self._links.confirmed(self._plan.settings.link_grace)
            self._said = epoch.number
            self._say_prepared()

    def _say_prepared(self) -> None:
        self._post(REGISTRAR, Prepared(self._id, self._incarnation, self._said))

    def _commit(self, epoch: Epoch, gateways: Sequence[str]) -> None:
        was_member = self._is_member(self._share.committed)
        if not self._share.commit(epoch):
            return
        logger.debug("epoch %d is committed, with %d hosts", epoch.number, len(epoch.members))
        self._host.abandon()
        self._host.keep()
        if not was_member and self._is_member(epoch):
            self._settle(gateways)
        if not self._is_member(epoch):
            self._links.forget()
        self._links.announce(epoch)
        self._look_at_lease()

    def _settle(self, known: Sequence[str]) -> None:
        """Have rooms wait for every gateway that members knew; where none did, for those that this machine should have.

        One that has died meanwhile holds them up for all of that time.
        """
        plan, linked = self._plan, self._host.gateways
        if known:
            self._host.settle(lambda: linked.keys() >= set(known), max(_SETTLE_KNOWN, plan.settings.link_grace))
        elif plan.spans_machines:
            self._host.settle(lambda: False, _SETTLE)
        else:
            number = plan.settings.gateways
            self._host.settle(lambda: len(linked) >= number, max(_SETTLE, plan.settings.link_grace))

    # --- what operators ask ----------------------------------------------------------------------------

    def status(self) -> HostStatus:
        """Describe this host."""
        rooms = [*self._host.rooms().values(), *["asleep"] * self._host.sleeping_count]
        return HostStatus(
            id=self._id,
            machine=self._plan.machine,
            incarnation=self._incarnation,
            pid=os.getpid(),
            epoch=self._share.committed.number,
            rooms={state: rooms.count(state) for state in sorted(set(rooms))},
            links={link.gateway: "linked" if link.connected else "broken" for link in self._links.states()},
            draining=self._draining,
            restarting=self._restarting,
        )

    def restart(self) -> None:
        """Have this host give up its rooms, end, and be started with the code that was checked last."""
        self.check.take_over(self._runtime)
        logger.info("host %s hands over its rooms and is started anew", self._id)
        self._restarting = True
        self._post(REGISTRAR, DrainHost(self._id, again=True))

    def drain(self, id: str) -> None:
        """Ask the registrar to drain a host, or all."""
        self._draining |= id in ("", self._id)
        self._post(REGISTRAR, DrainHost(id))

    # --- the end of a hook that blocks -----------------------------------------------------------------

    def _die_of_a_blocking_hook(self, stack: str) -> None:
        """End this process, leaving a note; called in the watchdog's thread.

        Its rooms wake at other hosts, and the input that blocked counts as suspect.
        """
        with Path(self._runtime.death_note(self._incarnation)).open("a", encoding="utf-8") as note:
            note.write(f"a hook blocked the event loop:\n{stack}")
        os.kill(os.getpid(), signal.SIGKILL)


def _definition(address: str) -> RoomDefinition[Any, Any]:
    """Import the room definition at MODULE:NAME; that it is there was checked before any host started."""
    module, _, name = address.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, RoomDefinition):
        raise DefinitionError(f"{address}: expected a room definition, got {type(found).__name__}")
    return found
