"""Show an operator the rooms of a running service, or what is kept from them: `verani rooms`.

It asks the internal listener over HTTP and prints a table or JSON; it changes nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct

from verani.client.causes import cause_of
from verani_actors.rooms.room_status import RoomStatus

from ..config import Secrets
from ..operating.service_answers import CUT
from .service_error import ServiceError

__all__ = [
    "CLEAR",
    "PERIOD",
    "ask",
    "columns",
    "session",
    "show_quarantine",
    "show_rooms",
    "table",
]

# How often `--watch` asks.
PERIOD: Final = 1.0

_QUARANTINE_HEADER: Final = ("ROOM", "EVENT", "BYTES", "CONNECTION", "SINCE", "REASON")


class _Kept(Struct, frozen=True):
    room: str
    connection: str
    event: str
    size: int
    since: float
    reason: str


class _Told(Struct, frozen=True):
    message: str


class _Refused(Struct, frozen=True):
    error: _Told


_decode_quarantine = msgspec.json.Decoder(list[_Kept]).decode
_decode = msgspec.json.Decoder(list[RoomStatus]).decode

# Clear the screen and go to its upper left corner (ECMA-48 ED and CUP).
CLEAR: Final = "\x1b[2J\x1b[H"

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


def table(rooms: Sequence[RoomStatus]) -> str:
    """Lay the rooms out in columns, longest state first."""
    has_hosts = any(room.host is not None for room in rooms)
    rows = [(*_HEADER, "HOST") if has_hosts else _HEADER]
    for room in sorted(rooms, key=lambda room: -(room.state_seconds or 0)):
        rows.append(
            (
                room.name,
                room.state,
                _duration(room.state_seconds),
                str(room.connections),
                _reason(room),
                room.woken_by or "-",
                "-" if room.wake_seconds is None else f"{room.wake_seconds * 1000:.1f}",
                str(room.cycles),
                _duration(room.awake_seconds),
                *((room.host or "-",) if has_hosts else ()),
            )
        )
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows of cells out in columns as wide as their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _reason(room: RoomStatus) -> str:
    """Say what keeps a room awake, which hook or task that is, and for how long already."""
    if room.kept_awake_by is None or room.doing is None:
        return room.kept_awake_by or "-"
    return f"{room.kept_awake_by}: {room.doing}, {_duration(room.doing_seconds)}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def session(secrets: Secrets) -> aiohttp.ClientSession:
    """Open what asks the internal listener, with the admin token where there is one."""
    headers = {"Authorization": f"Bearer {secrets.admin_token}"} if secrets.admin_token is not None else {}
    return aiohttp.ClientSession(headers=headers)


def show_rooms(url: str, secrets: Secrets, *, as_json: bool, watch: bool, limit: int) -> None:
    """Print the rooms once, or every second until interrupted; raises `ServiceError`."""
    asyncio.run(_show(url, secrets, as_json=as_json, watch=watch, limit=limit))


async def _show(url: str, secrets: Secrets, *, as_json: bool, watch: bool, limit: int) -> None:
    clear = CLEAR if watch and not as_json and sys.stdout.isatty() else ""
    async with session(secrets) as http:
        while True:
            body, headers = await _exchange(http, f"{url.rstrip('/')}/admin/rooms?limit={limit}")
            try:
                text = table(_decode(body)) if not as_json else body.decode()
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ServiceError(f"{url} answered no list of rooms; is that the internal listener?") from error
            sys.stdout.write(f"{clear}{text}\n")
            sys.stdout.flush()
            if CUT in headers:
                sys.stderr.write("more rooms than shown\n")
            if not watch:
                return
            await asyncio.sleep(PERIOD)


def show_quarantine(url: str, secrets: Secrets, *, as_json: bool) -> None:
    """Print the inputs that are kept from rooms because they killed their hosts; raises `ServiceError`."""
    asyncio.run(_show_quarantine(url, secrets, as_json=as_json))


async def _show_quarantine(url: str, secrets: Secrets, *, as_json: bool) -> None:
    async with session(secrets) as http:
        body = await ask(http, f"{url.rstrip('/')}/admin/quarantine")
    try:
        kept = _decode_quarantine(body)
    except msgspec.DecodeError as error:
        raise ServiceError(f"{url} answered no list of inputs; is that the internal listener?") from error
    rows = [_QUARANTINE_HEADER]
    for each in kept:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.since))
        rows.append((each.room, each.event, str(each.size), each.connection or "-", since, each.reason))
    sys.stdout.write(f"{body.decode() if as_json else columns(rows)}\n")


async def ask(
    http: aiohttp.ClientSession, url: str, order: Mapping[str, str] | None = None, *, seconds: float = 10.0
) -> bytes:
    """Ask the internal listener, or give it an order, and return its answer; raises `ServiceError`."""
    body, _ = await _exchange(http, url, order, seconds=seconds)
    return body


async def _exchange(
    http: aiohttp.ClientSession, url: str, order: Mapping[str, str] | None = None, *, seconds: float = 10.0
) -> tuple[bytes, Mapping[str, str]]:
    try:
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with http.request("GET" if order is None else "POST", url, json=order, timeout=timeout) as response:
            body = await response.read()
    except (ValueError, aiohttp.NonHttpUrlClientError) as error:  # InvalidURL among them
        given = url.partition("/admin")[0]
        raise ServiceError(
            f"expected the URL of an internal listener, such as http://127.0.0.1:8001, got {given!r}"
        ) from error
    except TimeoutError as error:
        raise ServiceError(f"no answer from {url} within {seconds:g} s; is that the internal listener?") from error
    except aiohttp.ClientError as error:
        _, why = cause_of(error)
        raise ServiceError(f"no answer from {url}: {why}; is that the internal listener?") from error
    if response.status == 401:
        raise ServiceError(
            f"{url} wants a token: expected VERANI_ADMIN_TOKEN, or VERANI_ADMIN_TOKEN_FILE, to be set to it"
        )
    if response.status not in (200, 202):
        raise ServiceError(
            _refusal(body) or f"{url} answered {response.status}; expected the internal listener of a Verani service"
        )
    return body, response.headers


def _refusal(body: bytes) -> str | None:
    """Find the sentence with which a service refuses an order."""
    try:
        return msgspec.json.decode(body, type=_Refused).error.message
    except msgspec.DecodeError:
        return None
