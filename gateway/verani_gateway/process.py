"""Be one of the gateway processes that share the ports of a service: `verani gateway`, which the supervisor starts.

It says on its standard input, a socket, what it does, is told there whether all are ready, and stops when the other end
is gone. The log says nothing of addresses: the supervisor does, once for all.

Invariant: it listens on the public port only while it takes connections. One that ends leaves the port to the others
first, and where there are none, nobody says that the service is ready.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from verani_actors.collector import quieten_collector
from verani_actors.launcher import ENDING
from verani_actors.lifeline import die_with_parent
from verani_actors.logs import name_process
from verani_actors.overview import ALL, GatewayStatus, gateway_target
from verani_actors.runtime import Plan, Runtime
from verani_actors.start import Stopped, unless_stopped
from verani_actors.tls import client_context

from .application import GATEWAY
from .cluster import Cluster, remote_links
from .config import Secrets
from .epoch_file import EpochFile
from .gateway import Gateway
from .loading import load_application
from .logs import set_up_logging
from .loop import fastest_loop, run_loop
from .overview import Overview, answer
from .serve import Service, at_end_of_input
from .signals import stopping
from .supervisor import ASIDE, BEATS, DRAINED, READY, STOP, WAITING, YES

__all__ = ["run_gateway"]

logger = logging.getLogger(__name__)

# How often the gateway is asked whether it takes connections, in seconds.
_LOOK: Final = 0.02


def run_gateway(folder: str, targets: Sequence[str], secrets: Secrets, *, inherited: int | None = None) -> int:
    """Serve the targets in this process, their rooms in those that the runtime folder tells of.

    `inherited` is the descriptor of the Unix socket that all gateways of the service listen on, if they do. Returns
    the exit code: `DRAINED` if an operator wanted this gateway to go for good.
    """
    die_with_parent(os.getppid())
    listening = None if inherited is None else socket.socket(fileno=inherited)
    if listening is not None:
        listening.set_inheritable(False)  # by what the targets start
    runtime = Runtime(folder)
    plan = runtime.read_plan()
    set_up_logging(plan.settings)
    application = load_application(targets, plan.settings)
    ssl = None
    if plan.spans_machines:
        assert secrets.cluster_secret is not None, "the supervisor hands it over"
        ssl = client_context(plan.settings, secrets.cluster_secret.encode())
    cluster = Cluster(remote_links(plan.machine, ssl), epochs=EpochFile(runtime))
    gateway = application[GATEWAY]
    name_process(gateway_target(gateway.id))
    gateway.place(cluster)
    process = _Process(plan, gateway, cluster)
    cluster.overview = process.overview
    service = Service(application, plan.settings, secrets, answers=process.overview, shared=True, inherited=listening)
    return run_loop(process.serve(service), fastest_loop)


class _Process:
    """One gateway process: what it says of itself, and how it ends."""

    def __init__(self, plan: Plan, gateway: Gateway, cluster: Cluster) -> None:
        self.overview = Overview(gateway.id, cluster, self._answer, ready=self._is_ready)
        self._plan = plan
        self._listens = False
        # Whether all were ready when the supervisor said so last.
        self._told = False
        self._told_at = time.monotonic()
        self._gateway = gateway
        self._cluster = cluster
        self._stop = asyncio.Event()
        # Whether an operator wants it to go.
        self._drained = False

    async def serve(self, service: Service) -> int:
        """Serve until told to stop, by a signal, the end of standard input or an operator; return the exit code."""
        with stopping(self._stop.set) as signals:
            os.set_blocking(sys.stdin.fileno(), False)  # for who hangs at its other end
            at_end_of_input(self._stop.set, self._hear)
            try:
                await unless_stopped(self._stop, service.start())
            except Stopped:
                return 0
            signals.started()
            quieten_collector()
            telling = asyncio.create_task(self._listen_and_tell(service))
            stopped = asyncio.create_task(self._stop.wait())
            await asyncio.wait((telling, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if telling.done():
                telling.result()  # the port could not be listened on
            if self._listens and self._told:
                self._listens = False
                await service.leave()
            await service.stop()
            telling.cancel()
            _tell(ENDING)
        return DRAINED if self._drained else 0

    async def _listen_and_tell(self, service: Service) -> None:
        """Listen as soon as the gateway takes connections, and say all the time what it does."""
        while not self._gateway.accepting:
            _tell(ASIDE)
            await asyncio.sleep(_LOOK)
        await service.listen()
        self._listens = True
        logger.info("takes connections")
        while True:
            if self._listens:
                _tell(READY if self._gateway.serves else WAITING)
            else:
                _tell(ASIDE)
            await asyncio.sleep(self._plan.settings.lease / BEATS)

    def _hear(self, words: bytes) -> None:
        """Take what the supervisor says; the last word counts."""
        self._told, self._told_at = words.endswith(YES), time.monotonic()

    def _is_ready(self) -> bool:
        """Tell whether whoever connects to this machine now is served, whichever process takes the connection."""
        is_fresh = time.monotonic() - self._told_at < self._plan.settings.lease
        return self._told and is_fresh and (self._gateway.serves or not self._listens)

    def _answer(self, topic: str, argument: str) -> bytes:
        match topic, argument:
            case "drain", target if target == gateway_target(self._gateway.id):
                logger.info("draining")
                self._drained = True
                self._stop.set()
                return b"true"
            case "drain", target if target == ALL:
                _tell(STOP)
                return b"true"
            case "quarantine", _:
                return msgspec.json.encode(self._cluster.suspects.listed())
            case _:
                return answer(topic, argument, self._gateway, self._status)

    def _status(self) -> GatewayStatus:
        return GatewayStatus(
            id=self._gateway.id,
            machine=self._plan.machine,
            pid=os.getpid(),
            epoch=self._cluster.epoch.number,
            connections=len(self._gateway.connections),
            links={link.member.id: link.state for link in self._cluster.links},
            draining=self._stop.is_set(),
        )


def _tell(line: bytes) -> None:
    """Say something to the supervisor."""
    with suppress(OSError):  # it is gone, and this process about to end
        os.write(sys.stdin.fileno(), line)
