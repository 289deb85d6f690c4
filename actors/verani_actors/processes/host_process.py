"""Be the asyncio half of a room host process, from its start to its end: rooms, links, and a part in the membership.

The other half is Thespian's actor, in the main thread; control messages pass between them.

Invariant: nothing is processed and nothing leaves unless this host is a member of its committed epoch and its lease
holds.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verani.errors import DefinitionError
from verani.link.epoch import Member
from verani.room.definition import RoomDefinition

from ..links.link_server import LinkServer
from ..links.tls import server_context
from ..membership.control import REGISTRAR, Control, DrainHost
from ..membership.standing import Standing
from ..operating.answers import HostOverview, HostStatus
from ..operating.measures import room_states
from ..rooms.host import RoomHost
from ..upkeep.code_check import CodeCheck
from ..upkeep.ending import Stopped, unless_stopped
from ..upkeep.fresh import import_from_source
from ..upkeep.memory import quieten_collector
from ..upkeep.runtime import Plan, Runtime
from ..upkeep.watchdog import Watchdog
from .heartbeat_sender import HeartbeatSender
from .host_membership import BEATS, HostMembership
from .running_hook import RunningHook

__all__ = ["HostProcess"]

logger = logging.getLogger(__name__)


def _clock() -> float:
    """Seconds that run on while the process is stopped and while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class HostProcess:
    """One room host process, from `run` to its end.

    Every method is called in the loop's thread, but the two that the watchdog's thread calls while a hook blocks the
    loop: `_die_of_a_blocking_hook` and the `repeat` of its heartbeats.
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
        """Prepare a host; `post` takes control messages for the registrar and for other hosts, from any thread."""
        self._plan = plan
        self._runtime = runtime
        self._id = member_id
        self._incarnation = incarnation
        self._secret = secret
        self._post = post
        self._standing = Standing(plan.machine, incarnation, plan.settings.lease, _clock)
        self._heartbeats = HeartbeatSender(post, _clock)
        # None until links can be taken: before, nobody asks anything of this host.
        self._membership: HostMembership | None = None
        # Whether rooms may live here: before that, there is nothing that a stop could lose.
        self.has_started = False
        self._draining = False
        self._socket_look: asyncio.TimerHandle | None = None
        self.check = CodeCheck(plan)
        self._stopping = asyncio.Event()

    # --- life ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `stop`; raises what keeps the host from starting: an import, a start-up hook, a port.

        A start-up hook that still runs at `stop` is cancelled.
        """
        settings = self._plan.settings
        definitions = self._load()
        marker = RunningHook(self._runtime.running_hook(self._incarnation), self._incarnation)
        watchdog = Watchdog(
            settings.hook_blocked, self._die_of_a_blocking_hook, self._heartbeats.repeat, period=settings.lease / BEATS
        )
        self._host = RoomHost(definitions, settings, ownership=self._standing.share, marker=marker, watchdog=watchdog)
        self._overview = HostOverview(self._id, self._host, self)
        self._links = LinkServer(
            self._host,
            self._id,
            self._incarnation,
            grace=settings.link_grace,
            compression=settings.link_compression,
            serves=self._standing.serves,
            ask=self._overview.asked,
            told=lambda gateway, told: self._overview.told(told),
            given_up=self._overview.unlinked,
            lease=self._standing.seconds_left,
        )
        try:
            await unless_stopped(self._stopping, self._host.start())
        except Stopped:
            marker.close()
            return
        self.has_started = True
        try:
            member = await self._listen()
            quieten_collector()
            self._membership = HostMembership(
                self._plan, member, self._standing, self._host, self._links, self._post, self._heartbeats
            )
            running = asyncio.create_task(self._membership.run())
            self._look_at_socket(member.path)
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if running.done():
                running.result()  # our own bug: without it no epoch is ever prepared again, so this process ends
            running.cancel()
        finally:
            await self._end()
            marker.close()

    def _load(self) -> list[RoomDefinition[Any, Any]]:
        import_from_source(self._plan.directory)
        return [_definition(address) for address in self._plan.definitions]

    async def _listen(self) -> Member:
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
        return Member(self._id, self._incarnation, self._plan.machine, os.getpid(), path, url)

    def _look_at_socket(self, path: str) -> None:
        self._socket_look = asyncio.get_running_loop().call_later(
            self._plan.settings.lease / BEATS, self._look_at_socket, path
        )
        # Where all of the folder is gone, others see to it.
        if not Path(path).exists() and self._runtime.is_whole and not self._stopping.is_set():
            logger.error("somebody has deleted %s, on which gateways link: ending", path)
            self.stop()

    def stop(self) -> None:
        """Begin to end: rooms go to sleep, links close, `on_shutdown` runs."""
        self._stopping.set()

    def receive(self, sender: str, message: Control) -> None:
        """Take a control message; `sender` is where an answer goes."""
        if self._membership is not None:
            self._membership.receive(sender, message)

    async def _end(self) -> None:
        if self._socket_look is not None:
            self._socket_look.cancel()
        await self._host.stop(self._plan.settings.drain_seconds)
        # What the gateways do not hear of is done again elsewhere.
        await self._links.sessions.said(self._plan.settings.link_grace)
        await self._links.stop()

    # --- what operators ask ----------------------------------------------------------------------------

    def status(self) -> HostStatus:
        """Describe this host."""
        return HostStatus(
            id=self._id,
            machine=self._plan.machine,
            incarnation=self._incarnation,
            pid=os.getpid(),
            epoch=self._standing.epoch.number,
            rooms=dict(sorted(room_states(self._host).items())),
            links={link.gateway: "linked" if link.connected else "broken" for link in self._links.sessions.states()},
            draining=self._draining,
            restarting=self._membership is not None and self._membership.is_restarting,
        )

    def restart(self) -> None:
        """Have this host give up its rooms, end, and be started with the code that was checked last."""
        self.check.take_over(self._runtime)
        logger.info("host %s hands over its rooms and is started anew", self._id)
        if self._membership is not None:
            self._membership.restart()

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
