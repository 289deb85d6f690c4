"""Make Thespian's `multiprocTCPBase` safe to run: `harden` changes Thespian in this process and all forked from it.

As it comes, every process of it unpickles what anybody sends to its ports, on all interfaces; a wrong length kills it;
it logs to a file in the temporary folder, and its children outlive it. Here:

1. A byte reaches `pickle` only if it came with an HMAC-SHA256 of the cluster secret. There is no secrecy and no
   protection against what is sent again.
2. Messages are bounded, and a malformed one costs its sender the connection, nothing else.
3. Sockets are bound to the advertised address only.
4. Every process logs through the handlers of the launcher's root logger; there is no file, and floods are cut. What is
   refused is counted, and logged once a minute.
5. The Admin is a child of the launcher (no double fork), so that it can be tied to it
   (`verani_actors.upkeep.lifeline`).
6. The Admin passes control messages on to the registrar, so one fixed address finds it from every machine. It answers
   the launcher's probes, too, and tells it how processes have ended.

All this depends on Thespian's insides, so any other version is refused. `verani_actors.processes.environment` comes
first.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, Final

from thespian.actors import ActorAddress, ActorSystem, WatchMessage
from thespian.system import multiprocCommon, systemBase
from thespian.system.messages.admin import SystemShutdown
from thespian.system.multiprocTCPBase import ActorSystemBase
from thespian.system.transport import ReceiveEnvelope, TransmitIntent, asyncTransportBase
from thespian.system.transport import TCPTransport as tcp
from thespian.system.transport.IPBase import IPActorAddress, TCPv4ActorAddress, thisSystem
from thespian.system.transport.streamBuffer import ackDataErrPacket, ackPacket, toSendBuffer

from verani.errors import VeraniError
from verani.settings import LogFormat

from ..membership.control import REGISTRAR
from ..upkeep.lifeline import tell_of_end
from ..upkeep.logs import is_no_banner
from .environment import MAX_PENDING_TRANSMITS
from .parcel import Parcel, Probe
from .seal import BoundedBuffer, Seal
from .thespian_log import ThespianLog
from .transport import Transport

__all__ = [
    "HardenedBase",
    "HardeningError",
    "actor_address",
    "cluster_secret",
    "harden",
    "start",
]

logger = logging.getLogger(__name__)

VERSION: Final = "4.0.1"
_INCOMING_PERIOD: Final = timedelta(seconds=30)
_BACKLOG: Final = 512
# An actor takes 15 ms to create; the launcher does nothing else meanwhile.
_CREATION: Final = timedelta(seconds=5)

_secret = b""


class HardeningError(VeraniError):
    """Thespian is not the one that this module was made for."""


class Admin(multiprocCommon.MultiProcAdmin):
    """Thespian's Admin, which passes control messages on to the registrar of its machine."""

    _registrar: ActorAddress | None = None

    @property
    def logDefs(self) -> dict[str, Any] | None:
        """What Thespian looks for when its logger has died, and misses: it is called `logdefs` elsewhere."""
        return self.logdefs

    def handleIncoming(self, envelope: ReceiveEnvelope) -> bool:
        if isinstance(envelope.message, Probe):
            self._send_intent(TransmitIntent(envelope.sender, envelope.message))
            return True
        if not isinstance(envelope.message, Parcel):
            return super().handleIncoming(envelope)
        if envelope.message.sender == REGISTRAR:
            self._registrar = envelope.sender
        elif self._registrar is not None:
            self._send_intent(TransmitIntent(self._registrar, envelope.message))
        return True

    @staticmethod
    def _checkChildLiveness(childInfo: multiprocCommon.ChildInfo) -> bool:
        if multiprocCommon.MultiProcReplicator._checkChildLiveness(childInfo):
            return True
        tell_of_end(childInfo.childProc.pid, childInfo.childProc.exitcode)
        return False


