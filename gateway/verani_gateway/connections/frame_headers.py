"""Read the headers of the frames of one WebSocket before aiohttp does, which lets some pass and does not know others.

It accepts frames that are not masked, which RFC 6455 5.1 forbids, and would keep a decompressor for each connection.
A text that is read as a whole, and in one frame, as most are, needs it not at all.

Invariant: headers are handed on whole, so that each is seen here first; after the first one without a mask nothing is.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

from ..http.aiohttp_parts import websocket_mask

__all__ = ["FrameHeaders", "whole_text"]

# The second byte of a frame: its mask, and from where on the next 2 or 8 bytes hold the length.
_MASKED: Final = 0x80
_LENGTH_OF_2: Final = _MASKED | 126
# What a header has besides its length: two bytes, and four of the mask.
_HEADER: Final = 6
# The longest frame with a length of one byte.
_SHORT: Final = _HEADER + 125
# A final fragment of text; the header of a short frame, and of one with two bytes of length.
_TEXT: Final = 0x81
_short_header: Final = Struct("!BB4s").unpack_from
_long_header: Final = Struct("!BBH4s").unpack_from
_LONG_HEADER: Final = 8
# The opcodes that begin a message of text or bytes, and the bit of one that is compressed (RFC 7692 6).
_OPCODE: Final = 0x0F
_DATA: Final = (1, 2)
# The bits of a control frame, and of a final fragment.
_CONTROL: Final = 0x08
_FINAL: Final = 0x80
_COMPRESSED: Final = 0x40
# A frame with reserved bits, for which aiohttp closes with 1002, after everything that came before.
_VIOLATION: Final = b"\xf0\x80"


def whole_text(buffer: bytearray, size: int, most: int) -> bytearray | None:
    """Return the payload if what was read is one text, in one frame, of so many bytes at most; or else None."""
    if size < _HEADER:
        return None
    first, second, mask = _short_header(buffer)
    header, length = _HEADER, second - _MASKED
    if size > _SHORT:
        if second != _LENGTH_OF_2:
            return None
        _, _, length, mask = _long_header(buffer)
        header = _LONG_HEADER
    if first != _TEXT or size != header + length or length > most:
        return None
    payload = buffer[header:size]
    websocket_mask(mask, payload)
    return payload


class FrameHeaders:
    """How far the headers of one connection are read."""

    __slots__ = ("_head", "_in_fragments", "_rest", "compressed", "is_between")

    def __init__(self) -> None:
        # The beginning of a header, and how much is still to come of the frame after it.
        self._head = b""
        self._rest = 0
        # Whether more is to come of a message in fragments, and whether what comes next may be a `whole_text`.
        self._in_fragments = False
        self.is_between = True
        # Of each message of data that has begun, whether it is compressed; None where that was not negotiated.
        self.compressed: list[bool] | None = None

    def checked(self, data: bytes) -> bytes:
        """Return what may be handed on: whole headers, and a violation instead of the first one without a mask."""
        data = self._head + data
        position, end = self._rest, len(data)
        heads: list[int] = []
        while position + 2 <= end:
            second = data[position + 1]
            if second < _MASKED:
                return self._plain(data[:position], heads) + _VIOLATION
            start = position
            if second < _LENGTH_OF_2:
                position += _HEADER + second - _MASKED
            else:
                size = position + (4 if second == _LENGTH_OF_2 else 10)
                if size > end:
                    break
                position = size + 4 + int.from_bytes(data[position + 2 : size], "big")
            if data[start] & _CONTROL == 0:
                self._in_fragments = data[start] < _FINAL
            if self.compressed is not None:
                heads.append(start)
        self._rest = max(0, position - end)
        self._head = data[position:]
        self.is_between = position == end and not self._in_fragments and self.compressed is None
        data = data[:position]
        return data if self.compressed is None else self._plain(data, heads)

    def _plain(self, data: bytes, heads: Iterable[int]) -> bytes:
        """Note which messages of data are compressed, and take that bit from them: aiohttp is to see plain ones."""
        if self.compressed is None:
            return data
        changed = bytearray(data)
        for head in heads:
            if changed[head] & _OPCODE in _DATA:
                self.compressed.append(bool(changed[head] & _COMPRESSED))
                changed[head] &= ~_COMPRESSED
        return bytes(changed)
