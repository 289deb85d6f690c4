"""Know the live actors, by address and by name, and who is whose parent.

Invariant: an actor that is gone leaves no entry, also not at its parent; addresses are never used again.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType

from thespian.actors import Actor, ActorAddress

from .reference import ActorRef, Address, Base

__all__ = ["ActorDirectory"]


class ActorDirectory:
    """The live actors; `live` is by the string of the address, `names` has those that were given a global name."""

    def __init__(self) -> None:
        self.live: dict[str, ActorRef] = {}
        self.names: dict[str, ActorRef] = {}
        self._created = 0

    def find(self, address: ActorAddress) -> ActorRef | None:
        """Find the live actor at an address."""
        return self.live.get(address.actorAddressString)

    def reserve(self, base: Base, parent: ActorRef | None, name: str | None) -> ActorRef:
        """Give an actor that is about to be created its address."""
        self._created += 1
        return ActorRef(base, Address(f"/A~{self._created}"), parent, name or "")

    def enter(self, ref: ActorRef, instance: Actor) -> None:
        """Make an actor live."""
        ref.instance = instance
        instance._myRef = ref
        instance._receive = MethodType(_receive, instance)  # type: ignore[attr-defined]  # a hook of simpleSystemBase
        ref.alive = True
        self.live[ref.key] = ref
        if ref.globalName:
            self.names[ref.globalName] = ref
        if ref.parent is not None:
            if ref.parent.children is None:
                ref.parent.children = {}
            ref.parent.children[ref.key] = ref

    def remove(self, ref: ActorRef) -> Iterable[ActorRef]:
        """End an actor; returns its children, which live on."""
        children = ref.children or {}
        _unlink(ref)
        del self.live[ref.key]
        if self.names.get(ref.globalName) is ref:
            del self.names[ref.globalName]
        if ref.parent is not None and ref.parent.children is not None:
            ref.parent.children.pop(ref.key, None)
        return children.values()

    def clear(self) -> None:
        """End all actors."""
        for ref in self.live.values():
            _unlink(ref)
        self.live.clear()
        self.names.clear()


def _receive(actor: Actor, message: object, sender: ActorAddress) -> object:
    # Looked up at each call, as simpleSystemBase does, so that an actor may replace its receiveMessage.
    return actor.receiveMessage(message, sender)


def _unlink(ref: ActorRef) -> None:
    ref.alive = False
    # The hook is a bound method in its own instance: a cycle that would wait for the collector.
    if ref.instance is not None:
        vars(ref.instance).pop("_receive", None)
    ref.instance = None
    ref.mailbox = None
    ref.children = None
