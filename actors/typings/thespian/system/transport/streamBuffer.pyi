# Only what `verani_actors` uses of Thespian 4.0.1.

from collections.abc import Callable
from typing import Any

ackPacket: str
ackDataErrPacket: str

def toSendBuffer(A: object, ser: Callable[[object], bytes] = ...) -> bytes: ...

class ReceiveBuffer:
    _buf: bytes
    _size: int | None
    def __init__(self, serializer: Callable[[bytes], Any] = ...) -> None: ...
    def addMore(self, buf: bytes) -> None: ...
    def isDone(self) -> bool: ...
    def completed(self) -> Any: ...
