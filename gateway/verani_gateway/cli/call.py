"""Call a room of a running service from the shell: `verani call`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from verani import frames
from verani.connect import Service
from verani.errors import SettingsError, Unauthorized, VeraniError
from verani.names import well_formed

from ..config import Secrets
from .service_error import ServiceError

__all__ = ["call_room", "parse_arguments"]


def parse_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` words: a value is JSON, and text where it is no JSON. Raises `SettingsError`."""
    arguments: dict[str, Any] = {}
    for word in words:
        name, found, value = word.partition("=")
        if not found or not name.isidentifier():
            raise SettingsError(f"expected arguments as name=value, got {word!r}")
        if name in arguments:
            raise SettingsError(f"expected argument {name} once")
        text = well_formed(value)  # the shell may give what is no text
        try:
            arguments[name] = frames.decode_json(text.encode(), msgspec.json.decode)
        except msgspec.ValidationError as error:
            raise SettingsError(f"argument {name}: expected JSON numbers of a sane size: {error}") from error
        except msgspec.DecodeError:
            arguments[name] = text
        except RecursionError:
            raise SettingsError(f"argument {name}: expected less nesting") from None
    return arguments


def call_room(
    url: str, secrets: Secrets, room: str, method: str, words: Sequence[str], *, timeout: float, key: str | None
) -> None:
    """Print the result as JSON; raises `ServiceError` with what went wrong, `SettingsError` for wrong words."""
    definition, _, room_id = room.partition("/")
    if not room_id:
        raise SettingsError(f"expected a room as DEFINITION/ROOM, for example chat/lobby, got {room!r}")
    arguments = parse_arguments(words)

    async def call() -> Any:
        # A person who has mistyped the address, or started nothing, is not kept waiting.
        async with Service(url, token=secrets.rpc_token, timeout=timeout, waits_for_listener=False) as service:
            return await service.room(definition, room_id).call(method, idempotency_key=key, **arguments)

    try:
        result = asyncio.run(call())
    except Unauthorized as error:
        raise ServiceError(f"{error} in VERANI_RPC_TOKEN, or in the file that VERANI_RPC_TOKEN_FILE names") from error
    except VeraniError as error:
        raise ServiceError(str(error)) from error
    sys.stdout.write(f"{msgspec.json.encode(result).decode()}\n")
