"""Show an application the request that wants to become a connection, and take its word for who that is.

These are values: nothing here reads a socket or knows aiohttp. Ready ways to decide are in `verani.auth`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct, field

from .meta import ConnectionMeta

__all__ = ["BEARER", "ConnectRequest", "GivenMeta", "Identified", "Identity", "MetaMaker", "TokenVerifier"]

# What an offered subprotocol starts with that carries a token, because pages can set no header of a WebSocket.
BEARER = "bearer."


class ConnectRequest(Struct, frozen=True):
    """What `extract_meta` and `name_from_request` decide by, before the WebSocket is accepted.

    `room` is the room id: what the path's ``{room}`` holds while the room is being named (None without one),
    the validated id afterwards. `headers` ignores case. `subprotocols` are those that the client offers, in its order.
    `remote` is the client's address, proxies considered as `trusted_proxies` says, "unix" over a Unix socket whose
    peer told no other. `app` is the mounting aiohttp application.
    """

    path: str
    room: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    subprotocols: tuple[str, ...] = ()
    remote: str | None = None
    app: Any = None


# A meta, of the definition's type or another whose fields have the same names, or a mapping of its fields. Fields
# that are not given have their defaults; a client id is made.
GivenMeta: TypeAlias = ConnectionMeta | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """A meta that is good for a time: what `extract_meta` may return where a plain meta would never expire.

    `expires_at` is in seconds of the wall clock, as `time.time` counts them, None for never. The client is told 30 s
    before, may refresh, and is closed with 4001 when 25 s have passed since without that.
    """

    meta: GivenMeta
    expires_at: float | None = None


# What `extract_meta` may return, or an awaitable of it.
Identified: TypeAlias = GivenMeta | Identity


@runtime_checkable
class TokenVerifier(Protocol):
    """What an `extract_meta` object also has if its clients may refresh: a method for a bare token.

    Called in the gateway with what a client sent as ``verani.refresh``, within `hook_timeout`. It returns what
    `extract_meta` would, and the user id must be the same; `authorize_room` is asked again with what it returns, and
    only the new expiry counts, the meta stays as it is. If one of them raises or refuses, or the user is another one,
    nothing is answered, and the connection ends as if nothing had been sent.
    """

    def verify_token(self, token: str, /) -> Awaitable[Identified]: ...


@runtime_checkable
class MetaMaker(Protocol):
    """What an `extract_meta` object also has if it makes metas: it is asked once for one that makes the definition's.

    Raises `DefinitionError` for a type that it cannot fill.
    """

    def for_meta(self, kind: type[Any], /) -> Callable[[ConnectRequest], Any]: ...
