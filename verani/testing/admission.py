"""Decide who a client of a test is, by the application's own hooks, as a gateway does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic

import msgspec

from ..errors import Conflict
from ..room.context import S
from ..room.definition import RoomDefinition
from ..room.meta import ConnectionMeta, M
from ..room.request import ConnectRequest

__all__ = ["Admission"]


class Admission(Generic[M, S]):
    """Who connects to one room, and what is kept of a client's meta."""

    def __init__(self, definition: RoomDefinition[M, S], room_id: str, max_meta_bytes: int) -> None:
        self._definition = definition
        self._room_id = room_id
        self._codec = definition.codec(max_meta_bytes)
        self.decode = self._codec.decode

    async def identify(
        self, query: Mapping[str, str], request: ConnectRequest | None, client_id: str, fields: dict[str, Any]
    ) -> M:
        """Ask the application who sends this query or request; `fields` are those that a query has no place for."""
        if fields:
            named = ", ".join(sorted(fields))
            raise TypeError(f"connect: expected a user_id beside {named}, or query={{...}} for what a client sends")
        definition = self._definition
        if request is None:
            names_itself = "name_from_request" not in definition.hooks and not query.keys() & {"room", "roomId"}
            room = self._room_id if names_itself or "{room}" in definition.websocket_path else None
            path = definition.websocket_path.replace("{room}", self._room_id)
            request = ConnectRequest(path, room, query)
        room_id = await definition.name_for(request)
        if room_id != self._room_id:
            raise ValueError(f"connect: expected a request for the room {self._room_id!r}, it asks for {room_id!r}")
        meta = await definition.meta_for(msgspec.structs.replace(request, room=room_id))
        if definition.is_public:  # its random ids would make every run of a test another one
            user_id = meta.user_id if request.query.get("userId") else f"user-{client_id.removeprefix('client-')}"
            meta = msgspec.structs.replace(meta, client_id=client_id, user_id=user_id)
        return meta

    def check(self, meta: ConnectionMeta, *, is_taken: Callable[[str], bool]) -> bytes:
        """Return the attachment of a meta; raise for one that a gateway would not let pass."""
        if not isinstance(meta, kind := self._definition.meta):
            expected = f"meta= to be a {kind.__name__}, or its fields as keywords"
            raise TypeError(f"connect: expected {expected}, got {type(meta).__name__}")
        attachment = self._codec.admit(meta)
        if self._definition.same_client == "reject" and is_taken(meta.client_id):
            raise Conflict("another connection has this client id")
        return attachment
