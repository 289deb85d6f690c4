"""Run the methods that callers outside of a room call: hook runs like any other, with a reply as the last effect."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic

from ..errors import Conflict, InvalidArguments, TooLarge
from ..link import messages
from ..room.context import Context
from ..room.meta import M
from ..room.methods import Call, Method
from ..room.operations import S
from .hook_run import HookRun
from .hook_runner import Hooks
from .incarnation import Incarnation
from .middleware import Middleware
from .outcomes import Outcomes
from .outputs import MAX_OUTPUT_FRAME
from .refusing import PASSING, outcome_of, reply

__all__ = ["IncomingCalls"]


class IncomingCalls(Generic[M, S]):
    """The calls that a room is asked for."""

    def __init__(
        self,
        room: Incarnation[M, S],
        hooks: Hooks[M, S],
        middleware: Middleware[M, S],
        clock: Callable[[], float],
    ) -> None:
        self._room = room
        self._hooks = hooks
        self._middleware = middleware
        self._clock = clock
        # Made with the first call that has a key: most rooms never get one.
        self._outcomes: Outcomes | None = None

    async def called(self, gateway: str, event: messages.CallInput) -> None:
        """Run a call, or refuse it."""
        reply_with = functools.partial(reply, self._room.sink, gateway, event)
        method = self._room.definition.methods.get(event.method)
        if method is None:
            reply_with(messages.Outcome(code="not_found"))
            return
        if isinstance(event, messages.TakenCall) and self._clock() >= event.expires:
            reply_with(messages.Outcome(code="deadline"))
            return
        try:
            if (remembered := self._remembered(event)) is not None:
                reply_with(remembered)
                return
            arguments = method.decode(event.arguments)
        except (Conflict, InvalidArguments) as error:
            reply_with(messages.Outcome(code=error.code, path=getattr(error, "path", None), message=str(error)))
            return
        except BaseException as error:  # a __post_init__ of an argument's type is the user's code, too  # noqa: BLE001
            self._failed(gateway, event, error)
            context = Context(self._room, None, call=Call(method.name, {}))
            await self._hooks.report(error, context, gateway, event)
            return
        await self._run(gateway, event, method, arguments)

    async def _run(self, gateway: str, event: messages.CallInput, method: Method, arguments: dict[str, Any]) -> None:
        context = Context(self._room, None, call=Call(method.name, arguments))
        run: Callable[[], Any] = functools.partial(method.function, self._room.actor, **arguments)
        if self._middleware.functions:
            run = functools.partial(self._middleware.through, context, run)
        fail = functools.partial(self._failed, gateway, event)
        outcome = await self._hooks.run(HookRun(context, gateway, event, fail), run)
        if outcome is None:
            return
        try:
            result = method.encode(outcome.value)
            if len(result) > MAX_OUTPUT_FRAME:
                raise TooLarge(f"result of {method.name}: expected at most {MAX_OUTPUT_FRAME} bytes, got {len(result)}")
        except Exception as error:  # whatever an object's own encoding raises  # noqa: BLE001
            self._failed(gateway, event, error)
            await self._hooks.report(error, context, gateway, event)
            return
        self._conclude(gateway, event, messages.Outcome(result))

    def _remembered(self, event: messages.CallInput) -> messages.Outcome | None:
        if event.key is None or self._outcomes is None:
            return None
        return self._outcomes.get(event.key, event.method, event.arguments)

    def _failed(self, gateway: str, event: messages.CallInput, error: BaseException) -> None:
        self._conclude(gateway, event, outcome_of(error))

    def _conclude(self, gateway: str, event: messages.CallInput, outcome: messages.Outcome) -> None:
        """Remember what a call came to, and answer it."""
        if event.key is not None and outcome.code not in PASSING:
            self._outcomes = self._outcomes or Outcomes()
            self._outcomes.remember(event.key, event.method, event.arguments, outcome)
        reply(self._room.sink, gateway, event, outcome)
