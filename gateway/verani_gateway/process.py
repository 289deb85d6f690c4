"""Be one of the gateway processes that share the ports of a service: `verani gateway`, which the supervisor starts.

It says on its standard input, a socket, when it takes connections, and stops when the other end is gone. The log says
nothing of addresses: the supervisor does, once for all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from verani_actors.collector import quieten_collector
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
from .supervisor import DRAINED, READY, STOP

__all__ = ["run_gateway"]

logger = logging.getLogger(__name__)

# How often the gateway is asked whether it takes connections, in seconds.
_LOOK: Final = 0.01


def run_gateway(folder: str, targets: Sequence[str], secrets: Secrets) -> int:
    """Serve the targets in this process, their rooms in those that the runtime folder tells of.

    Returns the exit code: `DRAINED` if an operator wanted this gateway to go for good.
    """
    die_with_parent(os.getppid())
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
    service = Service(application, plan.settings, secrets, answers=process.overview, shared=True)
    return run_loop(process.serve(service), fastest_loop)


class _Process:
    """One gateway process: what it says of itself, and how it ends."""

    def __init__(self, plan: Plan, gateway: Gateway, cluster: Cluster) -> None:
        self.overview = Overview(gateway.id, cluster, self._answer)
        self._plan = plan
        self._gateway = gateway
        self._cluster = cluster
        self._stop = asyncio.Event()
        # Whether an operator wants it to go.
        self._drained = False

    async def serve(self, service: Service) -> int:
        """Serve until told to stop, by a signal, the end of standard input or an operator; return the exit code."""
        with stopping(self._stop.set) as signals:
            at_end_of_input(self._stop.set)
            try:
                await unless_stopped(self._stop, service.start())
            except Stopped:
                return 0
            signals.started()
            quieten_collector()
            telling = asyncio.create_task(self._tell_when_ready())
            await self._stop.wait()
            telling.cancel()
            await service.stop()
        return DRAINED if self._drained else 0

    async def _tell_when_ready(self) -> None:
        while not self._gateway.accepting:  # noqa: ASYNC110  # a plain attribute, which nothing waits for
            await asyncio.sleep(_LOOK)
        logger.info("takes connections")
        _tell(READY)

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
