# Only what `verani_actors` uses of Thespian 4.0.1.

from typing import Any

from thespian.actors import ActorAddress

class ReceiveEnvelope:
    sender: ActorAddress
    message: Any

class TransmitIntent:
    stage: int
    def __init__(self, targetAddr: ActorAddress, msg: object) -> None: ...
    def backoffPause(self, startPausing: bool = ...) -> object: ...
