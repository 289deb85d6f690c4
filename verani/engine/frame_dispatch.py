"""Bring frames to the handlers of a room, and what those return to the clients that asked."""

from __future__ import annotations

import contextvars
import functools
import logging
from typing import Any, Generic

import msgspec

from .. import frames
from ..errors import TooLarge
from ..frames import Frame, InvalidFrame
from ..link import messages
from ..names import RESERVED_PREFIX
from ..room.context import Context
from ..room.handlers import Handler
from ..room.meta import M
from ..room.operations import S
from ..room.session import Session
from .hook_measures import HookMeasures
from .hook_run import HookRun
from .hook_runner import Hooks, Rest, Returned
from .incarnation import Incarnation
from .middleware import Middleware
from .outputs import MAX_OUTPUT_FRAME
from .refusing import outcome_of, refuse

__all__ = ["FrameDispatch"]

logger = logging.getLogger(__name__)


class FrameDispatch(Generic[M, S]):
    """The way of a frame through its room."""

    __slots__ = (
        "__weakref__",
        "_definition",
        "_handlers",
        "_hooks",
        "_measures",
        "_members",
        "_middleware",
        "_room",
        "_sink",
    )

    def __init__(
        self, room: Incarnation[M, S], hooks: Hooks[M, S], middleware: Middleware[M, S], measures: HookMeasures
    ) -> None:
        self._room = room
        self._sink = room.sink
        self._members = room.members
        self._definition = room.definition
        self._handlers = room.definition.handlers
        self._hooks = hooks
        self._middleware = middleware
        self._measures = measures

    def received(
        self, gateway: str, event: messages.FrameInput, variables: contextvars.Context | None = None
    ) -> Rest[object] | None:
        """Take a frame of a member; others were kicked, refused by `on_connect` or are gone, and theirs are dropped.

        The running context is this frame's alone if it is given as `variables`, and no task runs then.
        """
        session = self._members.sessions.get(event.connection)
        if session is None:
            return None
        handlers = self._handlers.found.get(event.event)
        if handlers is None:
            handlers = self._handlers.of(event.event)
            is_known = handlers or "on_message" in self._definition.hooks
            if event.event.startswith(RESERVED_PREFIX) or not is_known:
                logger.debug("no handler for event %r", event.event, extra=self._room.log.about(session))
                self._refuse(gateway, event, messages.Outcome(code="not_found"))
                return None
        alone = handlers[0] if len(handlers) == 1 else None
        data = None
        try:
            data = payload = frames.decode_data(event.data)
            if alone is None:
                payload = [frames.decode_data(event.data, h.decoder) if h.decoder else data for h in handlers]
            elif alone.decoder is not None:
                payload = frames.decode_data(event.data, alone.decoder)
        except BaseException as error:  # a __post_init__ of a payload type is the user's code, too  # noqa: BLE001
            return self._misfit(error, data, session, gateway, event)
        context = Context(self._room, session, Frame(event.event, data, event.channel))
        fail = None if event.request is None else functools.partial(self._failed, gateway, event)
        measure = self._measures.events.get(event.event) or self._measures.of_event(event.event)
        run = HookRun(context, gateway, event, fail, "", "hook", measure)
        rest: Rest[Returned | None] | Returned
        if alone is None or self._middleware.functions:
            dispatch = functools.partial(self._dispatch, context, handlers, payload if alone is None else [payload])
            rest = functools.partial(self._hooks.run, run, self._middleware.through, context, dispatch)
        elif alone.is_async:
            rest = functools.partial(self._hooks.run, run, alone.function, context, payload)
        else:
            rest = self._hooks.start(run, alone.function, (context, payload), variables)
            if isinstance(rest, Returned):
                return None if event.request is None else self._answer(gateway, event, context, rest.value)
        return rest if event.request is None else functools.partial(self._conclude, gateway, event, context, rest)

    async def _conclude(
        self, gateway: str, event: messages.FrameInput, context: Context[M, S], rest: Rest[Returned | None]
    ) -> None:
        """Await a hook, and answer with what it returned."""
        outcome = await rest()
        if outcome is not None and (failed := self._answer(gateway, event, context, outcome.value)) is not None:
            await failed()

    def _misfit(
        self, error: BaseException, data: Any, session: Session[M], gateway: str, event: messages.FrameInput
    ) -> Rest[object] | None:
        """Refuse a frame whose data no handler can take."""
        match error:
            case msgspec.ValidationError():
                logger.debug("payload of %r does not fit: %s", event.event, error, extra=self._room.log.about(session))
                if event.request is None and (unfit := self._handlers.first_misfit(event.event)) is not None:
                    self._tell_of_misfit(*unfit, session, came=event.data is not None)
                self._refuse(gateway, event, messages.Outcome(code="invalid", path=frames.path_of(error)))
                return None
            case InvalidFrame():
                logger.debug("invalid frame: %s", error, extra=self._room.log.about(session))
                self._refuse(gateway, event, messages.Outcome(code="invalid", path=error.path))
                if event.request is None:  # who is answered knows, and has not sent garbage
                    self._sink.output(gateway, messages.Invalid(session.id), event.number)
                return None
            case _:
                context = Context(self._room, session, Frame(event.event, data, event.channel))
                return self._report(error, context, gateway, event)

    def _tell_of_misfit(self, event: str, expected: str, session: Session[M], *, came: bool) -> None:
        """Say to who writes the room, once, what nobody else hears: that a plain event was dropped."""
        logger.info(
            "an event %r is dropped: expected %s, got %s (said once for this event; --log-level debug says all)",
            event,
            expected,
            "other data" if came else "no data, which is read as {}",
            extra=self._room.log.about(session),
        )

    def _report(
        self, error: BaseException, context: Context[M, S], gateway: str, event: messages.FrameInput
    ) -> Rest[object]:
        fail = functools.partial(self._failed, gateway, event)
        return self._hooks.failed(HookRun(context, gateway, event, fail), error)

    async def _dispatch(self, context: Context[M, S], handlers: tuple[Handler, ...], payloads: list[Any]) -> Any:
        """Run the handlers in order, `on_message` without any; the first result that is not None is the answer."""
        if not handlers:
            return await self._middleware.call(self._definition.hooks["on_message"], context, context.frame)
        answer = None
        for handler, payload in zip(handlers, payloads, strict=True):
            result = await self._middleware.call(handler.function, context, payload)
            answer = result if answer is None else answer
        return answer

    def _answer(
        self, gateway: str, event: messages.FrameInput, context: Context[M, S], result: Any
    ) -> Rest[object] | None:
        assert event.request is not None
        try:
            payload = frames.ack_frame(event.request, result)
            if len(payload) > MAX_OUTPUT_FRAME:
                raise TooLarge(
                    f"answer to {event.event!r}: expected at most {MAX_OUTPUT_FRAME} bytes, got {len(payload)}"
                )
        except Exception as error:  # whatever an object's own encoding raises  # noqa: BLE001
            return self._report(error, context, gateway, event)
        self._sink.output(gateway, messages.Deliver((event.connection,), payload), event.number)
        return None

    def _failed(self, gateway: str, event: messages.FrameInput, error: BaseException) -> None:
        self._refuse(gateway, event, outcome_of(error))

    def _refuse(self, gateway: str, event: messages.FrameInput, outcome: messages.Outcome) -> None:
        refuse(self._sink, gateway, event, outcome)
