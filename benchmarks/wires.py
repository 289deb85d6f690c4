"""The two ways in which servers under load speak over a WebSocket: frames of JSON, and Socket.IO's packets.

No sockets here: texts in, texts out. Masks, lengths and the handshake of the WebSocket are the load client's.
"""

from __future__ import annotations

from typing import Final, Protocol
from urllib.parse import quote

import msgspec

__all__ = ["FRAMES", "SOCKET_IO", "Frames", "Numbered", "SocketIo", "Wire", "WireError"]


class WireError(ValueError):
    """A server said what nobody who speaks its wire says."""


class Numbered(msgspec.Struct):
    """What every event under load carries: who sent it, and its number among all of that sender's."""

    s: int
    n: int


class _Event(msgspec.Struct):
    data: Numbered


class Wire(Protocol):
    """How a client joins a room and exchanges numbered events."""

    # Whether the room can be used as soon as the WebSocket is open.
    opens_at_once: bool

    def path(self, room: str) -> str:
        """Return the target of the handshake."""

    def encode(self, event: str, data: bytes) -> bytes:
        """Return the text that sends an event whose data are this JSON."""

    def decode(self, payload: bytes) -> Numbered | None:
        """Return what an event carries; None for everything else."""

    def answer(self, payload: bytes) -> bytes | None:
        """Return what has to be said to a text that is no event, if anything."""

    def opens(self, payload: bytes) -> bool:
        """Say whether a text that is no event lets the client into its room."""


class Frames:
    """JSON in WebSocket frames, as Verani has it."""

    opens_at_once = True
    _PONG: Final = b'{"type":"pong"}'

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(_Event).decode

    def path(self, room: str) -> str:
        return f"/ws?room={quote(room)}"

    def encode(self, event: str, data: bytes) -> bytes:
        return b'{"type":"%b","data":%b}' % (event.encode(), data)

    def decode(self, payload: bytes) -> Numbered | None:
        # A sign of life, which unread clients get, has no data.
        return None if payload == self._PONG else self._decode(payload).data

    def answer(self, payload: bytes) -> bytes | None:
        return None

    def opens(self, payload: bytes) -> bool:
        return False


class SocketIo:
    """Socket.IO 5 over Engine.IO 4, texts only, without polling.

    The first digit is Engine.IO's: 0 opens, 2 asks, 3 answers, 4 carries a packet of Socket.IO; the second is
    Socket.IO's: 0 connects to the namespace, 2 is an event, 4 refuses.
    """

    opens_at_once = False

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(tuple[str, Numbered]).decode

    def path(self, room: str) -> str:
        return f"/socket.io/?EIO=4&transport=websocket&room={quote(room)}"

    def encode(self, event: str, data: bytes) -> bytes:
        return b'42["%b",%b]' % (event.encode(), data)

    def decode(self, payload: bytes) -> Numbered | None:
        return self._decode(payload[2:])[1] if payload.startswith(b"42") else None

    def answer(self, payload: bytes) -> bytes | None:
        match payload[:1]:
            case b"0":
                return b"40"
            case b"2":
                return b"3" + payload[1:]
            case b"4" if payload[1:2] == b"0":
                return None
            case b"6":
                return None
            case _:
                raise WireError(f"expected a packet that opens, pings or connects, got {payload[:80]!r}")

    def opens(self, payload: bytes) -> bool:
        return payload.startswith(b"40")


FRAMES: Final = Frames()
SOCKET_IO: Final = SocketIo()
