"""Define a room: its name, its hooks, its event handlers, its types.

A definition only collects and checks what the user writes; the engine runs it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, Unpack, overload

import msgspec

from ..errors import DefinitionError
from ..models import check_plain
from ..names import LIFECYCLE_EVENTS
from ..settings import RatePolicy, Settings
from ..signatures import check_arity, is_async, label_of
from .authority import Authority, public_meta
from .context import Context, S
from .handlers import EventRate, Handlers, event_rate
from .meta import AttachmentCodec, ConnectionMeta, M
from .methods import BUILT_IN, Method
from .options import HOOKS, RATES, RoomOptions, SameClient, check_options, check_subprotocols
from .request import ConnectRequest, MetaMaker
from .sent_events import K, SentEvents, check_event_name

__all__ = ["RoomDefinition", "define_room"]

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

# The hooks that decide who may connect, and may wait.
_JUDGES = frozenset({"name_from_request", "extract_meta", "authorize_room"})

# What other libraries call when somebody comes and goes; here these are hooks.
_HABITS = frozenset({"connect", "disconnect"})


class RoomDefinition(Generic[M, S]):
    """What `define_room` returns: decorators to register hooks with, and what the engine reads."""

    def __init__(
        self,
        name: str,
        *,
        meta: type[M],
        state: Callable[[], S],
        options: RoomOptions,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DefinitionError(
                f"define_room: expected a name of 1 to 64 letters, digits, '_', '.', '-', got {name!r}"
            )
        if not (isinstance(meta, type) and issubclass(meta, ConnectionMeta)):
            raise DefinitionError(f"{name}: expected meta= to be a subclass of ConnectionMeta, got {meta!r}")
        if not callable(state):
            raise DefinitionError(f"{name}: expected state= to be a class or a function, got {state!r}")
        check_options(name, options)
        self.name = name
        self.meta = meta
        self.meta_version = options.get("meta_version", 1)
        self.state = state
        self.websocket_path = options.get("websocket_path", "/ws")
        self.hibernate_after: float | msgspec.UnsetType | None = options.get("hibernate_after", msgspec.UNSET)
        self.min_awake: float | msgspec.UnsetType = options.get("min_awake", msgspec.UNSET)
        self.same_client: SameClient = options.get("same_client", "replace")
        self.subprotocols = check_subprotocols(name, options.get("subprotocols", ("verani",)))
        self.rates = {option: value for option, value in options.items() if option in RATES}
        self.event_rates: dict[str, EventRate] = {}
        self.handlers = Handlers()
        self.events = SentEvents(name)
        self.middleware: list[Callable[..., Any]] = []
        self.methods: dict[str, Method] = dict(BUILT_IN)
        self.hooks: dict[str, Callable[..., Any]] = {}
        # The names of hooks that are `async def`.
        self.async_hooks: set[str] = set()
        self._warned: set[str] = set()
        self._codecs: dict[int, AttachmentCodec[M]] = {}
        self._authority = Authority(name, meta, self.hooks)
        for hook in HOOKS:
            if (function := options.get(hook)) is not None:
                self._set_hook(hook, function)  # type: ignore[arg-type]  # a hook by its name in HOOKS

    def __repr__(self) -> str:
        return f"<RoomDefinition {self.name!r}>"

    # --- events ----------------------------------------------------------------------------------------

    def on(
        self, event: str, *, rate: float | None = None, burst: int | None = None, policy: RatePolicy | None = None
    ) -> Callable[[F], F]:
        """Register a handler ``(ctx, data)`` for an event, or for every event with ``"*"``.

        Handlers run in the room's host, in registration order; the first that raises ends the dispatch.
        A payload that does not fit the annotated type of ``data`` never reaches any handler of the event.

        `rate` is how many frames of the event a connection may send in a second, `burst` how many at once (twice the
        rate). What is more meets `policy`, by default that of the definition, in the gateway: ``"throttle"`` leaves the
        socket unread, other events included, ``"drop"`` drops the frame and answers a request with ``rate_limited``,
        ``"close"`` closes the connection with 1008.
        """
        check_event_name(self.name, event)
        own_rate = event_rate(f"{self.name}: {event!r}", event, rate, burst, policy)
        if own_rate is not None and self.event_rates.setdefault(event, own_rate) is not own_rate:
            raise DefinitionError(f"{self.name}: {event!r} has a rate already; expected one rate= for each event")
        self.warn_of_collision(event)
        if event in _HABITS:
            logger.warning(
                "event %r of room definition %r is called only if a client sends it; did you mean @%s.on_%s?",
                event,
                self.name,
                self.name,
                event,
            )

        def register(function: F) -> F:
            self.handlers.add(event, function)
            return function

        return register

    def rated(self, settings: Settings) -> Settings:
        """Give the settings with the rates of this definition."""
        return msgspec.structs.replace(settings, **self.rates) if self.rates else settings

    def off(self, event: str, handler: Callable[..., Any]) -> None:
        """Remove a handler from an event; one that is not registered is ignored."""
        self.handlers.remove(event, handler)

    @overload
    def event(self, event: str) -> Callable[[K], K]: ...
    @overload
    def event(self, event: str, kind: Any) -> None: ...
    def event(self, event: str, kind: Any = msgspec.UNSET) -> Callable[[K], K] | None:
        """Declare an event that the room sends, with the type of its data: `kind`, None for none, or the class below.

        Types for browsers are made of it. Only tests (`verani.testing`) look at what a room sends: one that declares
        any event is held to what it declares. Raises `DefinitionError` for an event that is declared twice, and for a
        type that nobody could check or that has a ``type``.
        """
        decorator = self.events.decorator(event)
        self.warn_of_collision(event)
        if kind is msgspec.UNSET:
            return decorator
        self.events.declare(event, kind)
        return None

    def use(self, middleware: F) -> F:
        """Wrap every frame that reaches a handler or `on_message`, valid payload included, and every call.

        ``async def middleware(ctx, call_next)``, where ``await call_next()`` runs the rest.

        Runs in registration order, the first one outermost, as part of the frame or call and within its time
        budget. What it returns is the answer; not calling ``call_next`` drops the frame. In a call `ctx.call`
        is set and there is no connection: neither `ctx.frame` nor `ctx.meta`.
        """
        check_arity(middleware, f"{self.name}: middleware {label_of(middleware)}", ("ctx", "call_next"))
        self.middleware.append(middleware)
        return middleware

    def warn_of_collision(self, event: str) -> None:
        """Warn once that the original npm client mixes this event up with a listener of its own."""
        if event in LIFECYCLE_EVENTS and event not in self._warned:
            self._warned.add(event)
            logger.warning(
                "event %r of room definition %r collides with a life-cycle listener of the client",
                event,
                self.name,
            )

    def rpc(self, function: F) -> F:
        """Let callers outside the room run ``(actor, ...)``, by the function's name, with typed arguments and result.

        Runs in the room's host as an event of its own: in turn, within the time budget, and it wakes a sleeping room.
        What it changes in metas is undone if it raises. Arguments that do not fit their annotations never reach it; the
        caller gets the result, or the code of what it raised. Raises `DefinitionError` for a name that is taken or
        starts with ``_``.
        """
        if not callable(function):
            written = "@room.rpc right above a function, which names the method"
            raise TypeError(f"{self.name}: expected {written}, got {function!r}")
        name = getattr(function, "__name__", "")
        if name in self.methods:
            taken = "a built-in method" if name in BUILT_IN else "given twice"
            raise DefinitionError(f"{self.name}: rpc method {name!r} is {taken}; expected another name")
        self.methods[name] = Method(name, function)
        return function

    # --- hooks -----------------------------------------------------------------------------------------

    def _set_hook(self, hook: str, function: Callable[..., Any]) -> None:
        if hook in self.hooks:
            raise DefinitionError(f"{self.name}: {hook} is given twice; expected one option or one decorator")
        if not callable(function):
            raise DefinitionError(f"{self.name}: expected {hook} to be a function, got {function!r}")
        check_arity(function, f"{self.name}: {hook}", HOOKS[hook])
        if is_async(function):
            self.async_hooks.add(hook)
        if hook == "authorize_channel" and hook in self.async_hooks:
            raise DefinitionError(f"{self.name}: expected authorize_channel to be a plain def, because ctx.join is one")
        if hook == "extract_meta" and isinstance(function, MetaMaker):
            function = function.for_meta(self.meta)
        self.hooks[hook] = function

    def _hook(self, hook: str, function: F) -> F:
        self._set_hook(hook, function)
        return function

    def extract_meta(self, function: F) -> F:
        """Say who connects: ``(request) -> meta``, in the gateway, before the WebSocket is accepted.

        What it returns is a meta or a mapping of its fields, of which only ``user_id`` is needed: a client id is made,
        and other fields have their defaults. An `Identity` around that says when it expires; see `verani.auth` for
        ready ones. Raising `Unauthorized`, `Forbidden` or `InvalidArguments` refuses with 401, 403 or 400; anything
        else, and a meta that does not fit its type, with 500, logged. So check what comes from the client before it
        goes in there.
        """
        return self._hook("extract_meta", function)

    def authorize_room(self, function: F) -> F:
        """Say who may be in a room: ``(meta, request) -> bool``, in the gateway, after `extract_meta`.

        The room is ``request.room``. False refuses with 403, a `VeraniError` with its own status, any other exception
        with 500, logged. Asked again at each refresh of a token, with the meta of the new one and the request of the
        handshake: who may not any more is not refreshed.
        """
        return self._hook("authorize_room", function)

    def authorize_channel(self, function: F) -> F:
        """Say who may be in a channel: ``(ctx_or_request, channel) -> bool``, a plain def.

        Called in the gateway with the `ConnectRequest`, after `extract_meta`, for each channel of the meta: False
        refuses the client with 403, a `VeraniError` with its own status, any other exception with 500, logged.
        Called in the room with the `Context` by each `ctx.join`, which raises `Forbidden` on False and lets through
        what this raises. `session.join`, by which the application moves others, does not ask.
        """
        return self._hook("authorize_channel", function)

    def name_from_request(self, function: F) -> F:
        """Choose the room id: ``(request) -> str``, in the gateway, before `extract_meta`."""
        return self._hook("name_from_request", function)

    def on_connect(self, function: F) -> F:
        """Run ``(ctx)`` in the room once the session exists, before its first frame.

        If it raises, the connection is closed, its queued frames are dropped and `on_disconnect` never runs. A refusal
        (`Forbidden` and the like) closes with 1000 and its code as reason, so that the client stays away; anything else
        with 1011.
        """
        return self._hook("on_connect", function)

    def on_message(self, function: F) -> F:
        """Run ``(ctx, frame)`` in the room for frames that no event handler and no ``"*"`` handler takes."""
        return self._hook("on_message", function)

    def on_disconnect(self, function: F) -> F:
        """Run ``(ctx)`` in the room once a session is gone; `ctx.close_code` and `ctx.close_reason` say how."""
        return self._hook("on_disconnect", function)

    def on_error(self, function: F) -> F:
        """Run ``(error, ctx)`` in the room after any hook raised; what it raises itself is only logged."""
        return self._hook("on_error", function)

    def on_wake(self, function: F) -> F:
        """Run ``(actor)`` in the room whenever it wakes, the first time too: the chance to load `actor.state`.

        It runs before any other hook, with the sessions that the room has, also if it has none. While it fails, no
        other hook runs, `on_disconnect` and `on_hibernate` included: the event that woke the room is refused, and the
        next one finds a new `actor.state` and tries again. A request or call is answered with the code of the refusal
        that it raised, any other error with ``busy``; who connects is closed with 1000 for a refusal (`RoomBusy` and
        `RateLimited` excepted), with 1013 otherwise.
        """
        return self._hook("on_wake", function)

    def on_hibernate(self, function: F) -> F:
        """Run ``(actor)`` in the room just before it sleeps: the chance to save `actor.state`.

        Also for a room without connections. It does not run after a wake whose `on_wake` failed, nor where the process
        of the room dies.
        """
        return self._hook("on_hibernate", function)

    def on_hibernation_restore(self, function: F) -> F:
        """Run ``(actor)`` in a room that woke with connections, before the event that woke it."""
        return self._hook("on_hibernation_restore", function)

    def on_startup(self, function: F) -> F:
        """Run ``()`` once per host process before its first room; an exception stops the start."""
        return self._hook("on_startup", function)

    def on_shutdown(self, function: F) -> F:
        """Run ``()`` once per host process after its last room; an exception is logged."""
        return self._hook("on_shutdown", function)

    # --- what gateways ask -----------------------------------------------------------------------------

    @property
    def is_public(self) -> bool:
        """True where the client's own word is all there is about who it is."""
        return self.hooks.get("extract_meta", public_meta) is public_meta

    @property
    def deliberates(self) -> bool:
        """True where hooks say who may connect, and may take their time."""
        return not self.hooks.keys().isdisjoint(_JUDGES)

    @property
    def wakes_silently(self) -> bool:
        """True where no code of the application's runs when a room wakes in which nobody is."""
        return "on_wake" not in self.hooks and self.state is SimpleNamespace

    def check(self) -> None:
        """Raise `DefinitionError` for what can only be known once all decorators have run, or is costly to know."""
        self.events.check_types()
        try:
            self.codec(1)
            check_plain(self.meta, f"{self.name}: meta= {self.meta.__name__}")
        except (TypeError, NameError) as error:
            raise DefinitionError(f"{self.name}: expected a meta= that msgspec can decode: {error}") from error
        if self.is_public:
            missing = [field.name for field in msgspec.structs.fields(self.meta) if field.required]
            missing = [name for name in missing if name not in ("user_id", "client_id")]
            if missing:
                raise DefinitionError(
                    f"{self.name}: expected an extract_meta that fills {', '.join(missing)} of {self.meta.__name__}"
                )

    def codec(self, max_bytes: int) -> AttachmentCodec[M]:
        """Return the codec of this definition's attachments; one is shared by all its rooms."""
        codec = self._codecs.get(max_bytes)
        if codec is None:
            codec = self._codecs[max_bytes] = AttachmentCodec(self.name, self.meta, self.meta_version, max_bytes)
        return codec

    def name_for(self, request: ConnectRequest) -> Coroutine[Any, Any, str]:
        """Name the room of who connects; the result is not yet validated."""
        return self._authority.name_for(request)

    async def meta_for(self, request: ConnectRequest) -> M:
        """Return the meta alone of what `identify` returns."""
        meta, _ = await self.identify(request)
        return meta

    def identify(self, request: ConnectRequest) -> Coroutine[Any, Any, tuple[M, float | None]]:
        """Say who connects, and until when, if they may; see `Authority`."""
        return self._authority.identify(request)

    def identify_token(self, token: str, request: ConnectRequest) -> Coroutine[Any, Any, tuple[M, float | None]]:
        """Say the same of a bare token."""
        return self._authority.identify_token(token, request)

    def check_channel(self, asker: ConnectRequest | Context[M, S], channel: str) -> None:
        """Raise `Forbidden` if `authorize_channel` says so."""
        self._authority.check_channel(asker, channel)