class HardenedBase(ActorSystemBase):
    """The launcher's end of the actor system; every method is called on its one thread."""

    transportType = Transport

    def _startAdmin(self, *args: Any) -> None:
        global _starter
        _starter = self.transport
        super()._startAdmin(*args)

    @property
    def address(self) -> ActorAddress:
        """Where the launcher itself is reached."""
        return self.transport.myAddress

    def post(self, address: ActorAddress, message: object) -> None:
        """Send without waiting; what cannot be delivered is dropped."""
        self.transport.scheduleTransmit(None, TransmitIntent(address, message))

    def watch(self, descriptors: list[int]) -> None:
        """Have `receive` return, too, when one of these is readable."""
        self.transport.set_watch(descriptors)

    def receive(self, seconds: float) -> tuple[object, ActorAddress] | list[int] | None:
        """Return the next message and its sender, or descriptors that are readable, or None after so many seconds."""
        result = self._run_transport(timedelta(seconds=seconds))
        if not isinstance(result, ReceiveEnvelope):
            return None
        if isinstance(result.message, WatchMessage):
            return list(result.message.ready)
        return result.message, result.sender

    def begin_shutdown(self) -> None:
        """Ask the Admin to end every actor and itself."""
        self.post(self.adminAddr, SystemShutdown())


def harden(secret: bytes) -> None:
    """Change Thespian in this process, once, before anything of it starts; logging is set up already."""
    global _secret
    _check()
    _secret = secret
    seal = Seal(secret)
    tcp.serializer = seal
    tcp.ReceiveBuffer = BoundedBuffer  # type: ignore[misc]  # looked up again at each use
    tcp.ackMsg = toSendBuffer(ackPacket, seal.dumps)
    tcp.ackDataErrMsg = toSendBuffer(ackDataErrPacket, seal.dumps)
    tcp.MAX_INCOMING_SOCKET_PERIOD = _INCOMING_PERIOD
    tcp.LISTEN_DEPTH = _BACKLOG
    systemBase.MAX_CHILD_ACTOR_CREATE_DELAY = _CREATION
    IPActorAddress.bindArgs = property(lambda self: (self.sockname,))
    multiprocCommon.MultiProcAdmin = Admin  # type: ignore[misc]  # looked up again at each use
    multiprocCommon.startAdmin = _start_admin
    _redirect_logs()


def cluster_secret() -> bytes:
    """Return the secret that this process was forked with: it is in no environment and on no disk."""
    return _secret


def start(capabilities: Mapping[str, object], level: str, log_format: LogFormat) -> tuple[HardenedBase, ActorSystem]:
    """Start Admin and logger."""
    base = HardenedBase(SimpleNamespace(capabilities=dict(capabilities)), _logger_definitions(level, log_format))
    return base, ActorSystem(systemBase=base, transientUnique=True)


def actor_address(host: str, port: int) -> ActorAddress:
    """Make the address of an Admin on another machine."""
    return ActorAddress(TCPv4ActorAddress(host, port, external=True))


def _check() -> None:
    if (found := version("thespian")) != VERSION:
        raise HardeningError(f"expected Thespian {VERSION}, whose insides are known, got {found}")
    if asyncTransportBase.MAX_PENDING_TRANSMITS != MAX_PENDING_TRANSMITS:
        raise HardeningError("expected Thespian's environment to be set before Thespian is imported")
    thisSystem.add_local_addr(os.environ["THESPIAN_BASE_IPADDR"])


def _redirect_logs() -> None:
    """Keep the root logger, which Thespian replaces in each of its processes, and replace its own log."""
    root = logging.root
    multiprocCommon.ThespianLogForwarder = lambda *_, **__: root
    original, log = multiprocCommon.thesplog, ThespianLog()
    for name, module in list(sys.modules.items()):
        if name.startswith("thespian.") and getattr(module, "thesplog", None) is original:
            module.thesplog = log  # type: ignore[attr-defined]  # any module of Thespian


def _logger_definitions(level: str, log_format: LogFormat) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"stderr": {"()": "verani_actors.upkeep.logs.stderr_handler", "log_format": log_format}},
        "root": {"level": level.upper(), "handlers": ["stderr"], "filters": [is_no_banner]},
    }


# The launcher's transport, as the Admin inherits it.
_starter: tcp.TCPTransport | None = None
_start_admin_of_thespian = multiprocCommon.startAdmin


def _start_admin(*args: Any) -> None:
    """Run the Admin in this very child: the first fork it tries, to leave its parent, is none."""
    if _starter is not None:
        _starter.socket.close()
    fork = os.fork

    def no_fork() -> int:
        os.fork = fork
        return 0

    os.fork = no_fork
    _start_admin_of_thespian(*args)
