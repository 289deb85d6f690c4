"""Answer for the whole service, whichever gateway an operator has reached.

`Alone` is the gateway whose rooms live in its own process. `Overview` asks all room hosts over the links, and has one
of them ask the other gateways; who does not answer within two seconds is named as missing. `merge_rooms` and
`merge_metrics` put together what came; the rest is told as it came.

Invariants:
- A room that its owner has awake is never listed as asleep, however much of the answers was cut.
- Rooms are looked at in slices; the event loop has its turns between them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from verani.errors import Conflict, InvalidArguments, NotFound, RoomBusy
from verani.link.epoch import Epoch, Member
from verani.link.messages import Ask, Told
from verani_actors.operating.answers import (
    ALL,
    MAX_ROOMS,
    SLICE,
    GatewayStatus,
    HostStatus,
    RoomHeld,
    RoomsHeld,
    RoomsQuestion,
    RoomsTold,
    gateway_target,
    host_target,
)
from verani_actors.operating.measures import Metric, gauge, render
from verani_actors.rooms.life import RoomStatus

from .exposition import exposition

if TYPE_CHECKING:
    from ..gateway import Gateway
    from ..inputs.attachments import RoomInputs
    from ..placement.placement import Placement

__all__ = [
    "CUT",
    "Alone",
    "Answers",
    "Asking",
    "Collected",
    "Listing",
    "Overview",
    "ServiceStatus",
    "answer",
    "merge_metrics",
    "merge_rooms",
]

# Header of a list of rooms, `true` where there are more rooms of those that were asked for than it tells.
CUT: Final = "X-Verani-Truncated"

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Rooms = TypeVar("_Rooms", RoomsTold, RoomsHeld)

# Seconds that the other processes get to answer.
PATIENCE: Final = 2.0

# How long a process gets to find out whether its code can be imported, which has a limit of its own; and how often it
# is asked, in seconds.
_CHECK_PATIENCE: Final = 40.0
_CHECK_LOOK: Final = 0.2


class Listing(NamedTuple):
    """Rooms, those that are awake first; `cut` if fewer than were asked for, because there are too many to tell."""

    rooms: AsyncIterator[RoomStatus]
    cut: bool


class ServiceStatus(Struct, frozen=True):
    """All processes of a service that take part in serving; `missing` did not answer."""

    epoch: int
    registrar: str
    members: list[HostStatus]
    gateways: list[GatewayStatus]
    missing: list[str]


class Answers(Protocol):
    """What the internal listener is asked about the service."""

    @property
    def ready(self) -> bool:
        """Whether whoever connects to the public listener now is taken and served."""

    async def rooms(self, question: RoomsQuestion) -> Listing:
        """List rooms."""

    async def room(self, name: str) -> RoomStatus | None:
        """Explain one room; None for one that nobody is in and that is not awake."""

    async def metrics(self) -> str:
        """Write down all counters and gauges."""

    async def cluster(self) -> ServiceStatus:
        """Describe the processes."""

    async def quarantine(self) -> list[msgspec.Raw]:
        """List the inputs that are kept from rooms."""

    async def drain(self, target: str) -> None:
        """Begin to take a process, or all, out of service; raises `NotFound`, `Conflict` or `InvalidArguments`."""

    async def check(self, target: str) -> None:
        """Import, in a process of its own, what a process would be started with now, or with `all` every machine's.

        Raises `Conflict` with what is wrong where that is not possible.
        """

    async def restart(self, target: str) -> None:
        """Check that, and begin to start a process anew; raises what `drain` does, and `Conflict` as `check` does."""


class Alone:
    """The one gateway of a service, with the rooms in its own process."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def ready(self) -> bool:
        """Ask the gateway."""
        return self._gateway.serves

    async def rooms(self, question: RoomsQuestion) -> Listing:
        """List all rooms: there is no link that they would have to pass."""
        return Listing(self._rooms(question), cut=False)

    async def _rooms(self, question: RoomsQuestion) -> AsyncIterator[RoomStatus]:
        left = question.limit
        for number, name in enumerate(self._gateway.room_names()):
            if left == 0:
                return
            if number % SLICE == 0:
                await asyncio.sleep(0)
            status = self._gateway.room(name)
            if status is not None and question.state in (None, status.state):
                yield status
                left = None if left is None else left - 1

    async def room(self, name: str) -> RoomStatus | None:
        """Explain one room."""
        return self._gateway.room(name)

    async def metrics(self) -> str:
        """Write down the counters of gateway and host together, without labels."""
        return exposition(self._gateway)

    async def cluster(self) -> ServiceStatus:
        """Describe the one process."""
        gateway = self._gateway
        status = GatewayStatus(
            id=gateway.id,
            machine="",
            pid=os.getpid(),
            epoch=0,
            connections=len(gateway.connections),
            links={},
            draining=not gateway.accepting,
        )
        return ServiceStatus(0, "", [], [status], [])

    async def quarantine(self) -> list[msgspec.Raw]:
        """Say that there is nothing: what kills the room host kills its gateway too."""
        return []

    async def drain(self, target: str) -> None:
        """Refuse: the one process is drained by stopping it."""
        _check_target(target)
        raise NotFound("the service is one process; SIGTERM drains it")

    async def check(self, target: str) -> None:
        """Refuse, as `restart` does."""
        await self.restart(target)

    async def restart(self, target: str) -> None:
        """Refuse: nobody would be there meanwhile."""
        _check_target(target)
        raise NotFound("the service is one process, which whoever started it starts anew; --hosts makes it several")