@overload
def define_room(name: str, **options: Unpack[RoomOptions]) -> RoomDefinition[ConnectionMeta, SimpleNamespace]: ...
@overload
def define_room(name: str, *, meta: type[M], **options: Unpack[RoomOptions]) -> RoomDefinition[M, SimpleNamespace]: ...
@overload
def define_room(
    name: str, *, state: Callable[[], S], **options: Unpack[RoomOptions]
) -> RoomDefinition[ConnectionMeta, S]: ...
@overload
def define_room(
    name: str, *, meta: type[M], state: Callable[[], S], **options: Unpack[RoomOptions]
) -> RoomDefinition[M, S]: ...
def define_room(
    name: str,
    *,
    meta: type[Any] = ConnectionMeta,
    state: Callable[[], Any] = SimpleNamespace,
    **options: Unpack[RoomOptions],
) -> RoomDefinition[Any, Any]:
    """Define a kind of room; every room of it is named ``name/room-id``.

    `meta`: a `ConnectionMeta` subclass, the type of `ctx.meta` and the schema of attachments; raise
    `meta_version` when old attachments no longer fit. `state`: makes the `ctx.actor.state` of each awake room,
    lost when it sleeps. `websocket_path`: ``"/ws"`` or with the one pattern ``"/ws/{room}"``.
    `hibernate_after`: idle seconds, None for never, unset for the service's setting. `min_awake`: seconds awake at
    least, unset for the setting. `same_client`: whether a second connection with the same client id may
    ``"replace"`` the first (closed with 4009; the default) or is to ``"reject"`` (refused with 409). `subprotocols`:
    the first of them that a client offers, in its order, is answered; ``("verani",)`` by default. `rate_limit`,
    `rate_limit_bytes`, `rate_burst`, `rate_policy`: instead of the settings of the same names, for the connections of
    these rooms. The hooks are options too, under the names of their decorators, which say when
    each is called. Raises `DefinitionError`.
    """
    unknown = options.keys() - RoomOptions.__annotations__.keys()
    if unknown:
        raise DefinitionError(f"{name}: define_room has no option {', '.join(sorted(unknown))}")
    return RoomDefinition(name, meta=meta, state=state, options=options)
