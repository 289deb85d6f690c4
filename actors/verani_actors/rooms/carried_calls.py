"""Have gateways carry the calls that rooms and actors of this host make: they know which host has which room.

A gateway ends each call at its deadline. Invariant: every call gets one outcome, or its caller is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import TypeAlias

from verani.link.messages import HostMessage, Invoke, Outcome

__all__ = ["CarriedCalls"]

_Done: TypeAlias = Callable[[Outcome], None]

# In place of a room that calls: somebody in the actor system.
_ACTORS = ""


class CarriedCalls:
    """Calls under way, and the gateway that carries each."""

    def __init__(self, gateways: Mapping[str, Callable[[HostMessage], None]], timeout: float) -> None:
        """Have `gateways` carry calls; `timeout`, in seconds, is that of actors that do not say."""
        self._gateways = gateways
        self._timeout = timeout
        self._tokens = count(1)
        # By the room that calls, then by token.
        self._carried: dict[str, dict[int, tuple[str, _Done]]] = {}

    def call(
        self,
        room: str,
        method: str,
        arguments: bytes,
        *,
        timeout: float | None,
        idempotency_key: str | None,
        done: _Done,
    ) -> None:
        """Call a room, of this host or another, for somebody in the actor system; `done` is told what came of it."""
        timeout = self._timeout if timeout is None else timeout
        self.carry(
            _ACTORS, Invoke(_ACTORS, next(self._tokens), room, method, arguments, timeout, idempotency_key), done
        )

    def carry(self, caller: str, invoke: Invoke, done: _Done, preferred: str | None = None) -> None:
        """Have the preferred gateway carry a call, or any."""
        gateway = next(iter(self._gateways), "") if preferred is None else preferred
        send = self._gateways.get(gateway)
        if send is None:
            done(Outcome(code="busy", message="no gateway is linked"))
            return
        self._carried.setdefault(caller, {})[invoke.token] = gateway, done
        send(invoke)

    def replied(self, caller: str, token: int, outcome: Outcome) -> None:
        """Take the outcome of a call."""
        calls = self._carried.get(caller, {})
        if token in calls:
            _, done = calls.pop(token)
            if not calls:
                del self._carried[caller]
            done(outcome)

    def lose(self, gateway: str) -> None:
        """Answer the calls that this gateway will not answer any more."""
        for caller, calls in tuple(self._carried.items()):
            for token, (carrier, _) in tuple(calls.items()):
                if carrier == gateway:
                    self.replied(caller, token, Outcome(code="interrupted"))

    def forget(self, caller: str) -> None:
        """Forget the calls of a room whose incarnation is over."""
        self._carried.pop(caller, None)

    def end(self) -> None:
        """Answer every call that is under way, and carry no more."""
        self._gateways = {}
        for gateway in {gateway for calls in self._carried.values() for gateway, _ in calls.values()}:
            self.lose(gateway)
