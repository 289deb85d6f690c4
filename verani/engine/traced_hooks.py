"""Run hooks, each in a span of its own, whose parent is the span that has sent what the hook is for.

Invariant: a span ends with its run, however that ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry.trace import Span, SpanKind

from ..link.messages import kind_of
from ..room.meta import M
from ..room.operations import S
from ..tracing import begin_span, failed_with, making_current
from .hook_run import HookRun
from .hook_runner import Hooks, Returned

__all__ = ["TracedHooks"]


class TracedHooks(Hooks[M, S]):
    """The hooks of one incarnation, as spans."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Of hooks that await.
        self._spans: dict[HookRun, Span] = {}

    def _call(
        self, run: HookRun, hook: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Returned | Awaitable[Any] | None:
        self._spans[run] = span = self._begin(run)
        waits = False
        try:
            with making_current(span):
                called = super()._call(run, hook, arguments)
            waits = called is not None and not isinstance(called, Returned)
            return called
        finally:
            if not waits:
                self._end(run)

    async def _await(self, run: HookRun, awaitable: Awaitable[Any], task: asyncio.Task[Any] | None) -> Returned | None:
        span = self._spans.get(run)
        if span is None:  # the room has ended meanwhile
            return await super()._await(run, awaitable, task)
        try:
            with making_current(span):
                return await super()._await(run, awaitable, task)
        finally:
            self._end(run)

    def _abandon(self, run: HookRun) -> None:
        super()._abandon(run)
        self._end(run)

    def end(self) -> None:
        """Be looked after no more."""
        super().end()
        for run in tuple(self._spans):
            self._end(run)

    def _begin(self, run: HookRun) -> Span:
        message = run.message
        about: dict[str, str | int] = {"verani.hook": run.hook}
        if message is not None:
            about |= {"verani.input": kind_of(message), "messaging.message.id": f"{run.gateway}-{message.number}"}
        parent = message.trace if message is not None else None
        return begin_span("process", self._turn.name, SpanKind.CONSUMER, about, parent=parent)

    def _end(self, run: HookRun) -> None:
        span = self._spans.pop(run, None)
        if span is not None:
            if run.error is not None:
                failed_with(span, run.error)
            span.end()
