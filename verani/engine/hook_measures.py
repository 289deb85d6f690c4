"""Measure the hooks of one definition: how long each took, and how often it failed.

Invariant: what is measured apart is named by the definition, never by a client: there is one measure for all events
that only a handler of ``"*"``, or `on_message`, is there for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..errors import is_refusal
from ..histogram import Histogram
from ..room.context import Context
from ..room.definition import RoomDefinition
from ..room.methods import BUILT_IN

__all__ = ["HookMeasure", "HookMeasures"]

# Those that rooms run; the others of a definition are for gateways, or for a whole host.
_HOOKS: Final = ("on_wake", "on_hibernation_restore", "on_connect", "on_message", "on_disconnect", "on_hibernate")


class HookMeasure(Histogram):
    """How long the runs of one hook took; how many were refused on purpose, and how many failed otherwise."""

    __slots__ = ("errors", "refusals")

    def __init__(self) -> None:
        super().__init__()
        self.errors = 0
        self.refusals = 0

    def failed(self, error: BaseException) -> None:
        """Count an error of it."""
        if is_refusal(error):
            self.refusals += 1
        else:
            self.errors += 1


class HookMeasures:
    """The hooks of a definition, in all rooms of one host."""

    def __init__(self, definition: RoomDefinition[Any, Any]) -> None:
        self._definition = definition
        # By name of the event, as handlers are registered for it; the others by their own names.
        self.events: dict[str, HookMeasure] = {}
        self._others: dict[str, HookMeasure] = {}

    def __iter__(self) -> Iterator[tuple[str, str, HookMeasure]]:
        """Yield kind, name and measure of all that was measured, and of what the definition has besides.

        The kind is event, method or hook.
        """
        definition = self._definition
        for event in definition.handlers.names:
            self.of_event(event)
        for name in (*(definition.methods.keys() - BUILT_IN), *filter(definition.hooks.__contains__, _HOOKS)):
            self.of(name)
        for name, measure in self.events.items():
            yield "event", name, measure
        for name, measure in self._others.items():
            yield "method" if name in definition.methods else "hook", name, measure

    def of_event(self, event: str) -> HookMeasure:
        """Find the measure of an event, that of ``"*"`` or `on_message` for one that has no handler of its own."""
        names = self._definition.handlers.names
        if event not in names:
            if "*" not in names:
                return self.of("on_message")
            event = "*"
        measure = self.events.get(event)
        if measure is None:
            measure = self.events[event] = HookMeasure()
        return measure

    def of(self, name: str) -> HookMeasure:
        """Find the measure of anything but an event, by a name that is of the definition or of ours."""
        measure = self._others.get(name)
        if measure is None:
            measure = self._others[name] = HookMeasure()
        return measure

    def failed(self, error: BaseException, context: Context[Any, Any], name: str = "") -> None:
        """Count an error of a hook, by default the one that the context was made for."""
        self._of_context(context, name).failed(error)

    def named(self, context: Context[Any, Any], name: str = "") -> str:
        """Name a hook for logs, by default the one that the context was made for: as the definition knows it."""
        frame, names = context._frame, self._definition.handlers.names
        if name or frame is None or frame.type in names:
            return name or context.hook
        return "on('*')" if "*" in names else "on_message"

    def _of_context(self, context: Context[Any, Any], name: str) -> HookMeasure:
        if name:
            return self.of(name)
        if context._frame is not None:
            return self.of_event(context._frame.type)
        if context.call is not None:
            return self.of(context.call.method)
        return self.of(context.hook)
