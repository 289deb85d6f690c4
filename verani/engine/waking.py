"""Wake a room: make its state, run the hooks of a wake, and try again with the next input where `on_wake` failed.

Invariant: no other hook runs before `on_wake` has returned.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Generic

from ..errors import RoomBusy, is_refusal
from ..link import messages
from ..room.context import Context
from ..room.meta import M
from ..room.operations import S
from .hook_run import HookRun
from .hook_runner import Hooks, Rest, Returned
from .incarnation import Incarnation
from .refusing import closing_of_wake, outcome_of, refuse, reply, turn_away

__all__ = ["Waking"]


class Waking(Generic[M, S]):
    """Whether a room `is_ready` for its events."""

    __slots__ = ("__weakref__", "_hooks", "_room", "_unwoken", "is_ready")

    def __init__(self, room: Incarnation[M, S], hooks: Hooks[M, S]) -> None:
        self._room = room
        self._hooks = hooks
        self.is_ready = "on_wake" not in room.definition.hooks
        # What the input is refused with that woke the room, if `on_wake` failed.
        self._unwoken: messages.Outcome | None = None

    def start(self) -> Rest[object] | None:
        """Wake as far as that needs no task; returns the rest of it."""
        room = self._room
        hooks = room.definition.hooks
        if "on_wake" in hooks or ("on_hibernation_restore" in hooks and room.members.sessions):
            return self._wake
        if room.definition.state is SimpleNamespace:  # the default: no code of the application's runs
            room.make_state()
            return None
        started = self._hooks.start(HookRun(Context(room, None), name="state", role="wake"), room.make_state, ())
        return None if isinstance(started, Returned) else started

    async def _wake(self, gateway: str = "", event: messages.Input | None = None) -> bool:
        """Make the state and run the hooks; False if `event`, which it is tried again for, was refused."""
        room = self._room
        new_run = functools.partial(HookRun, Context(room, None), gateway, event, role="wake")
        fail = functools.partial(self._failed, gateway, event)
        await self._hooks.run(new_run(name="state"), room.make_state)
        hook = room.definition.hooks.get("on_wake")
        if hook is not None:
            self.is_ready = await self._hooks.run(new_run(fail, name="on_wake"), hook, room.actor) is not None
        hook = room.definition.hooks.get("on_hibernation_restore")
        if hook is None or not self.is_ready or not room.members.sessions:
            return self.is_ready
        restore = new_run(None if event is None else fail, name="on_hibernation_restore")
        return await self._hooks.run(restore, hook, room.actor) is not None

    async def wake_for(self, gateway: str, event: messages.Input) -> bool:
        """Try again to wake, for any but the input that the last attempt was for; False if this one is refused."""
        outcome, self._unwoken = self._unwoken, None
        if outcome is not None and self._room.wake_reason not in ("crash", "moved"):  # which need no input to wake
            self._turn_down(gateway, event, outcome)
            return False
        return await self._wake(gateway, event)

    def _failed(self, gateway: str, event: messages.Input | None, error: BaseException) -> None:
        self._room.tasks.cancel()  # what the hook has started, it starts again
        outcome = outcome_of(error) if is_refusal(error) else messages.Outcome(code=RoomBusy.code)
        if event is None:
            self._unwoken = outcome
        else:
            self._turn_down(gateway, event, outcome)

    def _turn_down(self, gateway: str, event: messages.Input, outcome: messages.Outcome) -> None:
        """Refuse an input of a room that could not wake; no hook runs for it."""
        match event:
            case messages.FrameInput():
                refuse(self._room.sink, gateway, event, outcome)
            case messages.Connect():
                turn_away(self._room.sink, gateway, event, *closing_of_wake(outcome))
            case messages.Close():
                self._room.roster.forget(event.connection)
            case messages.CallInput():
                reply(self._room.sink, gateway, event, outcome)