class Asking(Protocol):
    """What answering for the service needs of the placement."""

    @property
    def epoch(self) -> Epoch:
        """The epoch in force here."""

    def ask(self, member: Member, ask: Ask) -> bool:
        """Send a question to a room host; False where there is no link to it."""


class Collected:
    """The answers of one question, as JSON by id of the process."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.hosts: dict[str, bytes] = {}
        self.gateways: dict[str, bytes] = {}
        self.missing: list[str] = []

    def decoded(self, kind: Any) -> list[Any]:
        """Read what the gateways said, without those that say nothing."""
        return _decoded(self.gateways, kind)

    def told(self, kind: Any) -> list[Any]:
        """Read what processes of both kinds said, without those that say nothing."""
        return [*self.decoded(kind), *self.decoded_hosts(kind)]

    def decoded_hosts(self, kind: Any) -> list[Any]:
        """Read what the hosts said."""
        return _decoded(self.hosts, kind)


def _decoded(bodies: Mapping[str, bytes], kind: Any) -> list[Any]:
    return [msgspec.json.decode(body, type=kind) for body in bodies.values() if body != b"null"]


class _Question:
    """One question on its way."""

    def __init__(self, collected: Collected, hosts: Iterable[str], relay: str) -> None:
        self.collected = collected
        self.hosts = set(hosts)
        # Of the other gateways nothing is known before the host that passes the question on has answered.
        self.relay = relay
        self.gateways: set[str] = set()
        # Whether the host that passes it on is gone: what has not come by now does not come.
        self.is_cut_short = False
        self.done = asyncio.Event()

    def take(self, told: Told) -> None:
        if told.sender in self.hosts:
            self.hosts.discard(told.sender)
            self.collected.hosts[told.sender] = told.body
        else:
            self.gateways.discard(told.sender)
            self.collected.gateways[told.sender] = told.body
        if told.sender == self.relay:
            self.gateways |= {name for name in told.more if name not in self.collected.gateways}
        self._look()

    def lose(self, host: str) -> None:
        """Wait no longer for a host that has left, nor for what it would have passed on."""
        self.hosts.discard(host)
        self.is_cut_short = self.is_cut_short or host == self.relay
        self._look()

    def _look(self) -> None:
        if not self.hosts and (self.is_cut_short or not self.gateways):
            self.done.set()


class Overview:
    """The answers of a gateway whose rooms live in other processes. The placement gives it every `Ask` and `Told`.

    `answer` is what this gateway itself says to a topic and argument, `ready` whether all that share its port are.
    """

    def __init__(
        self,
        own: str,
        asking: Asking,
        answer: Callable[[str, str], bytes],
        *,
        ready: Callable[[], bool],
        patience: float = PATIENCE,
    ) -> None:
        self._own = own
        self._asking = asking
        self._answer = answer
        self._ready = ready
        self._patience = patience
        self._tokens = count(1)
        self._questions: dict[int, _Question] = {}

    # --- what comes over links -------------------------------------------------------------------------

    def asked(self, ask: Ask) -> Told:
        """Answer a host that asks in the name of another gateway."""
        return Told(ask.token, self._own, self._answer(ask.topic, ask.argument))

    def told(self, told: Told) -> None:
        """Take an answer; one that comes too late is nobody's any more."""
        if (question := self._questions.get(told.token)) is not None:
            question.take(told)

    def lost(self, host: str) -> None:
        """Take note that a host is a member no more."""
        for question in self._questions.values():
            question.lose(host)

    async def collect(self, topic: str, argument: str = "") -> Collected:
        """Ask every process of the service, this one included."""
        collected = Collected(self._own)
        token = next(self._tokens)
        members = {member.id: member for member in self._asking.epoch.members}
        asked: list[str] = []
        question = self._questions[token] = _Question(collected, members, "")
        try:
            for id, member in members.items():
                # The first that has a link passes the question on.
                if self._asking.ask(member, Ask(token, topic, argument, relay=not asked)):
                    asked.append(id)
                    question.relay = question.relay or id
            if asked:
                try:
                    # Those without a link may still get one, but not in time.
                    question.hosts &= set(asked)
                    async with asyncio.timeout(self._patience):
                        await question.done.wait()
                except TimeoutError:
                    logger.warning(
                        "no answer to %s from %s", topic, ", ".join(sorted(question.hosts | question.gateways))
                    )
        finally:
            del self._questions[token]
        collected.gateways = {
            id: body for id, body in collected.gateways.items() if body
        }  # those that left say nothing
        collected.gateways[self._own] = self._answer(topic, argument)
        collected.missing = sorted((set(members) - set(collected.hosts)) | question.gateways)
        return collected

    # --- answers ---------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Say what holds for every gateway of this machine."""
        return self._ready()

    async def rooms(self, question: RoomsQuestion) -> Listing:
        """List the rooms of all hosts, then those that only gateways know of."""
        collected = await self.collect("rooms", msgspec.json.encode(question).decode())
        hosts = {id: await _decoded_rooms(body, RoomsTold) for id, body in collected.hosts.items()}
        held = [await _decoded_rooms(body, RoomsHeld) for body in collected.gateways.values()]
        found = await merge_rooms(self._asking.epoch, hosts, held, question.state)
        shown = found[: question.limit]
        answers: list[RoomsTold | RoomsHeld] = [*hosts.values(), *held]
        sizes = [len(told.rooms) for told in answers if told.more]
        # Whoever told as many as were asked for has hidden none, unless they are too few in the end.
        cut = bool(sizes) and (question.limit is None or min(*sizes, len(shown)) < question.limit)
        return Listing(_each(shown), cut)

    async def room(self, name: str) -> RoomStatus | None:
        """Explain one room."""
        collected = await self.collect("room", name)
        hosts = {
            id: RoomsTold([status])
            for id, body in collected.hosts.items()
            if (status := msgspec.json.decode(body, type=RoomStatus | None)) is not None
        }
        held = [RoomsHeld([room]) for room in collected.decoded(RoomHeld)]
        found = await merge_rooms(self._asking.epoch, hosts, held)
        return found[0] if found else None

    async def metrics(self) -> str:
        """Write down what all processes count, labelled with who says it."""
        collected = await self.collect("metrics")
        texts = {("gateway", id): msgspec.json.decode(body, type=str) for id, body in collected.gateways.items()}
        texts |= {("host", id): msgspec.json.decode(body, type=str) for id, body in collected.hosts.items()}
        return merge_metrics(texts, missing=collected.missing)

    async def cluster(self) -> ServiceStatus:
        """Describe all processes."""
        collected = await self.collect("cluster")
        epoch = self._asking.epoch
        return ServiceStatus(
            epoch.number,
            epoch.registrar,
            sorted(collected.decoded_hosts(HostStatus), key=lambda status: str(status.id)),
            sorted(collected.decoded(GatewayStatus), key=lambda status: str(status.id)),
            collected.missing,
        )

    async def quarantine(self) -> list[msgspec.Raw]:
        """List what all gateways keep from rooms."""
        collected = await self.collect("quarantine")
        return [each for kept in collected.decoded(list[msgspec.Raw]) for each in kept]

    async def drain(self, target: str) -> None:
        """Have a process, or all, stop: it is known first, so that a wrong name is told at once."""
        _check_target(target)
        status = await self.cluster()
        hosts = [host_target(each.id) for each in status.members]
        gateways = [gateway_target(each.id) for each in status.gateways]
        if target != ALL and target not in (*hosts, *gateways):
            raise NotFound(f"{target} is not part of the service: expected {ALL}, {', '.join((*hosts, *gateways))}")
        if [target] in (hosts, gateways) and not status.missing:
            raise Conflict(
                f"{target} is the last of its kind, without which nobody is served: verani drain --all ends the service"
            )
        if target not in (ALL, gateway_target(self._own)) and not hosts:
            raise RoomBusy("there is no room host that could pass it on")
        await self.collect("drain", target)

    async def check(self, target: str) -> None:
        """Have one process of each machine that is concerned import the code that is there now."""
        _check_target(target)
        status = await self.cluster()
        if target == ALL:
            machines = {each.machine: gateway_target(each.id) for each in status.gateways}
            targets = {each.machine: host_target(each.id) for each in status.members} | machines
            await asyncio.gather(*map(self._check, targets.values()))
        else:
            _check_known(target, status)
            await self._check(target)

    async def restart(self, target: str) -> None:
        """Have a process started anew: a host ends first, a gateway when another has taken its place."""
        if target == ALL:
            raise InvalidArguments("target: expected host:ID or gateway:ID, one after the other", path="$.target")
        await self.check(target)
        logger.info("%s is restarted", target)
        await self.collect("restart", target)

    async def _check(self, target: str) -> None:
        await self.collect("check", target)
        try:
            async with asyncio.timeout(_CHECK_PATIENCE):
                while not (verdicts := (await self.collect("checked", target)).told(str)):  # noqa: ASYNC110  # elsewhere
                    await asyncio.sleep(_CHECK_LOOK)
        except TimeoutError:
            raise RoomBusy(f"{target} does not say whether its code can be imported") from None
        if verdicts[0]:
            raise Conflict(f"nothing is restarted: {verdicts[0]}")


