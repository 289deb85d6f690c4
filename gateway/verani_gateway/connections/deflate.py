"""Compress and decompress messages, each by itself: nothing is kept between two of them (RFC 7692 7.2)."""

from __future__ import annotations

import zlib
from typing import Final

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType

__all__ = ["deflated", "inflated"]

_WINDOW: Final = -zlib.MAX_WBITS
# What a sender leaves away at the end of a message.
_TAIL: Final = b"\0\0\xff\xff"


def deflated(payload: bytes) -> bytes:
    """Compress the payload of a message."""
    compressor = zlib.compressobj(zlib.Z_BEST_SPEED, zlib.DEFLATED, _WINDOW)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)


def inflated(message: WSMessage, limit: int) -> WSMessage:
    """Decompress a message of at most `limit` bytes; a message of the type ERROR for what is larger, or broken."""
    decompressor = zlib.decompressobj(_WINDOW)
    try:
        data = decompressor.decompress(message.data + _TAIL, limit + 1)
    except zlib.error:
        return _failed(WSCloseCode.INVALID_TEXT, "expected a message that can be decompressed")
    if len(data) > limit:
        return _failed(WSCloseCode.MESSAGE_TOO_BIG, f"expected a message of at most {limit} bytes")
    return WSMessage(message.type, data, None)  # type: ignore[arg-type, unused-ignore]


def _failed(code: int, text: str) -> WSMessage:
    return WSMessage(WSMsgType.ERROR, WebSocketError(code, text), None)
