"""One live actor as the system base knows it, its address, and an envelope: what a message passes through.

It takes no decision: an `ActorRef` is what an `Actor` reaches as `_myRef`, and hands every call to the base.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

from msgspec import Struct
from thespian.actors import Actor, ActorAddress, ActorSystemException

__all__ = ["EXTERNAL", "NO_SOURCES", "SYSTEM", "ActorRef", "Address", "Base", "Envelope", "UnsupportedCall"]

NO_SOURCES = "import the actor's module before creating the actor"
NO_CONVENTION = "only Thespian's network bases have a convention"


class UnsupportedCall(ActorSystemException):
    """A Thespian call that this base cannot honour: `call` is its name, `instead` what to do."""

    def __init__(self, call: str, instead: str) -> None:
        super().__init__(f"{call} is not supported by AsyncioSystemBase: {instead}")
        self.call = call
        self.instead = instead


class Base(Protocol):
    """What an `ActorRef` asks of the system base."""

    def _post(self, receiver: ActorAddress, sender: ActorAddress, message: object) -> None: ...
    def _create_child(
        self,
        parent: "ActorRef",
        actor_class: type[Actor] | str,
        requirements: Mapping[str, Any] | None,
        name: str | None,
        source_hash: str | None,
    ) -> ActorAddress: ...
    def _wake_after(self, ref: "ActorRef", period: timedelta | float, payload: object) -> None: ...
    def _handleDeadLetters(self, address: ActorAddress, enable: bool) -> None: ...
    def _shutdown_soon(self) -> None: ...
    def updateCapability(self, name: str, value: object = None) -> None: ...
    def loadActorSource(self, fname: object) -> str: ...
    def unloadActorSource(self, source_hash: str) -> None: ...


class Address(ActorAddress):
    """An address whose string is a plain slot: it is the key of every table, read once or twice a message."""

    __slots__ = ("actorAddressString",)

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.actorAddressString = key  # type: ignore[misc]  # a slot in place of the property: see above


# The sender of what the base itself says, and of what is sent from outside; nothing is delivered to either.
SYSTEM = Address("/ActorSys")
EXTERNAL = Address("System:ExternalRequester")


class Envelope(Struct, eq=False):
    """A message under way; `attempts` is how many runs are left."""

    receiver: ActorAddress
    sender: ActorAddress
    message: object
    attempts: int


class ActorRef:
    """One live actor, and what its `Actor` object reaches as `_myRef`."""

    __slots__ = (
        "address",
        "alive",
        "base",
        "children",
        "current",
        "generation",
        "globalName",
        "instance",
        "key",
        "mailbox",
        "parent",
        "task",
    )

    def __init__(self, base: Base, address: Address, parent: "ActorRef | None", name: str) -> None:
        self.base = base
        self.address = address
        self.key = address.actorAddressString
        self.parent = parent
        self.globalName = name
        self.instance: Actor | None = None
        self.alive = False
        # Created on need: most of 100,000 idle actors have neither.
        self.children: dict[str, ActorRef] | None = None
        self.mailbox: deque[Envelope] | None = None
        # The drain task that owns the mailbox, while the actor is busy, and the message it awaits, if any.
        self.task: asyncio.Task[None] | None = None
        self.current: Envelope | None = None
        self.generation = 0

    def actor_send(self, address: ActorAddress, message: object) -> None:
        self.base._post(address, self.address, message)

    def createActor(
        self,
        actor_class: type[Actor] | str,
        requirements: Mapping[str, Any] | None,
        name: str | None,
        source_hash: str | None = None,
    ) -> ActorAddress:
        return self.base._create_child(self, actor_class, requirements, name, source_hash)

    def wakeupAfter(self, period: timedelta | float, payload: object) -> None:
        self.base._wake_after(self, period, payload)

    def handleDeadLetters(self, address: ActorAddress, enable: bool) -> None:
        self.base._handleDeadLetters(address, enable)

    def updateCapability(self, name: str, value: object) -> None:
        self.base.updateCapability(name, value)

    def notifyOnSystemRegistrationChanges(self, address: ActorAddress, enable: bool) -> None:
        """Do nothing, as simpleSystemBase: there is no convention whose members could change."""

    def actorSystemShutdown(self) -> None:
        self.base._shutdown_soon()

    def registerSourceAuthority(self, address: ActorAddress) -> None:
        raise UnsupportedCall("registerSourceAuthority", NO_SOURCES)

    def notifyOnSourceAvailability(self, address: ActorAddress, enable: bool) -> None:
        raise UnsupportedCall("notifyOnSourceAvailability", NO_SOURCES)

    def loadActorSource(self, fname: object) -> str:
        return self.base.loadActorSource(fname)

    def unloadActorSource(self, source_hash: str) -> None:
        self.base.unloadActorSource(source_hash)

    def preRegisterRemoteSystem(self, address: object, capabilities: object) -> None:
        raise UnsupportedCall("preRegisterRemoteSystem", NO_CONVENTION)

    def deRegisterRemoteSystem(self, address: object) -> None:
        raise UnsupportedCall("deRegisterRemoteSystem", NO_CONVENTION)