def _check_known(target: str, status: ServiceStatus) -> None:
    hosts = [host_target(each.id) for each in status.members]
    known = [*hosts, *(gateway_target(each.id) for each in status.gateways)]
    if target not in known:
        raise NotFound(f"{target} is not part of the service: expected {', '.join(known)}")
    if not hosts:
        raise RoomBusy("there is no room host that could pass it on")


def _check_target(target: str) -> None:
    kind, _, id = target.partition(":")
    if target != ALL and (kind not in ("host", "gateway") or not id):
        raise InvalidArguments(f"target: expected host:ID, gateway:ID or {ALL}, got {target[:80]!r}", path="$.target")


def answer(topic: str, argument: str, gateway: Gateway, status: Callable[[], GatewayStatus]) -> bytes:
    """Say as JSON what a gateway itself knows; `null` for a topic that it has nothing to say to."""
    rooms = gateway.attachments.rooms
    match topic:
        case "rooms":
            state = msgspec.json.decode(argument, type=RoomsQuestion).state
            return msgspec.json.encode(_held(rooms.values(), frozenset(gateway.placement.known_rooms()), state))
        case "room":
            held = rooms.get(argument)
            return msgspec.json.encode(_known(gateway.placement, held) if held is not None else None)
        case "metrics":
            return msgspec.json.encode(exposition(gateway))
        case "cluster":
            return msgspec.json.encode(status())
        case _:
            return b"null"


