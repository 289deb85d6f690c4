"""Answer inputs whose hooks began at an earlier owner and ended with it: they do not run again, `on_error` does."""

from __future__ import annotations

from typing import Any, Generic

from .. import frames
from ..errors import HookInterrupted
from ..frames import Frame, InvalidFrame
from ..link import messages
from ..room.context import Context
from ..room.meta import AttachmentError, M
from ..room.methods import Call
from ..room.operations import S
from ..room.session import Session
from .hook_runner import Hooks
from .incarnation import Incarnation
from .refusing import refuse, reply, turn_away

__all__ = ["Interruptions"]

_OUTCOME = messages.Outcome(code=HookInterrupted.code)


class Interruptions(Generic[M, S]):
    """The interrupted inputs of a room."""

    def __init__(self, room: Incarnation[M, S], hooks: Hooks[M, S]) -> None:
        self._room = room
        self._hooks = hooks

    async def conclude(self, gateway: str, event: messages.Input) -> None:
        """Answer one input and run `on_error`, unless its connection is gone meanwhile."""
        context = self._answer(gateway, event)
        if context is not None:
            kind = messages.kind_of(event)
            error = HookInterrupted(f"a hook of {self._room.name} ({kind}) had begun when the host of the room died")
            await self._hooks.report(error, context, gateway, event)

    def _answer(self, gateway: str, event: messages.Input) -> Context[M, S] | None:
        """Answer the client or caller of an input, and return the context that its hook would have had."""
        room = self._room
        match event:
            case messages.FrameInput():
                session = room.members.sessions.get(event.connection)
                if session is None:
                    return None  # kicked: nobody waits for the answer
                refuse(room.sink, gateway, event, _OUTCOME)
                return Context(room, session, Frame(event.event, _data_of(event), event.channel))
            case messages.Connect():
                turn_away(room.sink, gateway, event, 1011)
                return Context(room, self._session_of(gateway, event))
            case messages.Close():
                session = room.roster.forget(event.connection)
                if session is None:
                    return None
                return Context(room, session, close_code=event.code, close_reason=event.reason)
            case messages.CallInput():
                reply(room.sink, gateway, event, _OUTCOME)
                return Context(room, None, call=Call(event.method, self._arguments_of(event)))

    def _session_of(self, gateway: str, event: messages.Connect) -> Session[M] | None:
        metas = self._room.metas
        try:
            meta = metas.codec.decode(event.attachment)
        except AttachmentError:
            return None
        return Session(metas, gateway, event.connection, meta, event.attachment)

    def _arguments_of(self, event: messages.CallInput) -> dict[str, Any]:
        method = self._room.definition.methods.get(event.method)
        try:
            return method.decode(event.arguments) if method is not None else {}
        except BaseException:  # a __post_init__ of the user's, or a type that is another one by now  # noqa: BLE001
            return {}


def _data_of(event: messages.FrameInput) -> Any:
    try:
        return frames.decode_data(event.data)
    except InvalidFrame:
        return None
