# Only what `verani_actors` uses of Thespian 4.0.1.

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from thespian.actors import ActorAddress
from thespian.system.transport import ReceiveEnvelope, TransmitIntent
from thespian.system.transport.TCPTransport import TCPTransport

# As it is once it was started and has ended.
class EndedProcess:
    pid: int
    exitcode: int

class ChildInfo:
    childProc: EndedProcess

class MultiProcReplicator:
    @staticmethod
    def _checkChildLiveness(childInfo: ChildInfo) -> bool: ...

class MultiProcAdmin(MultiProcReplicator):
    logdefs: dict[str, Any] | None
    def handleIncoming(self, envelope: ReceiveEnvelope) -> bool: ...
    def _send_intent(self, intent: TransmitIntent) -> None: ...

# Names that are replaced.
startAdmin: Callable[..., None]
ThespianLogForwarder: Callable[..., Any]
thesplog: Callable[..., None]

class multiprocessCommon:
    transport: TCPTransport
    adminAddr: ActorAddress
    def __init__(self, system: Any, logDefs: dict[str, Any] | None = ...) -> None: ...
    def _startAdmin(self, *args: Any) -> None: ...
    def _run_transport(self, maximumDuration: timedelta | None = ...) -> object: ...
