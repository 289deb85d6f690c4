"""Which servers are measured, how each is started, and what it needs that may not be here."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from ..wires import FRAMES, SOCKET_IO, Wire

__all__ = ["BUN", "OURS", "PLAIN", "SERVERS", "Server", "event_loop"]

_FOLDER: Final = Path(__file__).parent
_MODULES: Final = _FOLDER / "node_modules"


@dataclass(frozen=True)
class Server:
    """One server under load.

    `share` is which part of the load it gets: what costs ten times as much is measured well enough by a tenth.
    """

    name: str
    runtime: Literal["python", "node", "bun"]
    script: str
    needs: str = ""
    wire: Wire = FRAMES
    share: float = 1.0

    @property
    def missing(self) -> str:
        """Say what it needs that is not here; empty if it can be measured."""
        if self.runtime == "python":
            return f"the package {self.needs}" if self.needs and find_spec(self.needs) is None else ""
        if self.runtime == "node" and shutil.which("node") is None:
            return "Node"
        return "" if (_MODULES / self.needs).exists() else f"the npm package {self.needs}"

    @property
    def command(self) -> list[str]:
        match self.runtime:
            case "python":
                return [sys.executable, "-m", *self.script.split(), event_loop()]
            case "node":
                return ["node", str(_FOLDER / self.script)]
            case "bun":
                return [str(_MODULES / ".bin" / "bun"), str(_FOLDER / self.script)]


def event_loop() -> str:
    """Name the event loop of all servers in Python, and of the load."""
    return "uvloop" if find_spec("uvloop") else "asyncio"


OURS: Final = Server("Verani", "python", "benchmarks.servers verani")
PLAIN: Final = Server("aiohttp by hand", "python", "benchmarks.servers plain")
BUN: Final = Server("Bun", "bun", "bun.js", "bun")

# In the order of the table: the cheapest first.
SERVERS: Final = (
    OURS,
    BUN,
    Server("Node ws", "node", "ws.js", "ws"),
    Server("Socket.IO on Node", "node", "socketio.js", "socket.io", wire=SOCKET_IO),
    Server("picows", "python", "benchmarks.peers.picows_rooms", "picows"),
    PLAIN,
    Server("python-socketio", "python", "benchmarks.peers.python_socketio", "socketio", wire=SOCKET_IO, share=0.1),
)
