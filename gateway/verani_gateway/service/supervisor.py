"""Keep the processes of one machine running: the launcher of its room hosts, and its gateways.

`verani serve --hosts N` and `verani join` run it. What the processes do is their business; code of the user is never
imported here: the first gateway does that before anything else starts.

Invariants:
- Nothing outlives this process: the kernel kills each child with it, and the child reads the end of its standard
  input; what the children leave behind becomes a child of this process and is killed at the end.
- Gateways stop before the launcher: a room has a host as long as anybody may be in it.
- The gateways share one port, so one is ready only if all that listen are. Each says what it does several times in a
  lease, and is told what holds for all, which counts for one lease.
- A process that hangs is as good as dead: it is killed, and started again. Looks are counted and not seconds, so that
  nobody is blamed for a pause of this process.
- The log says where the service listens once, when it is ready.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets as randomness
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from verani.settings import Settings
from verani_actors.processes.admin_port import resolve
from verani_actors.processes.starter import ENDED
from verani_actors.upkeep.ending import Stopped, unless_stopped
from verani_actors.upkeep.runtime import Plan, Runtime

from ..config import ADMIN_TOKEN, CLUSTER_SECRET, RPC_TOKEN, Secrets
from ..http.host_port import is_loopback
from .banner import Served, announce
from .descendants import adopt_orphans, kill_children, reap
from .early import stop_signals
from .folder import runtime_folder
from .import_check import check_imports, command
from .keeper import BEATS, DRAINED, NO, READY, RESTART, STOP, WAITING, YES, Keeper
from .loop import at_end_of_input, run_loop
from .shape import check_shape
from .sockets import Sockets, take, unix_url, urls

__all__ = ["supervise"]

logger = logging.getLogger(__name__)

# Seconds that a gateway which is to take another's place may take to be ready.
_REPLACEMENT_PATIENCE: Final = 60.0

# How much longer than its drain a process may take to stop before it is killed.
_STOP_GRACE: Final = 12.0

# Seconds of looks at which a process that has hung is killed, or `hook_blocked` where that is longer: code of users may
# block a gateway, and creating an actor holds up the launcher for five.
_HUNG: Final = 10.0

# How often, in seconds, the runtime folder is marked as used: files that nobody has used for six hours may be removed
# from an XDG_RUNTIME_DIR, and those of ten days from /tmp.
_FRESHEN: Final = 3600.0

# How often the runtime folder is looked at for the first epoch.
_LOOK: Final = 0.02


def supervise(
    targets: Sequence[str], settings: Settings, secrets: Secrets, *, leader: str = "", until_eof: bool = False
) -> int:
    """Run the service until SIGTERM, SIGINT or SIGHUP, or its failure to start, and return the exit code.

    With `until_eof` the end of standard input stops it too. A second signal ends everything at once.
    """
    check_shape(settings, secrets, leader=leader)
    return run_loop(_Supervisor(targets, settings, secrets, leader, until_eof).run(), asyncio.new_event_loop)


class _Supervisor:
    """One service on this machine, from start to stop."""

    def __init__(
        self, targets: Sequence[str], settings: Settings, secrets: Secrets, leader: str, until_eof: bool
    ) -> None:
        self._targets = targets
        self._settings = settings
        self._secrets = secrets
        self._leader = leader
        self._until_eof = until_eof
        self._stop = asyncio.Event()
        # Whether an operator ends the whole service, and not only this machine's part.
        self._ends_service = False
        self._gateways: list[Keeper] = []
        self._word = NO
        self._all_ready = asyncio.Event()
        self._folder: Path | None = None
        # What all gateways take connections from; whoever comes while none of them is there waits.
        self._sockets = Sockets([], [])
        # What runs, and whether there is something else now.
        self._running: dict[asyncio.Task[int], Keeper] = {}
        self._changed = asyncio.Event()
        # Those that another process is to take the place of, by the task that sees to it.
        self._replacing: dict[asyncio.Task[None], Keeper] = {}
        # Where others reach this machine, once that is looked up.
        self._address = ""
        self._environ = {
            **{name: value for name, value in os.environ.items() if name != f"{CLUSTER_SECRET}_FILE"},
            CLUSTER_SECRET: secrets.cluster_secret or randomness.token_hex(32),
        }

    async def run(self) -> int:
        adopt_orphans()
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._on_signal, number)
        # What the launcher leaves behind when it is killed ends only after it.
        loop.add_signal_handler(signal.SIGCHLD, reap)
        if self._until_eof:
            at_end_of_input(self._stop.set)
        with ExitStack() as held:
            held.callback(kill_children)
            try:
                await unless_stopped(self._stop, self._take_addresses(held))
                runtime = held.enter_context(runtime_folder())
                self._folder = runtime.folder
                held.callback(kill_children)  # before the folder is removed
                code, served = await unless_stopped(self._stop, self._import(runtime))
            except Stopped:
                logger.info("stopped before anything was started")
                return 0
            if code:
                return code
            runtime.write_plan(self._plan(served))
            return await self._serve(runtime, served)

    async def _take_addresses(self, held: ExitStack) -> None:
        if self._settings.gateways:
            self._settings, self._sockets = await take(self._settings, held)
        # In a thread: a name server may take many seconds to say nothing.
        self._address = await asyncio.to_thread(resolve, self._settings.advertise)

    async def _import(self, runtime: Runtime) -> tuple[int, list[Served]]:
        """Find out what is served; whoever does is the first gateway, or ends then where there is to be none."""
        runtime.write_plan(self._plan([]))
        self._gateways = [self._gateway(runtime, 0)]
        running = self._keep(self._gateways[0])
        found = await check_imports(self._targets, self._gateways[0], running)
        if not self._settings.gateways:
            self._gateways.pop().send(signal.SIGKILL)
            await running
            del self._running[running]
        return found

    def _on_signal(self, number: signal.Signals) -> None:
        """Stop at the first signal; end everything at the second."""
        if self._stop.is_set():
            kill_children()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(128 + number)
        self._stop.set()

    def _plan(self, served: Sequence[Served]) -> Plan:
        settings = self._settings
        return Plan(
            settings=settings,
            definitions=tuple(each.address for each in served),
            directory=str(Path.cwd()),
            machine=settings.machine or socket.gethostname(),
            address=self._address,
            leader=self._leader,
            listeners=(_descriptors(self._sockets.public), _descriptors(self._sockets.internal)),
            check=tuple(command("definitions", *self._targets)),
        )

    # --- serving ---------------------------------------------------------------------------------------

    async def _serve(self, runtime: Runtime, served: Sequence[Served]) -> int:
        # What the launcher and its hosts need not know: the tokens are the gateways' business.
        tokens = {f"{variable}{suffix}" for variable in (RPC_TOKEN, ADMIN_TOKEN) for suffix in ("", "_FILE")}
        environ = {name: value for name, value in self._environ.items() if name not in tokens}
        launcher = Keeper(
            "the launcher",
            [sys.executable, "-m", "verani_actors.processes.launcher", str(runtime.folder)],
            environ,
            heard=lambda line: None,
            last=ENDED,
        )
        launched = self._keep(launcher)
        self._gateways += [self._gateway(runtime, number) for number in range(1, self._settings.gateways)]
        for gateway in self._gateways[1:]:
            self._keep(gateway)
        beginning = asyncio.create_task(self._begin(runtime, launcher, served))
        watching = asyncio.create_task(self._watch(runtime, launcher))
        try:
            failed = await self._wait(launched, beginning, watching)
        finally:
            for task in (beginning, watching, *self._replacing):
                task.cancel()
        running = self._running
        # They refuse whoever comes from now on.
        self._tell_gateways(NO)
        self._sockets.close()
        if not failed:
            logger.info("stopping: draining connections for up to %g s", self._settings.drain_seconds)
        await self._end({task: keeper for task, keeper in running.items() if keeper is not launcher})
        if self._ends_service and not self._leader and not is_loopback(self._settings.advertise):
            # Its registrar tells the other machines, and then the launcher, once no host has a room any more.
            await asyncio.wait({launched}, timeout=self._settings.drain_seconds)
        await self._end({task: keeper for task, keeper in running.items() if keeper is launcher})
        if not failed:
            logger.info("stopped")
        return failed

    def _keep(self, keeper: Keeper) -> asyncio.Task[int]:
        task = asyncio.create_task(keeper.run())
        self._running[task] = keeper
        self._changed.set()
        return task

    async def _wait(
        self, launched: asyncio.Task[int], beginning: asyncio.Task[None], watching: asyncio.Task[int]
    ) -> int:
        """Return once the service is to stop, with the exit code of what has failed."""
        stopped = asyncio.create_task(self._stop.wait())
        try:
            # The launcher ends when the registrar says that the whole service does.
            while not (stopped.done() or launched.done() or watching.done()):
                changed = asyncio.create_task(self._changed.wait())
                waiting = {stopped, changed, watching, *self._running, *([] if beginning.done() else [beginning])}
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                self._changed.clear()
                if beginning in done:
                    beginning.result()
                for task in [task for task in self._running if task.done() and task is not launched]:
                    del self._running[task]
                    if task.result():
                        return task.result()
                self._refuse_if_alone()
        finally:
            stopped.cancel()
        return next((task.result() for task in (watching, launched) if task.done()), 0)

    def _refuse_if_alone(self) -> None:
        """Refuse connections once all gateways of this machine were drained: nobody would take them."""
        if self._gateways and not self._replacing and set(self._gateways).isdisjoint(self._running.values()):
            self._sockets.close()

    def _gateway(self, runtime: Runtime, number: int, *, ready: asyncio.Event | None = None) -> Keeper:
        """Prepare a gateway process; one that is to take another's place sets `ready` when it takes connections."""

        def heard(line: bytes) -> None:
            if line == STOP:
                self._ends_service = True
                self._stop.set()
                return
            if line == RESTART:
                # Whoever asks again meanwhile, or after that, gets the same successor.
                if keeper in self._gateways and keeper not in self._replacing.values():
                    task = asyncio.create_task(self._replace(runtime, number, keeper))
                    self._replacing[task] = keeper
                    task.add_done_callback(self._replacing.pop)
                return
            keeper.was_ready = keeper.was_ready or line in (READY, WAITING)
            if ready is not None and line == READY:
                ready.set()
            if all(each.said == READY for each in self._gateways):
                self._all_ready.set()
            if self._word_for_all() != self._word:
                self._tell_gateways(self._word_for_all())

        keeper = Keeper(
            f"gateway process {number + 1}",
            command("gateway", str(runtime.folder), *self._targets),
            self._environ,
            heard=heard,
            last=DRAINED,
            greeting=lambda: self._word,
            inherited=(*_descriptors(self._sockets.public), *_descriptors(self._sockets.internal)),
            is_trial=ready is not None,
        )
        return keeper

    async def _replace(self, runtime: Runtime, number: int, old: Keeper) -> None:
        """Start another gateway in the place of one, and have that leave once the other takes connections."""
        ready = asyncio.Event()
        new = self._gateway(runtime, number, ready=ready)
        running = asyncio.create_task(new.run())
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait((running, waiting), timeout=_REPLACEMENT_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            if not ready.is_set():
                new.send(signal.SIGKILL)
        if not ready.is_set():
            await running
            logger.error("%s goes on: the process that was to take its place has taken no connections", old.name)
            old.tell(b"the process that was to take its place has taken no connections\n")
            return
        self._running[running] = new
        self._changed.set()
        self._gateways[self._gateways.index(old)] = new
        logger.info("%s has another process now", new.name)
        old.let_go()
        patience = self._settings.header_timeout + self._settings.drain_seconds + _STOP_GRACE
        if leaving := [task for task, keeper in self._running.items() if keeper is old]:
            await asyncio.wait(leaving, timeout=patience)
        old.send(signal.SIGKILL)

    def _word_for_all(self) -> bytes:
        """Say whether whoever connects now is served, whichever gateway takes the connection."""
        listening = [each for each in self._gateways if each.said in (READY, WAITING)]
        ready = all(each.said == READY and each.misses < BEATS for each in listening)
        return YES if self._all_ready.is_set() and listening and ready else NO

    def _tell_gateways(self, word: bytes) -> None:
        self._word = word
        for keeper in self._gateways:
            keeper.tell(word)

    async def _watch(self, runtime: Runtime, launcher: Keeper) -> int:
        """Look after the processes, and their folder; returns the exit code where nothing can be mended any more."""
        period = self._settings.lease / BEATS
        patience = max(_HUNG, self._settings.hook_blocked) / period
        now, fresh = asyncio.get_running_loop().time, float("-inf")
        while runtime.is_whole:
            if now() - fresh >= _FRESHEN:
                fresh = now()
                runtime.freshen()
            for keeper in (launcher, *self._gateways):
                keeper.look(patience)
            self._tell_gateways(self._word_for_all())
            await asyncio.sleep(period)
        logger.error("somebody has deleted %s, without which no process can be replaced: ending", runtime.folder)
        return 1

    async def _begin(self, runtime: Runtime, launcher: Keeper, served: Sequence[Served]) -> None:
        """Say that the service is ready, once there is an epoch with hosts of this machine, if it is to have any."""
        while not self._is_served(runtime):  # noqa: ASYNC110  # the launcher replaces a file, which nothing waits for
            await asyncio.sleep(_LOOK)
        launcher.was_ready = True
        if self._settings.gateways:
            await self._all_ready.wait()
        runtime.served_file.touch()
        self._announce(served)

    def _is_served(self, runtime: Runtime) -> bool:
        try:
            epoch = runtime.read_epoch()
        except (OSError, msgspec.MsgspecError) as error:  # asked again
            logger.debug("the published epoch cannot be read yet: %s", error)
            return False
        if not self._settings.hosts:
            return epoch.number > 0
        # Not by the name of the machine: hosts of a service that was killed may still be members.
        return any(Path(member.path).parent == runtime.folder for member in epoch.members)

    def _announce(self, served: Sequence[Served]) -> None:
        settings = self._settings
        if settings.gateways:
            assert settings.internal_port is not None, "the ports were reserved"
            path = settings.unix_socket
            public = urls(settings.public_addresses, settings.port) if path is None else (unix_url(path),)
            announce(public, urls(settings.internal_addresses, settings.internal_port), served, settings)
        if self._leader:
            logger.info("joined %s with %d room hosts", self._leader, settings.hosts)
        elif not settings.gateways:
            logger.info("ready with %d room hosts and no gateway", settings.hosts)

    async def _end(self, running: Mapping[asyncio.Task[int], Keeper]) -> None:
        """Ask processes to end, and kill those that do not."""
        for keeper in running.values():
            keeper.send(signal.SIGTERM)
        if not running:
            return
        _, left = await asyncio.wait(running, timeout=self._settings.drain_seconds + _STOP_GRACE)
        for task in left:
            logger.warning("%s did not stop in time: killing it", running[task].name)
            running[task].send(signal.SIGKILL)
        if left:
            await asyncio.wait(left)


def _descriptors(sockets: Sequence[socket.socket]) -> tuple[int, ...]:
    return tuple(each.fileno() for each in sockets)
