"""Say who may connect to a room, and be in a channel: what the hooks of a definition answer, checked.

Everything but `check_channel` runs in the gateway, before the WebSocket is accepted.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Generic

from ..errors import Forbidden, Unauthorized
from .context import Context
from .meta import ConnectionMeta, M, check_names, make_id, make_meta
from .request import ConnectRequest, Identity, TokenVerifier

__all__ = ["Authority", "public_meta", "room_from_request"]


def public_meta(request: ConnectRequest) -> ConnectionMeta:
    """Believe what the client says: the default `extract_meta`, for rooms that trust nobody.

    The user id is ``?userId=`` or random, the channels ``?channels=a,b`` or ``default``, the client id is
    made here. Names that may not pass are refused by the gateway.
    """
    query = request.query
    named = query.get("channels")
    channels = tuple(dict.fromkeys(filter(None, map(str.strip, named.split(","))))) if named else ()
    return ConnectionMeta(user_id=query.get("userId") or make_id(), channels=channels or ("default",))


def room_from_request(request: ConnectRequest) -> str:
    """Name the room: the path's ``{room}``, then ``?room=``, then ``?roomId=``, then ``default``."""
    return request.room or request.query.get("room") or request.query.get("roomId") or "default"


class Authority(Generic[M]):
    """Asks the hooks of one definition, or does what is done without them."""

    def __init__(self, name: str, meta: type[M], hooks: Mapping[str, Callable[..., Any]]) -> None:
        self._name = name
        self._meta = meta
        self._hooks = hooks

    async def name_for(self, request: ConnectRequest) -> str:
        """Run `name_from_request` or its default; the result is not yet validated."""
        hook = self._hooks.get("name_from_request")
        if hook is None:
            return room_from_request(request)
        name = hook(request)
        return await name if inspect.isawaitable(name) else name  # type: ignore[no-any-return]

    async def identify(self, request: ConnectRequest) -> tuple[M, float | None]:
        """Run `extract_meta` or its default, `authorize_room` and `authorize_channel`.

        Returns the meta and when it expires. Raises what the hooks raise, `Forbidden` for a room or channel, and
        TypeError or `msgspec.ValidationError` for what is no such meta.
        """
        given = self._hooks.get("extract_meta", public_meta)(request)
        expires_at: float | None = None
        if isinstance(given, ConnectionMeta):
            meta = make_meta(self._meta, given)
        else:
            meta, expires_at = await self._resolve(given)
        if "authorize_room" in self._hooks:
            await self._check_room(meta, request)
        if "authorize_channel" in self._hooks:
            check_names(meta)
            for channel in meta.channels:
                self.check_channel(request, channel)
        return meta, expires_at

    async def identify_token(self, token: str, request: ConnectRequest) -> tuple[M, float | None]:
        """Ask `extract_meta` about a bare token, and `authorize_room` about who it is for.

        Raises `Unauthorized` where `extract_meta` is no `TokenVerifier`, and what `identify` raises.
        """
        verifier = self._hooks.get("extract_meta")
        if not isinstance(verifier, TokenVerifier):
            raise Unauthorized(f"{self._name}: extract_meta takes no bare tokens")
        meta, expires_at = await self._resolve(verifier.verify_token(token))
        await self._check_room(meta, request)
        return meta, expires_at

    async def _resolve(self, given: Any) -> tuple[M, float | None]:
        if inspect.isawaitable(given):
            given = await given
        if not isinstance(given, Identity):
            return self._as_meta(given), None
        expires_at = given.expires_at
        if expires_at is not None and not (type(expires_at) in (int, float) and math.isfinite(expires_at)):
            raise TypeError(f"{self._name}.extract_meta: expected expires_at in seconds, got {expires_at!r}")
        return self._as_meta(given.meta), expires_at

    def _as_meta(self, given: Any) -> M:
        if isinstance(given, ConnectionMeta | Mapping):
            return make_meta(self._meta, given)
        raise TypeError(
            f"{self._name}.extract_meta: expected a {self._meta.__name__}, a mapping of its fields or an Identity, got"
            f" {type(given).__name__}"
        )

    async def _check_room(self, meta: M, request: ConnectRequest) -> None:
        """Raise `Forbidden` if `authorize_room` says so; everybody may be anywhere without that hook."""
        authorize = self._hooks.get("authorize_room")
        if authorize is None:
            return
        check_names(meta)
        allowed = authorize(meta, request)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if type(allowed) is not bool:  # a forgotten return would let nobody in, and nobody would know why
            raise TypeError(f"{self._name}.authorize_room: expected True or False, got {type(allowed).__name__}")
        if not allowed:
            raise Forbidden(f"room {request.room!r} is not for {meta.user_id!r}")

    def check_channel(self, asker: ConnectRequest | Context[M, Any], channel: str) -> None:
        """Raise `Forbidden` if `authorize_channel` says so; everybody may be anywhere without that hook."""
        authorize = self._hooks.get("authorize_channel")
        if authorize is None:
            return
        allowed = authorize(asker, channel)
        if type(allowed) is not bool:  # a forgotten coroutine would be true for everybody
            if inspect.iscoroutine(allowed):
                allowed.close()
            raise TypeError(f"{self._name}.authorize_channel: expected True or False, got {type(allowed).__name__}")
        if not allowed:
            raise Forbidden(f"channel {channel!r} is not for this client")
