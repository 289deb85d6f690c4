"""Say what the gateway's end of a link to a room host is, and be one to a host in the same process.

The messages are the ones that a link between processes carries (`verani_gateway.placement.remote_link`); in memory they
are handed over as they are. Inputs of one tick leave together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias, get_args

from verani.link.epoch import Member
from verani.link.messages import Arrival, GatewayMessage, HostMessage, InputBatch
from verani_actors.rooms.host import RoomHost

__all__ = ["LINK_STATES", "Link", "LinkState", "MemoryLink"]

LinkState: TypeAlias = Literal["connecting", "linked", "broken"]
LINK_STATES: Final[tuple[LinkState, ...]] = get_args(LinkState)


class Link(Protocol):
    """The gateway's end of the link to a host in another process, over as many connections as it takes.

    What is put and sent while its connection is broken waits. A session that cannot be resumed takes all that with it:
    what is put before its owner is told that it is open, is lost.
    """

    @property
    def epoch(self) -> int:
        """Number of the epoch in which inputs are put; those that wait keep theirs."""

    @epoch.setter
    def epoch(self, number: int, /) -> None: ...

    @property
    def member(self) -> Member:
        """Give the host at the other end."""

    @property
    def state(self) -> LinkState:
        """Name what the link does now."""

    @property
    def unconfirmed(self) -> int:
        """Count the bytes that the host has not confirmed."""

    def put(self, arrival: Arrival, /) -> None:
        """Send an input at the end of the tick."""

    def send(self, message: GatewayMessage, /) -> None:
        """Send anything but inputs, after the inputs that wait."""

    def start(self) -> None:
        """Connect, and connect again whenever it breaks."""

    def close_now(self) -> None:
        """End at once: nothing is sent or received from now on."""

    async def close(self) -> None:
        """End after what waits has left, within a moment."""


class MemoryLink:
    """The gateway's end of a link to the embedded host."""

    def __init__(self, gateway: str, host: RoomHost, receive: Callable[[HostMessage], None]) -> None:
        """Open the link; `receive` takes what the host says."""
        self._gateway = gateway
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._inputs: list[Arrival] = []
        self._handle: asyncio.Handle | None = None
        host.link(gateway, receive)

    def put(self, input: Arrival) -> None:
        """Send an input at the end of the tick."""
        self._inputs.append(input)
        if self._handle is None:
            self._handle = self._loop.call_soon(self._end_tick)

    def send(self, message: GatewayMessage) -> None:
        """Send anything but inputs, after the inputs that wait."""
        self._flush()
        self._host.receive(self._gateway, message)

    def _end_tick(self) -> None:
        inputs, self._inputs, self._handle = self._inputs, [], None
        self._host.receive(self._gateway, InputBatch(inputs))
        self._host.run()

    def _flush(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._inputs:
            inputs, self._inputs = self._inputs, []
            self._host.receive(self._gateway, InputBatch(inputs))
