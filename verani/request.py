"""Show an application the request that wants to become a connection.

It is a value: nothing here reads a socket or knows aiohttp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ConnectRequest"]


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What `extract_meta` and `name_from_request` decide by, before the WebSocket is accepted.

    `room` is the room id: what the path's ``{room}`` holds while the room is being named (None without one),
    the validated id afterwards. `headers` ignores case. `remote` is the client's address, proxies considered
    as `trusted_proxies` says. `app` is the mounting aiohttp application.
    """

    path: str
    room: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    remote: str | None = None
    app: Any = None
