"""Send what a room says to its connections, within the limits of a hook.

Invariant: outputs of the running hook are written to the sink as they occur; outputs of anything else (spawned tasks)
wait until no hook runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from threading import get_ident
from typing import Any, Generic

from ..errors import RoomBusy, TooLarge
from ..link import messages
from ..room.meta import M
from ..room.session import Session
from .audience import Audience, Membership
from .hook_run import HookRun, Turn, running
from .sink import Sink

__all__ = ["MAX_HOOK_OUTPUT", "MAX_OUTPUT_FRAME", "Outputs"]

# Section 7 of the design: what one hook may output, and what one frame may hold.
MAX_HOOK_OUTPUT = 16 << 20
MAX_OUTPUT_FRAME = 1 << 20

# Python 3.11 looks the method of an imported name up in each call.
_current_run = running.get

# What the shortest frame counts as: who sends it, and to whom, is kept, too.
_LEAST = 32


class Outputs(Generic[M]):
    """The outputs of a room. While `is_full` says so, what spawned tasks send is refused: nothing else paces them."""

    __slots__ = ("__weakref__", "_between_bytes", "_is_full", "_members", "_sink", "_turn", "between")

    def __init__(self, turn: Turn, members: Membership[M], sink: Sink, is_full: Callable[[], bool] | None) -> None:
        self._turn = turn
        self._members = members
        self._sink = sink
        self._is_full = is_full
        self.between: list[tuple[str, messages.Output]] = []
        # Of what waits, if anything does.
        self._between_bytes = 0

    def to_all(self, frame: bytes) -> int:
        """Send a frame to everybody, and count them."""
        return self._send(self._charge(frame), self._members.everybody(), frame)

    def to_channel(self, channel: str, frame: bytes, exclude: tuple[str, ...]) -> int:
        """Send a frame to everybody in a channel but the excluded; the audience object is reused while it lasts."""
        run = self._charge(frame)
        audience = self._members.channel(channel)
        absent = self._members.count_in(channel, exclude) if exclude else 0
        return self._send(run, audience, frame, exclude if absent else ()) - absent

    def to_selected(
        self,
        channel: str | None,
        frame: bytes,
        *,
        user_ids: Collection[str] | None = None,
        client_ids: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> int:
        """Send a frame to those who pass every filter that is given."""
        run = self._charge(frame)
        audience = self._members.select(channel, user_ids=user_ids, client_ids=client_ids, exclude=exclude)
        return self._send(run, audience, frame)

    def to_session(self, session: Session[Any], frame: bytes) -> int:
        """Send a frame to one connection; 0 if it has left."""
        run = self._charge(frame)
        if session.id not in self._members.sessions:
            return 0
        deliver = messages.Deliver((session.id,), frame)
        if run is None:
            self.put(session.gateway, deliver)
        else:  # as `put` does
            self._sink.output(session.gateway, deliver, run.message.number if run.message is not None else None)
        return 1

    def _send(self, run: HookRun | None, audience: Audience, frame: bytes, exclude: tuple[str, ...] = ()) -> int:
        for gateway, connections in audience.targets:
            deliver = messages.Deliver(connections, frame, exclude)
            if run is None:
                self.put(gateway, deliver)
            else:  # as `put` does
                self._sink.output(gateway, deliver, run.message.number if run.message is not None else None)
        return audience.count

    def _charge(self, frame: bytes) -> HookRun | None:
        """Check that the caller may send this frame, and count it; returns its run if it is the hook that runs.

        Raises as `Turn.check_awake` does, and `TooLarge` over the limits.
        """
        turn, size = self._turn, len(frame)
        run = turn.current
        if run is None or run is not _current_run() or not turn.awake or turn.thread.ident != get_ident():
            turn.check_awake()
            run = run if run is _current_run() else None
        before = run.output if run is not None else self._between_bytes if self.between else 0
        total = before + (size if size > _LEAST else _LEAST)
        if size > MAX_OUTPUT_FRAME or total > MAX_HOOK_OUTPUT:  # what is refused was not output and does not count
            raise self._too_large(size)
        if run is not None:  # which is armed
            run.output = total
        elif self._is_full is not None and self._is_full():
            raise RoomBusy(f"{turn.name}: its gateways are far behind what it has sent; wait before a task sends more")
        else:
            self._between_bytes = total
        return run

    def _too_large(self, size: int) -> TooLarge:
        if size > MAX_OUTPUT_FRAME:
            return TooLarge(f"expected a frame of at most {MAX_OUTPUT_FRAME} bytes, got {size}")
        return TooLarge(f"{self._turn.name}: expected at most {MAX_HOOK_OUTPUT} bytes of output in one hook")

    def put(self, gateway: str, output: messages.Output) -> None:
        """Write now if this is the running hook or none runs; queue the outputs of spawned tasks otherwise."""
        current = self._turn.current
        if current is None:
            self._sink.output(gateway, output, None)
        elif current is _current_run():
            self._sink.output(gateway, output, current.message.number if current.message is not None else None)
        else:
            self.between.append((gateway, output))

    def flush(self) -> None:
        """Write what spawned tasks have sent while a hook ran."""
        queued, self.between = self.between, []
        for gateway, output in queued:
            self._sink.output(gateway, output, None)

    def clear(self) -> None:
        """Drop what is queued."""
        self.between.clear()
