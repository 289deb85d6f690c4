"""Bring what rooms say to connections and callers, and tell them of inputs that no room will process.

Invariants:
- An entry is applied whole, within one call: outputs, attachments and acknowledgement become visible together.
- Broadcasts to one audience are joined, but never beyond another output, or the end, of their entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from verani.errors import Interrupted
from verani.frames import error_ack_frame
from verani.link.messages import (
    Attach,
    CallInput,
    Cast,
    Connect,
    Deliver,
    Drain,
    Entry,
    FrameInput,
    GatewayMessage,
    Input,
    Invalid,
    Kick,
    Outcome,
    Output,
    Reply,
    Seat,
)

from ..inputs.attachments import Attachments, RoomInputs
from ..inputs.congestion import Congestion
from ..inputs.metrics import Metrics
from .emptying import Emptying
from .open_connections import OpenConnections
from .outbox import MANY, Run, Writer, deflated_frame, text_frame

__all__ = ["Delivery"]


class Delivery:
    """What one gateway does with entries.

    `replied` takes what calls came to, `answering` gives what answers the owner of a room, and `progress` is set when
    no room has a connection or an unprocessed input any more.
    """

    def __init__(
        self,
        present: OpenConnections,
        attachments: Attachments,
        congestion: Congestion,
        writer: Writer,
        metrics: Metrics,
        *,
        replied: Callable[[Reply], None],
        answering: Callable[[str], Callable[[GatewayMessage], None]],
        progress: asyncio.Event,
    ) -> None:
        self._connections = present.connections
        self._outboxes = present.outboxes
        self._attachments = attachments
        self._congestion = congestion
        self._writer = writer
        self._metrics = metrics
        self._replied = replied
        self._answering = answering
        self._progress = progress
        self.emptying = Emptying(present.outboxes)
        # The broadcasts of the entry being applied that are still being joined.
        self._run: Run | None = None

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply the entries of one batch, each whole."""
        congestion = self._congestion
        was_full = bool(congestion.waiting) and congestion.is_full
        self._writer.hold()
        try:
            for entry in entries:
                self._apply(entry)
            if congestion.waiting:
                congestion.ease([entry.room for entry in entries], was_full=was_full)
        finally:  # or nobody is written to until there is another batch
            self._writer.flush()

    def say(
        self, room: RoomInputs, outputs: Sequence[Output], attachments: Sequence[Attach | Seat], *, at_once: bool
    ) -> None:
        """Apply what a room has said, whole; it is written `at_once`, or with all of the tick."""
        if at_once:
            self._writer.hold()
        try:
            if len(outputs) == 1 and type(output := outputs[0]) is Deliver and len(output.connections) <= MANY:
                self._put_alone(output, at_once=at_once)
            else:
                self._put(room, outputs)
            for attach in attachments:
                self._attachments.attach(room, attach)
        finally:
            if at_once:
                self._writer.flush()

    def _apply(self, entry: Entry) -> None:
        room = self._attachments.rooms.get(entry.room)
        if room is None:
            return
        self._put(room, entry.outputs)
        for attach in entry.attachments:
            self._attachments.attach(room, attach)
        for input, size in self._attachments.acknowledge(room, entry):
            if type(input) is FrameInput:
                connection = self._connections.get(input.connection)
                if connection is not None:
                    connection.in_flight.release(size)
        if not self._attachments.rooms:
            self._progress.set()

    def _put_alone(self, output: Deliver, *, at_once: bool) -> None:
        """Do what a run of one broadcast to few does, without one."""
        outboxes, exclude, count = self._outboxes, output.exclude, 0
        data, small = text_frame(output.payload), b""
        for id in output.connections:
            outbox = outboxes.get(id)
            if outbox is None or id in exclude:
                continue
            count += 1
            least = outbox.deflates_from
            if least is not None and not small:  # once for all
                small = deflated_frame(output.payload, least)
            if at_once:
                outbox.write(data if least is None else small)
            else:
                outbox.put(data if least is None else small)
        self._metrics.deliveries += count

    def _put(self, room: RoomInputs, outputs: Sequence[Output]) -> None:
        for output in outputs:
            # `isinstance` is slow for structs, whose class has a metaclass of its own.
            if type(output) is not Deliver:
                self._end_run()
                self._put_other(room, output)
            elif len(output.connections) > 1:
                self._join(output)
            else:
                if self._run is not None:
                    self._end_run()
                for id in output.connections:
                    outbox = self._outboxes.get(id)
                    if outbox is not None and id not in output.exclude:
                        self._metrics.deliveries += 1
                        least = outbox.deflates_from
                        outbox.put(
                            text_frame(output.payload) if least is None else deflated_frame(output.payload, least)
                        )
        if self._run is not None:
            self._end_run()

    def _put_other(self, room: RoomInputs, output: Output) -> None:
        match output:
            case Reply():
                self._replied(output)
            case Kick():
                self._attachments.note_kick(room, output)
                if (connection := self._connections.get(output.connection)) is not None:
                    connection.close(output.code, output.reason)
            case Invalid():
                if (connection := self._connections.get(output.connection)) is not None:
                    connection.count_invalid("the room could not decode its data")
            case Drain():
                self.emptying.wait(room.name, output, self._answering(room.name))
            case Cast() | Deliver():
                raise AssertionError("the ends of links read the ones, `_put` the others")

    def _join(self, output: Deliver) -> None:
        if self._run is None or not self._run.takes(output.connections, output.exclude, len(output.payload)):
            self._end_run()
            self._run = Run(output.connections, output.exclude)
        self._run.add(output.payload)

    def _end_run(self) -> None:
        if self._run is not None:
            self._metrics.deliveries += self._run.put(self._outboxes)
            self._run = None

    # --- inputs that no room will process --------------------------------------------------------------

    def set_aside(self, room: RoomInputs, number: int) -> tuple[Input, int] | None:
        """Have an input never handled, and tell its sender; return it with its size, None if it is not there."""
        taken = self._attachments.set_aside(room, number)
        for input, size in taken:
            self._interrupt(input, size, Interrupted.code)
        self._moved_on(room)
        return taken[0] if taken else None

    def forget(self, room: RoomInputs, code: int, reason: str, outcome: str) -> None:
        """Close the connections of a room that is not to hear of it; its callers get the `outcome`, an error code."""
        connections = tuple(room.records)
        for input, size in self._attachments.forget(room):
            self._interrupt(input, size, outcome)
        self._close(connections, code, reason)
        self._moved_on(room)

    def miss(self, room: RoomInputs, processed: int, code: int, reason: str) -> None:
        """Close the connections of a room that may have missed something, of which the room is to hear.

        Inputs up to `processed` are done, and who sent them has not heard how; the metas that they led to are lost.
        Who was not told yet to be in has missed nothing, and asks again.
        """
        for input, size in self._attachments.pass_over(room, processed):
            if type(input) is not Connect:
                self._interrupt(input, size, Interrupted.code)
        self._close([id for id, held in room.records.items() if held.connected], code, reason)
        self._moved_on(room)

    def close_room(self, room: RoomInputs, code: int, reason: str) -> None:
        """Close the connections of a room."""
        self._close(tuple(room.records), code, reason)

    def _close(self, connections: Sequence[str], code: int, reason: str) -> None:
        for id in connections:
            if (connection := self._connections.get(id)) is not None:
                connection.close(code, reason)

    def _interrupt(self, input: Input, size: int, outcome: str) -> None:
        """Tell who sent an input that it will not be handled."""
        if isinstance(input, CallInput):
            self._replied(Reply(input.number, Outcome(code=outcome)))
            return
        connection = self._connections.get(input.connection)
        if connection is None:
            return
        match input:
            case FrameInput():
                if input.request is not None:
                    connection.outbox.put(text_frame(error_ack_frame(input.request, outcome)))
                connection.in_flight.release(size)
            case Connect():
                connection.close(1011, "the room could not take the connection")

    def _moved_on(self, room: RoomInputs) -> None:
        self._congestion.ease((room.name,))
        if not self._attachments.rooms:
            self._progress.set()
