# Only the names used here, as picows 2.3 has them: types are checked where it is not installed, too.

import asyncio
from collections.abc import Callable
from enum import Enum

class WSMsgType(Enum):
    TEXT = 1

class WSUpgradeRequest:
    path: bytes

class WSFrame:
    @property
    def msg_type(self) -> WSMsgType: ...
    def get_payload_as_bytes(self) -> bytes: ...

class WSTransport:
    def send(self, msg_type: WSMsgType, message: bytes) -> None: ...

class WSListener:
    def on_ws_connected(self, transport: WSTransport) -> None: ...
    def on_ws_disconnected(self, transport: WSTransport) -> None: ...
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None: ...

async def ws_create_server(
    ws_listener_factory: Callable[[WSUpgradeRequest], WSListener], host: str, port: int, *, backlog: int
) -> asyncio.Server: ...