def _known(placement: Placement, room: RoomInputs) -> RoomHeld:
    status = placement.status(room.name, len(room.records))
    return RoomHeld(room.name, len(room.records), status is not None and status.state == "awake")


def _held(rooms: Collection[RoomInputs], awake: Collection[str], state: str | None) -> RoomsHeld:
    """Tell what is held of rooms that may be in a state; a gateway knows no states but awake and asleep."""
    busy = (RoomHeld(room.name, len(room.records), True) for room in rooms if room.name in awake)
    quiet = (RoomHeld(room.name, len(room.records)) for room in rooms if room.name not in awake)
    # Who looks for sleeping rooms must know of those that another gateway has seen awake.
    asked = {None: (busy, quiet), "awake": (busy,), "asleep": (busy, quiet)}.get(state, ())
    told = list(islice(chain(*asked), MAX_ROOMS + 1))
    return RoomsHeld(told[:MAX_ROOMS], more=len(told) > MAX_ROOMS)


# --- putting together ----------------------------------------------------------------------------------


async def merge_rooms(
    epoch: Epoch, hosts: Mapping[str, RoomsTold], gateways: Sequence[RoomsHeld], state: str | None = None
) -> list[RoomStatus]:
    """Give one status for each room: its owner's, else that of a host that has it awake, else what gateways know.

    With a `state`, hosts were asked for rooms in that state only.
    """
    found: dict[str, RoomStatus] = {}
    for id, told in hosts.items():
        async for status in _each(told.rooms):
            owner = epoch.owner(status.name)
            if owner is not None and owner.id == id:
                found[status.name] = msgspec.structs.replace(status, host=id)
            elif status.state != "asleep":  # it is on its way; of a room that slept there nothing is left
                found.setdefault(status.name, msgspec.structs.replace(status, host=id))
    known = {*found}.union(*(told.others for told in hosts.values()))
    held: dict[str, RoomHeld] = {}
    for seen in gateways:
        async for room in _each(seen.rooms):
            if room.name not in known:
                other = held.get(room.name, room)
                number = room.connections + (other.connections if other is not room else 0)
                held[room.name] = RoomHeld(room.name, number, room.awake or other.awake)
    # Whether a gateway has not told of all rooms that are awake.
    is_blind = any(seen.more and seen.rooms[-1].awake for seen in gateways)
    async for room in _each(list(held.values())):
        owner = epoch.owner(room.name)
        if owner is None or owner.id not in hosts:
            is_certain = room.awake or not is_blind
        else:
            # The owner does not tell what is in another state, and may have left it out of an answer that was cut.
            is_certain = not hosts[owner.id].more and state in (None, "asleep")
        if is_certain:
            its = "awake" if room.awake else "asleep"
            host = owner.id if owner is not None else None
            found[room.name] = RoomStatus(room.name, room.name.partition("/")[0], its, room.connections, host=host)
    rooms = [status for status in found.values() if state in (None, status.state)]
    return sorted(rooms, key=lambda status: status.state == "asleep")


async def _decoded_rooms(body: bytes, kind: type[_Rooms]) -> _Rooms:
    await asyncio.sleep(0)
    return msgspec.json.decode(body, type=kind)


async def _each(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    """Yield the items, and let the event loop have its turns."""
    for number, item in enumerate(items):
        if number % SLICE == 0:
            await asyncio.sleep(0)
        yield item


def merge_metrics(texts: Mapping[tuple[str, str], str], *, missing: Iterable[str] = ()) -> str:
    """Join expositions, each labelled with its process; a family is described once, by whoever came first."""
    families: dict[tuple[str, str], Metric] = {}
    for (kind, id), text in texts.items():
        for family in text_string_to_metric_families(text):
            new = Metric(family.name, family.documentation, family.type)
            merged = families.setdefault((family.name, family.type), new)
            for sample in family.samples:
                merged.add_sample(sample.name, {kind: id, **sample.labels}, sample.value)
    lost = gauge("missing", "processes that did not answer", len(list(missing)))
    return render((*families.values(), lost))
