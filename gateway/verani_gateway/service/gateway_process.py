"""Be one of the gateway processes that share the ports of a service: `verani gateway`, which the supervisor starts.

It says on its standard input, a socket, what it does, is told there whether all are ready, and stops when the other end
is gone. The log says nothing of addresses: the supervisor does, once for all.

Invariant: it takes connections of clients only while it can serve them; others wait for it, or for another process. One
that ends takes none any more first, and where there are no others, nobody says that the service is ready.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from verani_actors.links.tls import client_context
from verani_actors.operating.answers import ALL, GatewayStatus, gateway_target
from verani_actors.processes.starter import ENDING
from verani_actors.upkeep.code_check import CodeCheck
from verani_actors.upkeep.ending import Stopped, unless_stopped
from verani_actors.upkeep.fresh import import_from_source
from verani_actors.upkeep.lifeline import die_with_parent
from verani_actors.upkeep.logs import name_process
from verani_actors.upkeep.memory import quieten_collector
from verani_actors.upkeep.runtime import Plan, Runtime

from ..application import GATEWAY
from ..config import Secrets
from ..gateway import Gateway
from ..operating.inquiry import Inquiry
from ..operating.overview import Overview
from ..operating.own_answers import answer
from ..placement.epoch_file import EpochFile
from ..placement.hosts import Cluster
from ..placement.peers import remote_links
from .gateway_logs import set_up_logging
from .keeper import ASIDE, BEATS, DRAINED, LEAVE, NO, READY, RESTART, STOP, WAITING, YES
from .listeners import Listeners
from .loading import load_application, with_addresses
from .loop import at_end_of_input, fastest_loop, run_loop
from .signals import stopping
from .sockets import Sockets

__all__ = ["run_gateway"]

logger = logging.getLogger(__name__)

# How often the gateway is asked whether it takes connections, in seconds.
_LOOK: Final = 0.02


def run_gateway(folder: str, targets: Sequence[str], secrets: Secrets) -> int:
    """Serve the targets in this process, their rooms in those that the runtime folder tells of.

    Returns the exit code: `DRAINED` if an operator wanted this gateway to go for good.
    """
    die_with_parent(os.getppid())
    runtime = Runtime(folder)
    plan = runtime.read_plan()
    sockets = Sockets.inherited(*plan.listeners)
    set_up_logging(plan.settings)
    import_from_source(plan.directory)
    application = load_application(targets, plan.settings)
    gateway = application[GATEWAY]
    if not plan.definitions:  # this is the first process that imports them
        _tell(msgspec.json.encode(with_addresses(gateway, targets)) + b"\n")
    if not plan.settings.gateways:
        signal.pause()  # until it is killed, now that all is said
    ssl = None
    if plan.spans_machines:
        assert secrets.cluster_secret is not None, "the supervisor hands it over"
        ssl = client_context(plan.settings, secrets.cluster_secret.encode())
    cluster = Cluster(remote_links(plan.machine, ssl), epochs=EpochFile(runtime))
    name_process(gateway_target(gateway.id))
    gateway.place(cluster)
    process = _Process(runtime, plan, gateway, cluster)
    cluster.inquiry = process.inquiry
    listeners = Listeners(application, plan.settings, secrets, answers=process.overview, sockets=sockets)
    return run_loop(process.serve(listeners), fastest_loop)


class _Process:
    """One gateway process: what it says of itself, and how it ends."""

    def __init__(self, runtime: Runtime, plan: Plan, gateway: Gateway, cluster: Cluster) -> None:
        self.inquiry = Inquiry(gateway.id, cluster, self._answer)
        self.overview = Overview(gateway.id, cluster, self.inquiry, ready=self._is_ready)
        self._runtime = runtime
        self._plan = plan
        self._check = CodeCheck(plan)
        self._listens = False
        # Whether all were ready when the supervisor said so last.
        self._told = False
        self._told_at = time.monotonic()
        self._gateway = gateway
        self._cluster = cluster
        self._stop = asyncio.Event()
        # Whether an operator wants it to go for good.
        self._drained = False
        # Whether others go on who answer for the service.
        self._leaves = False
        # Whether another process is to take the place of this one, and why that has failed last.
        self._restarting = False
        self._problem = ""

    async def serve(self, listeners: Listeners) -> int:
        """Serve until told to stop, by a signal, the end of standard input or an operator; return the exit code."""
        with stopping(self._stop.set) as signals:
            os.set_blocking(sys.stdin.fileno(), False)  # for who hangs at its other end
            at_end_of_input(self._stop.set, self._hear)
            # One that comes later has nothing to say to operators and callers before it reaches the hosts.
            comes_later = self._runtime.served_file.exists()
            try:
                await unless_stopped(self._stop, self._start(listeners, comes_later))
            except Stopped:
                return 0
            signals.started()
            quieten_collector()
            telling = asyncio.create_task(self._listen_and_tell(listeners, comes_later))
            stopped = asyncio.create_task(self._stop.wait())
            await asyncio.wait((telling, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if telling.done():
                telling.result()  # the port could not be listened on
            if self._listens and (self._told or self._leaves):
                self._listens = False
                await listeners.leave(internal=self._leaves)
            await listeners.stop()
            telling.cancel()
            _tell(ENDING)
        return DRAINED if self._drained else 0

    async def _start(self, listeners: Listeners, comes_later: bool) -> None:
        await listeners.set_up()
        if not comes_later:
            await listeners.open_internal()

    async def _listen_and_tell(self, listeners: Listeners, comes_later: bool) -> None:
        """Listen as soon as the gateway takes connections, and say all the time what it does."""
        while not self._gateway.accepting:
            _tell(ASIDE)
            await asyncio.sleep(_LOOK)
        await listeners.open_public()
        if comes_later:
            await listeners.open_internal()
        self._listens = True
        logger.info("takes connections")
        while True:
            if self._listens:
                _tell(READY if self._gateway.serves else WAITING)
            else:
                _tell(ASIDE)
            await asyncio.sleep(self._plan.settings.lease / BEATS)

    def _hear(self, words: bytes) -> None:
        """Take what the supervisor says, in whole lines."""
        for word in words.splitlines(keepends=True):
            if word in (YES, NO):
                self._told, self._told_at = word == YES, time.monotonic()
            elif word == LEAVE:
                self._leaves = True
                self._stop.set()
            else:
                self._restarting, self._problem = False, word.decode().strip()

    def _is_ready(self) -> bool:
        """Tell whether whoever connects to this machine now is served, whichever process takes the connection."""
        is_fresh = time.monotonic() - self._told_at < self._plan.settings.lease
        return self._told and is_fresh and (self._gateway.serves or not self._listens)

    def _answer(self, topic: str, argument: str) -> bytes:
        match topic, argument:
            case "drain", target if target == gateway_target(self._gateway.id):
                logger.info("draining")
                self._drained = self._leaves = True
                self._stop.set()
                return b"true"
            case "drain", target if target == ALL:
                _tell(STOP)
                return b"true"
            case "check" | "checked" | "restart", target if target == gateway_target(self._gateway.id):
                return self._restart(topic)
            case "quarantine", _:
                return msgspec.json.encode(self._cluster.suspects.listed())
            case _:
                return answer(topic, argument, self._gateway, self._status)

    def _restart(self, topic: str) -> bytes:
        match topic:
            case "check":
                self._check.begin()
            case "checked":
                return msgspec.json.encode(self._check.verdict)
            case _:
                logger.info("waiting for the process that is to take the place of this one")
                self._check.take_over(self._runtime)
                self._restarting, self._problem = True, ""
                _tell(RESTART)
        return b"true"

    def _status(self) -> GatewayStatus:
        return GatewayStatus(
            id=self._gateway.id,
            machine=self._plan.machine,
            pid=os.getpid(),
            epoch=self._cluster.epoch.number,
            connections=len(self._gateway.connections),
            links={link.member.id: link.state for link in self._cluster.links},
            draining=self._stop.is_set(),
            restarting=self._restarting,
            problem=self._problem,
        )


def _tell(line: bytes) -> None:
    """Say something to the supervisor."""
    with suppress(OSError):  # it is gone, and this process about to end
        os.write(sys.stdin.fileno(), line)
