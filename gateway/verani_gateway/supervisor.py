"""Keep the processes of one machine running: the launcher of its room hosts, and its gateways.

`verani serve --hosts N` and `verani join` run it. What the processes do is their business; code of the user is never
imported here, an import check does that first in a process of its own.

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
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import msgspec

from verani.errors import SettingsError
from verani.settings import Settings
from verani_actors.admin_port import resolve
from verani_actors.launcher import ENDED, ENDING
from verani_actors.runtime import DEFAULT_ADMIN_PORT, Plan, Runtime
from verani_actors.start import Stopped, unless_stopped

from .access import is_loopback
from .config import ADMIN_TOKEN, CLUSTER_SECRET, RPC_TOKEN, Secrets, check
from .early import stop_signals
from .family import adopt_orphans, kill_children, reap
from .folder import runtime_folder
from .internal import check_tokens
from .loading import Served
from .loop import run_loop
from .serve import announce, at_end_of_input
from .sockets import listen_unix, reserve, unix_url, urls

__all__ = [
    "ASIDE",
    "BEATS",
    "DRAINED",
    "NO",
    "READY",
    "STOP",
    "WAITING",
    "YES",
    "Keeper",
    "check_shape",
    "leader_address",
    "supervise",
]

logger = logging.getLogger(__name__)

# What a gateway says on its standard input, which is a socket, again and again: that it takes connections and serves
# them, that it takes them but they would have to wait, that it takes none; and once, that all are to stop.
READY: Final = b"ready\n"
WAITING: Final = b"waiting\n"
ASIDE: Final = b"aside\n"
STOP: Final = b"stop\n"
# What it is told there: whether all are ready.
YES: Final = b"1"
NO: Final = b"0"

# Exit code of a gateway that an operator has drained: it is not to be started again, as any other is that ends.
DRAINED: Final = 3

# Seconds that importing the targets may take.
_IMPORT_PATIENCE: Final = 30.0

# How much longer than its drain a process may take to stop before it is killed.
_STOP_GRACE: Final = 12.0

# Delays before a process that goes on ending is started again; one that ran for a while begins anew.
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 10.0
_RAN_WELL: Final = 60.0

# Looks at the processes in one lease; one that has said nothing at so many of them is not ready.
BEATS: Final = 6
# Seconds of looks at which a process that has hung is killed, or `hook_blocked` where that is longer: code of users may
# block a gateway, and creating an actor holds up the launcher for five.
_HUNG: Final = 10.0

# More than a process that hangs may leave unread, in bytes.
_UNREAD: Final = 1024

# How often the runtime folder is looked at for the first epoch.
_LOOK: Final = 0.02

_decode_served = msgspec.json.Decoder(list[Served]).decode


def check_shape(settings: Settings, secrets: Secrets, *, leader: str) -> None:
    """Refuse what cannot work before anything starts; raises `SettingsError`."""
    check(settings)
    if settings.gateways:
        check_tokens(settings, secrets)
    if not settings.hosts and not leader:
        raise SettingsError(
            f"hosts 0 keeps the rooms in the one gateway process: expected --hosts of at least 1 with"
            f" --gateways {settings.gateways}"
        )
    if not settings.hosts and not settings.gateways:
        raise SettingsError("expected --hosts or --gateways of at least 1, got 0 of both")
    if (leader or not is_loopback(settings.advertise)) and secrets.cluster_secret is None:
        raise SettingsError(f"a service on several machines needs one secret: expected {CLUSTER_SECRET} to be set")
    if leader and is_loopback(settings.advertise):
        raise SettingsError(
            f"the other machines cannot reach this one at {settings.advertise}: expected --advertise with an address"
            " that they can reach"
        )


def leader_address(text: str) -> str:
    """Read HOST or HOST:PORT, the port being that of the leader's actor system; raises `SettingsError`."""
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, str(DEFAULT_ADMIN_PORT)
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or (":" in bare and bare == host) or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SettingsError(f"expected the leader as HOST or HOST:PORT, got {text!r}")
    return f"{host}:{port}"


def supervise(
    targets: Sequence[str], settings: Settings, secrets: Secrets, *, leader: str = "", until_eof: bool = False
) -> int:
    """Run the service until SIGTERM, SIGINT or SIGHUP, or its failure to start, and return the exit code.

    With `until_eof` the end of standard input stops it too. A second signal ends everything at once.
    """
    check_shape(settings, secrets, leader=leader)
    return run_loop(_Supervisor(targets, settings, secrets, leader, until_eof).run(), asyncio.new_event_loop)


