"""Rooms by hand on picows, whose protocol is compiled; frames are read and written as in `benchmarks.servers plain`.

Run as `python -m benchmarks.peers.picows_rooms asyncio|uvloop`: prints its port, serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from ..servers import new_loop

_rooms: defaultdict[str, set[WSTransport]] = defaultdict(set)


class Member(WSListener):
    """One connection."""

    def __init__(self, request: WSUpgradeRequest) -> None:
        super().__init__()
        self._room = _rooms[parse_qs(urlsplit(request.path.decode()).query).get("room", ["default"])[0]]

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._room.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._room.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:  # a number where picows is compiled
            return
        told = json.loads(frame.get_payload_as_bytes())
        reply = {"type": "event", "channel": "default", "data": {"type": told["type"], **told["data"]}}
        text = json.dumps(reply, separators=(",", ":")).encode()
        for member in tuple(self._room) if told["type"] == "cast" else (transport,):
            member.send(WSMsgType.TEXT, text)


async def main() -> None:
    server = await ws_create_server(Member, "127.0.0.1", 0, backlog=4096)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: new_loop(sys.argv[1])) as loop_runner:
        loop_runner.run(main())
