"""Test one room: connect clients without sockets, move its clock, put it to sleep, and see what comes of it.

How its engine is driven is the runner's business. Nothing of actors, links or WebSockets is here, and no limits of
connections and rates: those are the service's.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, Self

import msgspec

from .. import frames
from ..engine.room_events import Event
from ..errors import RoomAsleep, RoomBusy, VeraniError, is_refusal
from ..frames import ScannedFrame
from ..names import ROOM_ID, room_id_of
from ..room.context import Actor, S
from ..room.definition import RoomDefinition
from ..room.meta import M
from ..room.request import ConnectRequest
from ..room.session import Session
from ..room.stub import RoomStub
from ..settings import Settings
from .admission import Admission
from .harness_client import HarnessClient
from .runner import RoomRunner

__all__ = ["RoomHarness", "Step"]


@dataclasses.dataclass(slots=True)
class Step:
    """One operation of a test and what came of it: whom, and what they saw."""

    label: str
    seen: list[tuple[str, str]] = dataclasses.field(default_factory=list)


class RoomHarness(Generic[M, S]):
    """One room under test; use it as ``async with RoomHarness(chat) as room``, or end it with `close`.

    `errors` holds what hooks and spawned tasks raised, refusals such as `Forbidden` excepted. Leaving the block
    raises them as an ExceptionGroup: a test that expects errors takes them out with `take_errors` (or says
    ``check_errors=False``). Operations return when nothing moves any more: what hooks and spawned tasks do without
    waiting for real time has happened. The room wakes with its first event, and `on_startup` runs before that.
    `calls` stands in for the rooms that this one calls: ``(room, method, arguments) -> result``, `def` or `async def`,
    with the room's whole name and the arguments as a dict (or a list, where they were given by position).
    A room whose definition declares events (``@room.event``) raises `NotDeclared` where it sends anything else.
    """

    def __init__(
        self,
        definition: RoomDefinition[M, S],
        *,
        room_id: str = "test",
        settings: Settings | None = None,
        check_errors: bool = True,
        calls: Callable[[str, str, Any], Any] | None = None,
    ) -> None:
        if not isinstance(definition, RoomDefinition):
            raise TypeError(f"RoomHarness: expected a room definition, got {type(definition).__name__}")
        if not (settings is None or isinstance(settings, Settings)):
            raise TypeError(f"RoomHarness: expected settings= to be Settings(...), got {type(settings).__name__}")
        spelled = room_id_of(room_id)
        if spelled is None:
            raise ValueError(f"RoomHarness: expected {ROOM_ID}, got {room_id!a}")
        definition.check()
        definition.events.are_checked = True
        self.definition = definition
        self.room_id = spelled
        self.settings = settings if settings is not None else Settings()
        self.errors: list[BaseException] = []
        self.clients: list[HarnessClient] = []
        self._check_errors = check_errors
        self._admission = Admission(definition, spelled, self.settings.max_meta_bytes)
        self._runner = RoomRunner(
            definition, spelled, self.settings, failed=self._failed, handles=self._handles, others=calls
        )
        self._started = False
        self._closed = False
        self._steps: list[Step] = []

    def __repr__(self) -> str:
        return f"<RoomHarness {self._runner.name}, {'awake' if self.awake else 'asleep'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if not self._check_errors or not self.errors:
            return
        if error is None:
            raise BaseExceptionGroup(f"hooks of {self._runner.name} failed", self.take_errors())
        error.add_note(f"hooks raised, too: {self.errors!r}")

    async def close(self) -> None:
        """End the room: tasks are cancelled, requests are `Interrupted`, no client is closed, `on_shutdown` runs."""
        if self._closed:
            return
        self._closed = True
        await self._runner.end()
        for client in self.clients:
            client._interrupt("the harness was closed")
        if self._started:
            await self._call_hook("on_shutdown")

    async def _call_hook(self, hook: str) -> None:
        result = self.definition.hooks.get(hook, lambda: None)()
        if inspect.isawaitable(result):
            await result

    # --- what the test sees ----------------------------------------------------------------------------

    @property
    def awake(self) -> bool:
        """True from the first event until the room sleeps."""
        return self._runner.engine is not None

    @property
    def now(self) -> float:
        """Seconds that `advance` has passed."""
        return self._runner.now

    @property
    def actor(self) -> Actor[M, S]:
        """The room as its hooks see it, to look at or to send from; raises `RoomAsleep` while it sleeps."""
        if self._runner.engine is None:
            raise RoomAsleep(f"{self._runner.name} is asleep: it wakes with its next event")
        return self._runner.engine.actor

    @property
    def sessions(self) -> Mapping[str, Session[M]]:
        """The sessions of the awake room by connection id; `HarnessClient.meta` is there in its sleep, too."""
        return self.actor.sessions

    def take_errors(self) -> list[BaseException]:
        """Return the errors of hooks so far and forget them."""
        taken, self.errors = self.errors, []
        return taken

    # --- what the test does ----------------------------------------------------------------------------

    async def connect(
        self,
        *,
        user_id: str | None = None,
        client_id: str | None = None,
        channels: Iterable[str] = ("default",),
        meta: M | None = None,
        query: Mapping[str, str] | None = None,
        request: ConnectRequest | None = None,
        **fields: Any,
    ) -> HarnessClient:
        """Connect a client, and return it when `on_connect` has run (its `closed` says if that refused).

        Who it is: `meta`; or `user_id`, `channels` and own fields of the meta as keywords, with a client id made
        here; or, with neither, what `name_from_request`, `extract_meta` and `authorize_room` make of `query` or
        `request`. These raise here what they raise, and ValueError if they choose another room. Raises
        `InvalidArguments` or TypeError for a meta that a gateway would not let pass, `Conflict` as `same_client` says.
        """
        step = await self._begin(f"{user_id or 'a client'} tried to connect")
        serial = len(self.clients) + 1
        if meta is None and user_id is None:
            meta = await self._admission.identify(query or {}, request, client_id or f"client-{serial}", fields)
        elif meta is None:
            fixed: dict[str, Any] = {"user_id": user_id, "channels": tuple(channels)}
            meta = self.definition.meta(client_id=client_id or f"client-{serial}", **fixed, **fields)
        attachment = self._admission.check(meta, is_taken=self._runner.gateway.holds_client)
        namesakes = sum(client.user_id == meta.user_id for client in self.clients)
        name = f"{meta.user_id} ({namesakes + 1})" if namesakes else meta.user_id
        client = HarnessClient(self, f"{self.room_id}-{serial}", name, meta.user_id, meta.client_id)
        step.label = f"{name} connected"
        self.clients.append(client)
        self._runner.connect(client, attachment)
        await self._runner.finish()
        return client

    async def call(
        self,
        method: str,
        /,
        *arguments: Any,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        **named: Any,
    ) -> Any:
        """Call a method of the room and return its result; see `verani.RoomStub`, whose errors this raises.

        Waits as long as the method takes; its deadline is one of the room's clock.
        """
        given = [*map(repr, arguments), *(f"{name}={value!r}" for name, value in named.items())]
        step = await self._begin(f"{method}({', '.join(given)}) was called")
        stub = RoomStub(self._runner, self.definition, self.room_id)
        try:
            result = await stub.call(method, *arguments, timeout=timeout, idempotency_key=idempotency_key, **named)
        except VeraniError as error:
            step.seen.append(("the caller", f"got {error.code}"))
            raise
        step.seen.append(("the caller", f"got {result!r}"))
        return result

    async def advance(self, seconds: float) -> None:
        """Move the room's clock: time budgets of hooks end, and an idle room sleeps when its time has come."""
        if not seconds >= 0:
            raise ValueError(f"advance: expected 0 seconds or more, got {seconds!r}")
        await self._begin(f"{seconds:g} s passed")
        await self._runner.advance(seconds)
        await self._runner.finish()

    async def hibernate(self, *, force: bool = False) -> None:
        """Put the room to sleep now; its next event wakes it with what the committed attachments say.

        Raises `RoomBusy` if something keeps it awake, and names it; `force` cancels spawned tasks. An `on_hibernate`
        has a second of real time, then `RoomBusy` is raised and the room falls asleep later. A room that sleeps
        already, sleeps on.
        """
        await self._begin("the room was put to sleep")
        lives = self._runner.lives
        await lives.settle()
        if not self._runner.hibernates or not self.awake:
            return
        reason = lives.kept_awake_by()
        if reason is not None and not (force and lives.is_quiet):
            raise RoomBusy(f"{self._runner.name}: expected an idle room, it is kept awake by: {reason}")
        engine = lives.engine
        await lives.tear_down(force=force)
        if lives.engine is engine:
            raise RoomBusy(f"on_hibernate of {self._runner.name} has not returned yet: the room sleeps when it has")

    async def idle(self) -> None:
        """Wait, in real time, until no hook runs and no event waits; spawned tasks do not count."""
        await self._begin("the test waited for the hooks")
        await self._runner.lives.until_quiet()
        await self._runner.finish()

    async def _begin(self, label: str) -> Step:
        """Start one operation of the test; `assert_hibernation_transparent` tears rooms down here."""
        if self._closed:
            raise VeraniError(f"{self._runner.name}: this harness was closed")
        if not self._started:
            self._started = True
            await self._call_hook("on_startup")
        step = Step(label)
        self._steps.append(step)
        return step

    # --- what clients do and see -----------------------------------------------------------------------

    def _meta_of(self, client: HarnessClient) -> M:
        attachment = self._runner.gateway.attachment(client.id)
        if attachment is None:
            raise VeraniError(f"client {client.name}: its connection and its meta are gone")
        return self._admission.decode(attachment)

    async def _send(self, client: HarnessClient, frame: ScannedFrame) -> None:
        text = "" if frame.data is msgspec.UNSET else f" {bytes(frame.data).decode()}"
        await self._begin(f"{client.name} sent {frame.type!r}{text}")
        if frame.type == frames.PING:  # answered by gateways, without the room
            client._deliver(frames.PONG)
            return
        self._runner.frame(client, frame)
        await self._runner.finish()

    async def _close(self, client: HarnessClient, code: int, reason: str) -> None:
        await self._begin(f"{client.name} closed with {code}")
        self._runner.close(client, code, reason)
        await self._runner.finish()

    def _saw(self, client: HarnessClient, what: str) -> None:
        self._steps[-1].seen.append((client.name, what))

    def _failed(self, error: BaseException) -> None:
        if not is_refusal(error):
            self.errors.append(error)
            if self._steps:
                self._steps[-1].seen.append(("a hook", f"raised {error!r}"))

    def _handles(self, event: Event) -> None:
        """Do nothing; a subclass may want to know what is handled next."""
