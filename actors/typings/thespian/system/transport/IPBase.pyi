# Only what `verani_actors` uses of Thespian 4.0.1.

from typing import Any

class ThisSystem:
    def add_local_addr(self, newaddr: str) -> None: ...

thisSystem: ThisSystem

class IPActorAddress:
    sockname: tuple[str, int]
    bindArgs: Any

class TCPv4ActorAddress(IPActorAddress):
    def __init__(self, initialIPAddr: str | None = ..., initialIPPort: int = ..., external: object = ...) -> None: ...
