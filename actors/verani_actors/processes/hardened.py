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
   the launcher's probes, too.

All this depends on Thespian's insides, so any other version is refused. `verani_actors.processes.environment` comes
first.
"""

from __future__ import annotations

import hmac
import logging
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Mapping
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
from thespian.system.transport.streamBuffer import ReceiveBuffer, ackDataErrPacket, ackPacket, toSendBuffer

from verani.errors import VeraniError

from ..membership.control import REGISTRAR
from ..upkeep.logs import is_no_banner
from ..upkeep.refusals import Refusals
from .environment import MAX_PENDING_TRANSMITS
from .parcel import Parcel, Probe

__all__ = [
    "LARGEST",
    "HardenedBase",
    "HardeningError",
    "Rejected",
    "Seal",
    "actor_address",
    "cluster_secret",
    "harden",
    "start",
]

logger = logging.getLogger(__name__)

VERSION: Final = "4.0.1"
# Bytes of one message, its MAC included. Control messages are far smaller.
LARGEST: Final = 1 << 20
# A length has at most 7 digits; Thespian reads 20 bytes at first.
_LONGEST_HEADER: Final = 8
_MAC: Final = 32
# Connections on which a message is under way; more are a flood, and the oldest goes.
_MOST_INCOMING: Final = 64
_INCOMING_PERIOD: Final = timedelta(seconds=30)
_BACKLOG: Final = 512
# An actor takes 15 ms to create; the launcher does nothing else meanwhile.
_CREATION: Final = timedelta(seconds=5)
# Lines of Thespian's own log within so many seconds; the rest is counted.
_LINES: Final = 20
_LINES_PERIOD: Final = 60.0
_PEER_IS_GONE: Final = ("Socket error sending", "Socket connect failure", "Socket Error waiting", "Remote %s closed")


_secret = b""
# Of this process; what it forks goes on counting from there.
_refusals = Refusals(logger, what="control message")


class HardeningError(VeraniError):
    """Thespian is not the one that this module was made for."""


class Rejected(Exception):
    """What came is malformed, too large or not authentic."""


class Seal:
    """Stand in for `pickle` at Thespian's transport: only what carries the MAC is unpickled."""

    def __init__(self, secret: bytes) -> None:
        # A key of its own: links make theirs from the same secret.
        self._key = hmac.digest(secret, b"verani control plane 1", "sha256")

    def dumps(self, message: object) -> bytes:
        """Pickle a message, with its MAC before it."""
        content = pickle.dumps(message)
        return self._mac(content) + content

    def loads(self, sealed: bytes) -> Any:
        """Unpickle a message if its MAC is right; `Rejected` otherwise."""
        content = sealed[_MAC:]
        if not hmac.compare_digest(sealed[:_MAC], self._mac(content)):
            raise Rejected("wrong cluster secret")
        return pickle.loads(content)

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")


class BoundedBuffer(ReceiveBuffer):
    """Refuse a length that is malformed or too large before anything is stored; `refused` says why a message was."""

    refused = ""

    def completed(self) -> Any:
        try:
            return super().completed()
        except Rejected as error:
            self.refused = str(error)
            raise

    def addMore(self, buf: bytes) -> None:
        if self._size is None:
            head, mark, _ = (self._buf + buf)[: _LONGEST_HEADER + 1].partition(b">")
            if mark:
                valid = head.isdigit() and int(head) <= LARGEST
            else:
                valid = len(head) < _LONGEST_HEADER and (not head or head.isdigit())
            if not valid:
                self.refused = "malformed or too large"
                raise Rejected(self.refused)
        super().addMore(buf)


class Transport(tcp.TCPTransport):
    """Thespian's TCP transport, which survives strangers."""

    def external_transport_clone(self) -> Transport:
        routed = isinstance(self.myAddress.addressDetails, tcp.RoutedTCPv4ActorAddress)
        return type(self)(tcp.ExternalTransportCopy(), self._adminAddr, self.txOnly, routed)

    def _acceptNewIncoming(self) -> None:
        if len(self._incomingSockets) >= _MOST_INCOMING:
            self._incomingSockets.pop(next(iter(self._incomingSockets))).close()
        super()._acceptNewIncoming()

    def _handleReadableIncoming(
        self, inc: tcp.TCPIncoming_Common, has_exclusive_flag: bool = False
    ) -> tcp.TCPIncoming_Common | None:
        peer = _peer(inc.socket)  # the socket is closed when a message was refused
        result = super()._handleReadableIncoming(inc, has_exclusive_flag)
        if inc._rData.refused:
            _refusals.add(inc._rData.refused, f"last from {peer}")
        return result

    def _check_XMIT_4_done(self, intent: TransmitIntent, rcv: bytes) -> bool:
        try:
            return super()._check_XMIT_4_done(intent, rcv)
        except Rejected:
            # What listens there now is not who was meant: Thespian would lose count of its sends.
            intent.backoffPause(True)
            intent.stage = self._XMITStepRetry
            return self._nextTransmitStep(intent)


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


def _peer(connection: socket.socket) -> str:
    """Return the address of the other side, as far as it is known still."""
    try:
        return str(connection.getpeername()[0])
    except OSError:
        return "somebody who has gone"


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


class _Log:
    """Take the place of `thesplog`: Thespian's own log lines, to our handlers, at most so many a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._lines = 0
        # Not known to any manager: Thespian replaces them, and its forwarder must never get these lines.
        self._logger = logging.Logger("thespian", logging.root.level)
        self._logger.handlers = logging.getLogger().handlers

    def __call__(self, text: str, *args: object, level: int = logging.INFO, **_: object) -> None:
        if level < logging.WARNING or isinstance(sys.exc_info()[1], Rejected):  # the transport counts what is refused
            return
        # Processes end and machines go; what that means is said by those who know. The rest is no error of ours.
        is_news = level > logging.WARNING and not text.startswith(_PEER_IS_GONE)
        level = logging.WARNING if is_news else logging.DEBUG
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock()
        if now - self._begun >= _LINES_PERIOD:
            if self._lines > _LINES:
                self._logger.warning("%d lines of Thespian's log were left out", self._lines - _LINES)
            self._begun, self._lines = now, 0
        self._lines += 1
        if self._lines <= _LINES:
            self._logger.log(level, text, *args)


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


def start(capabilities: Mapping[str, object], level: str) -> tuple[HardenedBase, ActorSystem]:
    """Start Admin and logger."""
    base = HardenedBase(SimpleNamespace(capabilities=dict(capabilities)), _logger_definitions(level))
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
    original, log = multiprocCommon.thesplog, _Log()
    for name, module in list(sys.modules.items()):
        if name.startswith("thespian.") and getattr(module, "thesplog", None) is original:
            module.thesplog = log  # type: ignore[attr-defined]  # any module of Thespian


def _logger_definitions(level: str) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"verani": {"()": "verani_actors.upkeep.logs.Formatter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "verani"}},
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
