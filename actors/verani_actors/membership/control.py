"""Define the messages between registrar, launchers and room hosts: control only, never frames.

Thespian carries these messages (`verani_actors.processes`), and knows the addresses. All are tagged
structs whose fields are only ever appended. Each party has a name, by which messages say where they come from and go:
`registrar`, `launcher:<machine>` or `host:<incarnation>`.

    launcher -> registrar   Offer, Gone
    registrar -> launcher   Welcome, Refused, StartHost, StopHost, Publish, EndMachine
    host -> registrar       Beat, Prepared, DrainHost
    registrar -> host       Beaten, Prepare, Commit
    host -> host            Knock, Vouch
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from verani.link.epoch import Death, Epoch, Member

__all__ = [
    "REGISTRAR",
    "Beat",
    "Beaten",
    "Commit",
    "Control",
    "DrainHost",
    "EndMachine",
    "Gone",
    "Knock",
    "Letters",
    "Offer",
    "Prepare",
    "Prepared",
    "Publish",
    "Refused",
    "StartHost",
    "StopHost",
    "Vouch",
    "Welcome",
    "decode_control",
    "encode_control",
    "host_name",
    "launcher_name",
]

REGISTRAR: Final = "registrar"


def host_name(incarnation: str) -> str:
    """Name a host process."""
    return f"host:{incarnation}"


def launcher_name(machine: str) -> str:
    """Name the launcher of a machine."""
    return f"launcher:{machine}"


class Offer(Struct, frozen=True, tag="offer"):
    """A machine offers to run this many hosts; sent at the start, after `Welcome`, and again every second.

    `service` is another one after each start of `verani serve` or `verani join` there. `epoch` is the one that was last
    published there: gateways accept only higher numbers, also from a service that was started anew. `definitions` are
    the addresses of the room definitions that its hosts serve.
    """

    machine: str
    address: str
    hosts: int
    service: str = ""
    epoch: Epoch = Epoch()
    definitions: tuple[str, ...] = ()


class Gone(Struct, frozen=True, tag="gone"):
    """The process of a host of this machine has ended for certain; `death` where a hook has killed it."""

    id: str
    incarnation: str
    death: Death | None = None


class Welcome(Struct, frozen=True, tag="welcome"):
    """A registrar is here: the sender."""

    machine: str


class Refused(Struct, frozen=True, tag="refused"):
    """The machine that offered is not let in; `reason` is for its log."""

    reason: str


class EndMachine(Struct, frozen=True, tag="end_machine"):
    """The whole service ends, and no host is left: end the machine's part of it, too."""


class StartHost(Struct, frozen=True, tag="start_host"):
    """Create the host of this id, unless it runs."""

    id: str


class StopHost(Struct, frozen=True, tag="stop_host"):
    """The host has no room any more and is not to be started again: end its process."""

    id: str
    incarnation: str


class Publish(Struct, frozen=True, tag="publish"):
    """Write the committed epoch down for the gateways of this machine."""

    epoch: Epoch


class Beat(Struct, frozen=True, tag="beat"):
    """The heartbeat of a host; the first one asks to be a member.

    `sent` is its own monotonic clock, in seconds. `epoch` is the one it committed, from which a new registrar learns
    what the last one knew; `prepared` the highest number it prepared; `vouched` how many seconds ago it vouched last;
    `gateways` are those it is linked to.
    """

    member: Member
    sent: float
    epoch: Epoch
    prepared: int = 0
    vouched: float | None = None
    gateways: tuple[str, ...] = ()


class Beaten(Struct, frozen=True, tag="beaten"):
    """Answer to `Beat`, with its `sent`: the host may serve for one lease from then on."""

    sent: float


class Prepare(Struct, frozen=True, tag="prepare"):
    """Give up the rooms that are not yours in this epoch, and answer `Prepared`."""

    epoch: Epoch


class Prepared(Struct, frozen=True, tag="prepared"):
    """Every room that this host loses in the epoch sleeps, and the gateways have all its outputs."""

    id: str
    incarnation: str
    number: int


class Commit(Struct, frozen=True, tag="commit"):
    """The epoch is in force; `gateways` are those that any member was linked to, for one that is new."""

    epoch: Epoch
    gateways: tuple[str, ...] = ()


class DrainHost(Struct, frozen=True, tag="drain_host"):
    """Somebody wants this host, or with an empty id every host, to give up its rooms and end.

    With `again`, which only the host itself sends, repeatedly, it is to be started anew then.
    """

    id: str = ""
    again: bool = False


class Knock(Struct, frozen=True, tag="knock"):
    """Ask a host of another machine to vouch that the registrar cannot have removed the sender."""

    machine: str
    sent: float
    epoch: int


class Vouch(Struct, frozen=True, tag="vouch"):
    """Answer to `Knock`, with its `sent`: this machine has lost the registrar too and prepared nothing newer."""

    machine: str
    sent: float


Control: TypeAlias = (
    Offer
    | Gone
    | Welcome
    | Refused
    | EndMachine
    | StartHost
    | StopHost
    | Publish
    | Beat
    | Beaten
    | Prepare
    | Prepared
    | Commit
    | DrainHost
    | Knock
    | Vouch
)

# Messages and their destinations, in the order in which they are to be sent.
Letters: TypeAlias = list[tuple[str, Control]]

encode_control = msgspec.msgpack.Encoder().encode
decode_control = msgspec.msgpack.Decoder(Control).decode
