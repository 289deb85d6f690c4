"""Read the headers of the frames of one WebSocket before aiohttp does, which lets some pass and does not know others.

It accepts frames that are not masked, which RFC 6455 5.1 forbids, and would keep a decompressor for each connection.

Invariant: headers are handed on whole, so that each is seen here first; after the first one without a mask nothing is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["FrameHeaders"]

# The second byte of a frame: its mask, and from where on the next 2 or 8 bytes hold the length.
_MASKED: Final = 0x80
_LENGTH_OF_2: Final = _MASKED | 126
# What a header has besides its length: two bytes, and four of the mask.
_HEADER: Final = 6
# The opcodes that begin a message of text or bytes, and the bit of one that is compressed (RFC 7692 6).
_OPCODE: Final = 0x0F
_DATA: Final = (1, 2)
_COMPRESSED: Final = 0x40
# A frame with reserved bits, for which aiohttp closes with 1002, after everything that came before.
_VIOLATION: Final = b"\xf0\x80"


class FrameHeaders:
    """How far the headers of one connection are read."""

    __slots__ = ("_head", "_rest", "compressed")

    def __init__(self) -> None:
        # The beginning of a header, and how much is still to come of the frame after it.
        self._head = b""
        self._rest = 0
        # Of each message of data that has begun, whether it is compressed; None where that was not negotiated.
        self.compressed: list[bool] | None = None

    def checked(self, data: bytes) -> bytes:
        """Return what may be handed on: whole headers, and a violation instead of the first one without a mask."""
        position, end = self._rest, len(data)
        if (
            end >= _HEADER
            and _MASKED <= data[1] < _LENGTH_OF_2
            and end == _HEADER + data[1] - _MASKED
            and not position
            and not self._head
            and self.compressed is None
        ):
            return data  # one short frame as a whole, as most come
        data, self._head = self._head + data, b""
        end = len(data)
        heads: list[int] = []
        while position + 2 <= end:
            second = data[position + 1]
            if second < _MASKED:
                return self._note_compressed(data[:position], heads) + _VIOLATION
            start = position
            if second < _LENGTH_OF_2:
                position += _HEADER + second - _MASKED
            else:
                size = position + (4 if second == _LENGTH_OF_2 else 10)
                if size > end:
                    break
                position = size + 4 + int.from_bytes(data[position + 2 : size], "big")
            if self.compressed is not None:
                heads.append(start)
        self._rest = max(0, position - end)
        self._head = data[position:]
        data = data[:position]
        return data if self.compressed is None else self._note_compressed(data, heads)

    def _note_compressed(self, data: bytes, heads: Iterable[int]) -> bytes:
        """Note which messages of data are compressed, and take that bit from them: aiohttp is to see plain ones."""
        if self.compressed is None:
            return data
        changed = bytearray(data)
        for head in heads:
            if changed[head] & _OPCODE in _DATA:
                self.compressed.append(bool(changed[head] & _COMPRESSED))
                changed[head] &= ~_COMPRESSED
        return bytes(changed)
