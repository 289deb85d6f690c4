"""Show an operator the rooms of a running service: `verani rooms`.

It asks the internal listener over HTTP and prints a table or JSON; it changes nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

import aiohttp
import msgspec

from verani.errors import VeraniError
from verani_actors.life import RoomStatus

from .config import Secrets

__all__ = ["ServiceError", "show_rooms", "table"]

# How often `--watch` asks.
_PERIOD: Final = 1.0

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)

_decode = msgspec.json.Decoder(list[RoomStatus]).decode

# Clear the screen and go to its upper left corner (ECMA-48 ED and CUP).
_CLEAR: Final = "\x1b[2J\x1b[H"

_HEADER: Final = (
    "ROOM",
    "STATE",
    "FOR",
    "CONNECTIONS",
    "KEPT AWAKE BY",
    "WOKEN BY",
    "WAKE MS",
    "SLEPT",
    "AWAKE IN ALL",
)


class ServiceError(VeraniError):
    """The service cannot be reached, or does not answer as expected."""


def table(rooms: Sequence[RoomStatus]) -> str:
    """Lay the rooms out in columns, longest state first."""
    rows = [_HEADER]
    for room in sorted(rooms, key=lambda room: -(room.state_seconds or 0)):
        rows.append(
            (
                room.name,
                room.state,
                _duration(room.state_seconds),
                str(room.connections),
                room.kept_awake_by or "-",
                room.woken_by or "-",
                "-" if room.wake_seconds is None else f"{room.wake_seconds * 1000:.1f}",
                str(room.cycles),
                _duration(room.awake_seconds),
            )
        )
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def show_rooms(url: str, secrets: Secrets, *, as_json: bool, watch: bool, limit: int) -> None:
    """Print the rooms once, or every second until interrupted; raises `ServiceError`."""
    asyncio.run(_show(url, secrets, as_json=as_json, watch=watch, limit=limit))


async def _show(url: str, secrets: Secrets, *, as_json: bool, watch: bool, limit: int) -> None:
    clear = _CLEAR if watch and not as_json and sys.stdout.isatty() else ""
    headers = {"Authorization": f"Bearer {secrets.admin_token}"} if secrets.admin_token is not None else {}
    async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers) as session:
        while True:
            body = await _ask(session, f"{url.rstrip('/')}/admin/rooms?limit={limit}")
            try:
                text = table(_decode(body)) if not as_json else body.decode()
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ServiceError(f"{url} answered no list of rooms; is that the internal listener?") from error
            sys.stdout.write(f"{clear}{text}\n")
            sys.stdout.flush()
            if not watch:
                return
            await asyncio.sleep(_PERIOD)


async def _ask(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with session.get(url) as response:
            body = await response.read()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ServiceError(
            f"no answer from {url}: {error or type(error).__name__}; is that the internal listener?"
        ) from error
    if response.status == 401:
        raise ServiceError(
            f"{url} wants a token: expected VERANI_ADMIN_TOKEN, or VERANI_ADMIN_TOKEN_FILE, to be set to it"
        )
    if response.status != 200:
        raise ServiceError(f"{url} answered {response.status}; expected the internal listener of a Verani service")
    return body
