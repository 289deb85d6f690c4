"""Carry batches between a gateway and a room host in the same process.

The messages are the ones that a link between processes carries; here they are handed over as they are.
Inputs of one tick leave together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from verani.messages import Arrival, GatewayMessage, HostMessage, InputBatch

__all__ = ["HostEnd", "MemoryLink"]


class HostEnd(Protocol):
    """A room host, as a link sees it."""

    def link(self, gateway: str, send: Callable[[HostMessage], None]) -> None:
        """Take a gateway; `send` carries messages to it."""

    def receive(self, gateway: str, message: GatewayMessage) -> None:
        """Take one message of a gateway."""

    def run(self) -> None:
        """Begin to work on what was received, without waiting for the loop's next pass."""


class MemoryLink:
    """The gateway's end of a link to the embedded host."""

    def __init__(self, gateway: str, host: HostEnd, receive: Callable[[HostMessage], None]) -> None:
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
        self._flush()
        self._host.run()

    def _flush(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._inputs:
            inputs, self._inputs = self._inputs, []
            self._host.receive(self._gateway, InputBatch(inputs))