class Keeper:
    """Keeps one process running: whenever it ends unasked it is started again, at once and then more and more slowly.

    `heard` is called with each line that the process writes to its standard input, a socket pair, whose end tells it
    that this process is gone. An operator may ask it to end: with the exit code `last` it is not started again. A new
    process gets the descriptors that are `inherited`, and is told `greeting` first.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        heard: Callable[[bytes], None],
        last: int | None = None,
        greeting: Callable[[], bytes] = bytes,
        inherited: Sequence[int] = (),
    ) -> None:
        self.name = name
        # What the process of now said last, and how often it was looked at since.
        self.said = b""
        self.misses = 0
        self._greeting = greeting
        self._inherited = inherited
        self._writer: asyncio.StreamWriter | None = None
        self._last = last
        # Set by whoever knows; an ending before it is not retried where the exit code says that it told why.
        self.was_ready = False
        self._command = command
        self._environ = environ
        self._heard = heard
        self._process: Process | None = None
        self._pid = 0
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Id of the process that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> int:
        """Return the exit code of a process that is not started again."""
        delay = 0.0
        while True:
            began = time.monotonic()
            try:
                code = await self._run_once()
            except OSError as error:  # no more processes, memory or files
                if self._stopping.is_set():
                    return 1
                delay = min(_LONGEST_DELAY, max(_FIRST_DELAY, 2 * delay))
                logger.error("%s cannot be started: %s; trying again in %g s", self.name, error, delay)
                if await self._stops_within(delay):
                    return 1
                continue
            if code == self._last:
                return 0
            if self._stopping.is_set():
                return code
            if not self.was_ready and code in (1, 2):  # it has written a sentence that says why it cannot run
                return code
            delay = 0.0 if time.monotonic() - began > _RAN_WELL else delay
            after = f" in {delay:g} s" if delay else ""
            logger.error("%s (pid %d) ended with %s: starting it again%s", self.name, self._pid, _ending(code), after)
            if delay and await self._stops_within(delay):
                return code
            delay = min(_LONGEST_DELAY, max(_FIRST_DELAY, 2 * delay))

    async def _stops_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _run_once(self) -> int:
        ours, theirs = socket.socketpair()
        try:
            # A process group of its own keeps the terminal's Ctrl-C from it.
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command, stdin=theirs.fileno(), env=self._environ, process_group=0, pass_fds=self._inherited
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._pid = process.pid
        if self._stopping.is_set():  # since it was decided to start it
            self.send(signal.SIGTERM)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        self._writer = writer
        self.tell(self._greeting())
        listening = asyncio.create_task(self._listen(reader))
        try:
            return await process.wait()
        finally:
            listening.cancel()
            writer.close()
            self._writer = None
            self.said = b""

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError, ValueError):  # a line without end: nobody of ours
            async for line in reader:
                self.said, self.misses = line, 0
                self._heard(line)

    def tell(self, word: bytes) -> None:
        """Say something to the process, unless it reads nothing."""
        if self._writer is not None and self._writer.transport.get_write_buffer_size() < _UNREAD:
            self._writer.write(word)

    def look(self, patience: float) -> None:
        """Kill the process if it was looked at so often since it said something; who says nothing at all may go on."""
        if not self.said or self.said == ENDING or self._stopping.is_set():
            return
        self.misses += 1
        if self.misses > patience and self._process is not None and self._process.returncode is None:
            logger.error("%s (pid %d) hangs: killing it", self.name, self._pid)
            self.misses = 0
            self._process.kill()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs, and start it no more."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


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
        # What all gateways listen on, where that is a Unix socket: such sockets cannot share an address.
        self._unix: socket.socket | None = None
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
                code, served = await unless_stopped(self._stop, self._prepare(held))
            except Stopped:
                logger.info("stopped before anything was started")
                return 0
            if code:
                return code
            runtime = held.enter_context(runtime_folder())
            self._folder = runtime.folder
            held.callback(kill_children)  # before the folder is removed
            runtime.write_plan(self._plan(served))
            return await self._serve(runtime, served)

    async def _prepare(self, held: ExitStack) -> tuple[int, list[Served]]:
        """Find what may keep the service from starting; returns an exit code, 0 if all is well, and what it serves."""
        if self._settings.gateways:
            self._settings, kept = await reserve(self._settings)
            for each in kept:
                held.enter_context(each)
            if self._settings.unix_socket is not None:
                self._unix = held.enter_context(listen_unix(self._settings.unix_socket))
        # In a thread: a name server may take many seconds to say nothing.
        self._address = await asyncio.to_thread(resolve, self._settings.advertise)
        return await self._check_imports()

    def _on_signal(self, number: signal.Signals) -> None:
        """Stop at the first signal; end everything at the second."""
        if self._stop.is_set():
            kill_children()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(128 + number)
        self._stop.set()

    # --- before the start ------------------------------------------------------------------------------

    async def _check_imports(self) -> tuple[int, list[Served]]:
        """Have the targets imported elsewhere; returns an exit code, 0 if all is well, and what they serve."""
        process = await asyncio.create_subprocess_exec(
            *_command("definitions", *self._targets), stdout=PIPE, stdin=asyncio.subprocess.DEVNULL, process_group=0
        )
        try:
            async with asyncio.timeout(_IMPORT_PATIENCE):
                output, _ = await process.communicate()
        except TimeoutError:
            raise SettingsError(
                f"importing {', '.join(self._targets)} did not end within {_IMPORT_PATIENCE:g} s"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode in (1, 2):  # it has said why
            return process.returncode, []
        if process.returncode != 0:
            raise SettingsError(f"importing {', '.join(self._targets)} ended with {_ending(process.returncode or 0)}")
        return 0, _decode_served(output)

    def _plan(self, served: Sequence[Served]) -> Plan:
        settings = self._settings
        return Plan(
            settings=settings,
            definitions=tuple(each.address for each in served),
            directory=str(Path.cwd()),
            machine=settings.machine or socket.gethostname(),
            address=self._address,
            leader=self._leader,
        )

    # --- serving ---------------------------------------------------------------------------------------

    async def _serve(self, runtime: Runtime, served: Sequence[Served]) -> int:
        # What the launcher and its hosts need not know: the tokens are the gateways' business.
        tokens = {f"{variable}{suffix}" for variable in (RPC_TOKEN, ADMIN_TOKEN) for suffix in ("", "_FILE")}
        environ = {name: value for name, value in self._environ.items() if name not in tokens}
        launcher = Keeper(
            "the launcher",
            [sys.executable, "-m", "verani_actors.launcher", str(runtime.folder)],
            environ,
            heard=lambda line: None,
            last=ENDED,
        )
        self._gateways = [self._gateway(runtime, number) for number in range(self._settings.gateways)]
        running = {asyncio.create_task(keeper.run()): keeper for keeper in (launcher, *self._gateways)}
        launched = next(task for task, keeper in running.items() if keeper is launcher)
        stopped = asyncio.create_task(self._stop.wait())
        ready = asyncio.create_task(self._wait_until_ready(runtime, launcher))
        watching = asyncio.create_task(self._watch(runtime, (launcher, *self._gateways)))
        failed = 0
        try:
            waiting: set[asyncio.Task[object]] = {stopped, ready, watching, *running}
            # The launcher ends when the registrar says that the whole service does.
            while not (stopped.done() or failed or launched.done()):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if ready in done:
                    self._announce(served)
                failed = next((task.result() for task in (watching, *running) if task in done and task.result()), 0)
        finally:
            for task in (ready, stopped, watching):
                task.cancel()
        # They refuse whoever comes from now on.
        self._tell_gateways(NO)
        if not failed:
            logger.info("stopping: draining connections for up to %g s", self._settings.drain_seconds)
        if self._unix is not None:
            self._unix.close()  # or who comes when the gateways are gone would wait for the launcher, too
        await self._end({task: keeper for task, keeper in running.items() if keeper is not launcher})
        if self._ends_service and not self._leader and not is_loopback(self._settings.advertise):
            # Its registrar tells the other machines, and then the launcher, once no host has a room any more.
            await asyncio.wait({launched}, timeout=self._settings.drain_seconds)
        await self._end({task: keeper for task, keeper in running.items() if keeper is launcher})
        if not failed:
            logger.info("stopped")
        return failed

    def _gateway(self, runtime: Runtime, number: int) -> Keeper:
        def heard(line: bytes) -> None:
            if line == STOP:
                self._ends_service = True
                self._stop.set()
                return
            keeper.was_ready = keeper.was_ready or line in (READY, WAITING)
            if all(each.said == READY for each in self._gateways):
                self._all_ready.set()
            if self._word_for_all() != self._word:
                self._tell_gateways(self._word_for_all())

        inherited = () if self._unix is None else (self._unix.fileno(),)
        options = [word for descriptor in inherited for word in ("--inherited", str(descriptor))]
        keeper = Keeper(
            f"gateway process {number + 1}",
            _command("gateway", str(runtime.folder), *options, *self._targets),
            self._environ,
            heard=heard,
            last=DRAINED,
            greeting=lambda: self._word,
            inherited=inherited,
        )
        return keeper

    def _word_for_all(self) -> bytes:
        """Say whether whoever connects now is served, whichever gateway takes the connection."""
        listening = [each for each in self._gateways if each.said in (READY, WAITING)]
        ready = all(each.said == READY and each.misses < BEATS for each in listening)
        return YES if self._all_ready.is_set() and listening and ready else NO

    def _tell_gateways(self, word: bytes) -> None:
        self._word = word
        for keeper in self._gateways:
            keeper.tell(word)

    async def _watch(self, runtime: Runtime, keepers: Sequence[Keeper]) -> int:
        """Look after the processes, and their folder; returns the exit code where nothing can be mended any more."""
        period = self._settings.lease / BEATS
        patience = max(_HUNG, self._settings.hook_blocked) / period
        while runtime.is_whole:
            for keeper in keepers:
                keeper.look(patience)
            self._tell_gateways(self._word_for_all())
            await asyncio.sleep(period)
        logger.error("somebody has deleted %s, without which no process can be replaced: ending", runtime.folder)
        return 1

    async def _wait_until_ready(self, runtime: Runtime, launcher: Keeper) -> None:
        """Return once there is an epoch with hosts of this machine, if it is to have any, and its gateways listen."""
        while not self._is_served(runtime):  # noqa: ASYNC110  # the launcher replaces a file, which nothing waits for
            await asyncio.sleep(_LOOK)
        launcher.was_ready = True
        if self._settings.gateways:
            await self._all_ready.wait()

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


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "verani_gateway", *words]


def _ending(code: int) -> str:
    if code == 0:
        return "exit code 0, though nobody of this service has asked it to"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
