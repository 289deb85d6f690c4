"""Run the registrar as an actor: `verani_actors.membership.registrar` decides, this knows clocks and addresses.

Launchers find it through the Admin of the leader's machine, whose port is fixed: the Admin passes their offers on, and
every offer is answered with `Welcome`, which comes from the registrar itself.

Invariant: nobody acts on an epoch that is not written down, as the next registrar would not know of it. While the disk
is full, epochs and leases are kept back; who misses them is told when it is heard again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from thespian.actors import ActorAddress

from verani.link.epoch import Epoch

from ..membership.control import (
    REGISTRAR,
    Beaten,
    Commit,
    Control,
    Gone,
    Offer,
    Publish,
    Refused,
    StopHost,
    Welcome,
    host_name,
    launcher_name,
)
from ..membership.registrar import Registrar
from ..upkeep.runtime import Runtime
from .control_actor import ControlActor
from .parcel import Parcel

__all__ = ["RegistrarActor"]

logger = logging.getLogger(__name__)

# How often the registrar looks at the clock; twice as often as what it takes for a pause of its own, at least.
_TICK: Final = 0.1
_TICKS: Final = 12
# In which hosts of other machines have found a new registrar: their launchers offer every second.
_REUNION: Final = 2.0
# After so many seconds of silence an address is forgotten.
_SILENCE: Final = 60.0


class _Party:
    """A launcher or host as it was last heard."""

    def __init__(self, address: ActorAddress, heard: float) -> None:
        self.address = address
        self.heard = heard


class RegistrarActor(ControlActor):
    """The shell of the registrar."""

    def __init__(self, requirements: Mapping[str, Any]) -> None:
        super().__init__(requirements)
        self._runtime = Runtime(requirements["folder"])
        plan = self._runtime.read_plan()
        known = self._runtime.read_epoch()
        self._written = known.number
        # The last epoch, while it could not be written.
        self._unwritten: Epoch | None = None
        self._machine = plan.machine
        self._launcher = launcher_name(plan.machine)
        self._tick = min(_TICK, plan.settings.lease / _TICKS)
        self._core = Registrar(
            plan.machine,
            plan.settings.lease,
            plan.settings.drain_seconds,
            now=time.monotonic(),
            known=known if known.number else None,
            patience=plan.settings.lease + _REUNION if plan.spans_machines else 0.0,
            definitions=plan.definitions,
        )
        self._parties: dict[str, _Party] = {}
        self._started = False

    def received(self, parcel: Parcel, message: Control, sender: ActorAddress) -> None:
        now = time.monotonic()
        address = parcel.addresses.get(parcel.sender, sender)
        if parcel.sender == launcher_name("") and isinstance(message, Welcome):
            return self._start(address)
        if isinstance(message, Offer) and (reason := self._core.refusal(message, now)) is not None:
            self.send(address, Parcel(REGISTRAR, Refused(reason)))
            return None
        letters = self._core.receive(parcel.sender, message, now)
        if not isinstance(message, Gone):
            self._parties[parcel.sender] = _Party(address, now)
        if isinstance(message, Offer):
            self.send(address, Parcel(REGISTRAR, Welcome(self._machine)))
        self._carry_out(letters)
        return None

    def woken(self) -> None:
        self.wakeupAfter(self._tick)
        now = time.monotonic()
        self._parties = {name: party for name, party in self._parties.items() if now - party.heard < _SILENCE}
        if self._unwritten is not None:
            self._write(self._unwritten)
        self._carry_out(self._core.tick(now))

    def _start(self, admin: ActorAddress) -> None:
        """Make the registrar known to the Admin of its machine, as often as the launcher asks for it."""
        self.send(admin, Parcel(REGISTRAR, Welcome(self._machine)))
        if not self._started:
            self._started = True
            self.wakeupAfter(self._tick)

    def _write(self, epoch: Epoch) -> None:
        if epoch.number <= self._written:
            return
        try:
            self._runtime.write_epoch(epoch)
        except OSError as error:
            if self._unwritten is None:
                logger.error("epoch %d cannot be written down, so nobody hears of it yet: %s", epoch.number, error)
            self._unwritten = epoch
        else:
            self._written = epoch.number
            self._unwritten = None

    def _addresses_of_hosts(self) -> dict[str, ActorAddress]:
        return {name: each.address for name, each in self._parties.items() if name.startswith(host_name(""))}

    def _carry_out(self, messages: Iterable[tuple[str, Control]]) -> None:
        hosts: dict[str, ActorAddress] | None = None
        for destination, message in messages:
            if isinstance(message, Publish) and destination == self._launcher:
                # The next registrar is to know of what anybody may have heard of.
                self._write(message.epoch)
            if self._unwritten is not None and isinstance(message, Publish | Commit | Beaten | StopHost):
                continue
            party = self._parties.get(destination)
            if party is None:
                continue  # it will be told again once it is heard
            addresses = {}
            if isinstance(message, Beaten | Commit):
                # Hosts speak to each other when they have lost the registrar.
                if hosts is None:
                    hosts = self._addresses_of_hosts()
                addresses = hosts
            self.send(party.address, Parcel(REGISTRAR, message, addresses))
