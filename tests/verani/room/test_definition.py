"""What may be defined, what is refused, and who comes in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from verani import (
    ConnectionMeta,
    ConnectRequest,
    Context,
    DefinitionError,
    Forbidden,
    Identity,
    InvalidArguments,
    NotFound,
    RoomDefinition,
    Unauthorized,
    define_room,
)
from verani.frames import decode_data
from verani.room.authority import public_meta, room_from_request
from verani.room.options import HOOKS
from verani.settings import Settings


class Player(ConnectionMeta, kw_only=True):
    score: int = 0


class Member(ConnectionMeta, kw_only=True):
    team: str
    rank: int


def request(**query: str) -> ConnectRequest:
    return ConnectRequest("/ws", query=query)


def nothing(*arguments: Any) -> None:
    """Do nothing."""


# --- options -------------------------------------------------------------------------------------------


def test_a_definition_has_the_documented_defaults() -> None:
    room = define_room("chat")
    assert (room.name, room.meta, room.state, room.websocket_path) == ("chat", ConnectionMeta, SimpleNamespace, "/ws")
    assert (room.hibernate_after, room.same_client, room.meta_version) == (msgspec.UNSET, "replace", 1)
    assert (room.hooks, room.handlers.of("x"), room.middleware) == ({}, (), [])
    assert room.is_public
    assert repr(room) == "<RoomDefinition 'chat'>"


@pytest.mark.parametrize("name", ["a", "chat", "Chat_2.0-beta", "x" * 64])
def test_a_name_is_1_to_64_plain_characters(name: str) -> None:
    assert define_room(name).name == name


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "x" * 65, "a\n", None, 5])
def test_another_name_is_refused(name: Any) -> None:
    with pytest.raises(DefinitionError, match="^define_room: expected a name"):
        define_room(name)


@pytest.mark.parametrize("path", ["/ws", "/", "/ws/{room}", "/a/b/{room}", "/v1.0/~x-y_z"])
def test_a_path_may_end_in_the_one_pattern(path: str) -> None:
    assert define_room("chat", websocket_path=path).websocket_path == path


@pytest.mark.parametrize("path", ["", "ws", "/ws/{id}", "/{room}/x", "/{room}{room}", "/a b", "/ws?x=1", "/ws\n", None])
def test_another_path_is_refused(path: Any) -> None:
    with pytest.raises(DefinitionError, match="^chat: expected websocket_path="):
        define_room("chat", websocket_path=path)


@pytest.mark.parametrize("seconds", [0.5, 1, 3600, None])
def test_hibernate_after_is_seconds_or_none_for_never(seconds: float | None) -> None:
    assert define_room("chat", hibernate_after=seconds).hibernate_after == seconds


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "never", "10", [1]])
def test_another_hibernate_after_is_refused(seconds: Any) -> None:
    with pytest.raises(DefinitionError, match="^chat: expected hibernate_after= more than 0 seconds or None"):
        define_room("chat", hibernate_after=seconds)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"meta": dict}, "chat: expected meta= to be a subclass of ConnectionMeta, got <class 'dict'>"),
        ({"meta": Player(user_id="", client_id="")}, "chat: expected meta= to be a subclass"),
        ({"state": 5}, "chat: expected state= to be a class or a function, got 5"),
        ({"same_client": "kick"}, "chat: expected same_client= 'replace' or 'reject', got 'kick'"),
        ({"on_conect": nothing, "aa": 1}, "chat: define_room has no option aa, on_conect"),
        ({"on_connect": "nothing"}, "chat: expected on_connect to be a function, got 'nothing'"),
        ({"on": nothing}, "chat: define_room has no option on"),
    ],
)
def test_an_option_that_cannot_work_is_refused_in_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        define_room("chat", **options)
    assert str(caught.value).startswith(said)


# --- hooks and handlers --------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_an_option_and_a_decorator_that_returns_the_function(hook: str) -> None:
    options: dict[str, Any] = {hook: nothing}
    by_option, by_decorator = define_room("chat", **options), define_room("chat")
    assert getattr(by_decorator, hook)(nothing) is nothing
    assert by_option.hooks == by_decorator.hooks == {hook: nothing}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_given_twice_is_refused(hook: str) -> None:
    options: dict[str, Any] = {hook: nothing}
    for room in (define_room("chat", **options), define_room("chat")):
        decorate = getattr(room, hook)
        if hook not in room.hooks:
            decorate(nothing)
        with pytest.raises(DefinitionError, match=f"^chat: {hook} is given twice"):
            decorate(nothing)


def test_an_option_that_is_none_leaves_the_hook_to_a_decorator() -> None:
    options: dict[str, Any] = {"on_connect": None}
    room = define_room("chat", **options)
    assert room.hooks == {}
    room.on_connect(nothing)


def test_on_returns_the_function_unchanged_and_registers_it_for_each_event() -> None:
    room = define_room("chat")
    assert room.on("a")(room.on("b")(nothing)) is nothing
    assert [handler.function for handler in (*room.handlers.of("a"), *room.handlers.of("b"))] == [nothing, nothing]


def test_off_removes_a_handler_and_ignores_one_that_is_not_there() -> None:
    room = define_room("chat")
    room.on("a")(nothing)
    room.off("a", print)
    room.off("b", nothing)
    assert room.handlers.of("a")
    room.off("a", nothing)
    assert not room.handlers.of("a")


@pytest.mark.parametrize("event", ["verani.", "verani.expiring", "ping"])
def test_an_event_that_never_reaches_a_room_is_refused(event: str) -> None:
    with pytest.raises(DefinitionError, match=r"reserved|answered by the gateway"):
        define_room("chat").on(event)


@pytest.mark.parametrize(
    ("event", "error"), [("", ValueError), ("a\nb", ValueError), ("x" * 256, ValueError), (1, TypeError)]
)
def test_an_event_with_an_unfit_name_is_refused(event: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="^event: expected"):
        define_room("chat").on(event)


@pytest.mark.parametrize("decorator", ["on", "event"])
def test_a_decorator_without_the_name_of_its_event_says_how_it_is_written(decorator: str) -> None:
    def message() -> None: ...

    with pytest.raises(TypeError, match=r'^chat: expected @room.on\("message"\) or .* above .*message, got no name'):
        getattr(define_room("chat"), decorator)(message)


@pytest.mark.parametrize("name", ["kick", None])
def test_rpc_with_a_name_says_that_it_takes_that_of_the_function(name: Any) -> None:
    with pytest.raises(TypeError, match="^chat: expected @room.rpc right above a function, which names the method"):
        define_room("chat").rpc(name)


@pytest.mark.parametrize("middleware", ["x", lambda: None, lambda ctx: None])
def test_what_cannot_be_middleware_is_refused(middleware: Any) -> None:
    with pytest.raises(DefinitionError, match=r"^chat: middleware .*: expected a function that takes \(ctx, call_next"):
        define_room("chat").use(middleware)


@pytest.mark.parametrize("event", ["connect", "disconnect"])
def test_the_habit_of_other_libraries_is_answered_with_a_hint(event: str, caplog: pytest.LogCaptureFixture) -> None:
    define_room("chat").on(event)
    assert f"did you mean @chat.on_{event}?" in caplog.text


@pytest.mark.parametrize("event", ["open", "connected", "connecting", "close", "disconnected", "reconnecting"])
def test_an_event_that_collides_with_a_listener_of_the_original_client_warns_once(
    event: str, caplog: pytest.LogCaptureFixture
) -> None:
    room = define_room("chat")
    for _ in range(2):
        room.on(event)(nothing)
    assert [(record.levelname, record.args) for record in caplog.records] == [("WARNING", (event, "chat"))]
    define_room("other").on(event)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("event", ["error", "pong", "message", "verani", "*", "chat.message"])
def test_other_events_are_registered_in_silence(event: str, caplog: pytest.LogCaptureFixture) -> None:
    define_room("chat").on(event)(nothing)
    assert caplog.records == []


# --- the type of a payload -----------------------------------------------------------------------------


def decoder_of(handler: Callable[..., Any]) -> msgspec.json.Decoder[Any] | None:
    room = define_room("chat")
    room.on("x")(handler)
    return room.handlers.of("x")[0].decoder


def test_the_annotation_of_data_is_its_type_whatever_its_name() -> None:
    def handler(context: Context[Any, Any], numbers: list[int], extra: int = 0) -> None: ...

    decoder = decoder_of(handler)
    assert decode_data(b"[1]", decoder) == [1]
    with pytest.raises(msgspec.ValidationError):
        decode_data(b'["1"]', decoder)


def test_a_handler_without_annotation_or_with_any_takes_everything() -> None:
    def with_any(ctx: Context[Any, Any], data: Any) -> None: ...

    def variadic(*arguments: Any) -> None: ...

    class Callable_:
        def __call__(self, ctx: Context[Any, Any], data: Any) -> None: ...

    for handler in (lambda ctx, data: None, with_any, variadic, Callable_(), print):
        assert decoder_of(handler) is None


@pytest.mark.parametrize(
    "handler", [lambda: None, lambda ctx: None, lambda ctx, data, more: None, lambda *, ctx, data: 1, 5]
)
def test_a_handler_that_cannot_take_ctx_and_data_is_refused(handler: Any) -> None:
    with pytest.raises(DefinitionError, match=r"expected a function that takes \(ctx, data\)$"):
        define_room("chat").on("x")(handler)


def test_a_type_that_nobody_knows_or_msgspec_cannot_decode_is_refused() -> None:
    def unknown(ctx: Any, data: Any) -> None: ...

    def undecodable(ctx: Any, data: Any) -> None: ...

    unknown.__annotations__["data"] = "NoSuchType"
    undecodable.__annotations__["data"] = dict[list[int], int] | dict[str, str]
    for handler in (unknown, undecodable):
        with pytest.raises(DefinitionError, match="expected the type of 'data' to be one that msgspec can decode"):
            define_room("chat").on("x")(handler)


# --- who connects --------------------------------------------------------------------------------------


def test_public_meta_believes_the_query() -> None:
    meta = public_meta(request(userId="ann", channels=" a, b ,,a, "))
    assert (meta.user_id, meta.channels) == ("ann", ("a", "b"))


@pytest.mark.parametrize("query", [{}, {"channels": ""}, {"channels": " , ,"}, {"userId": ""}])
def test_public_meta_makes_up_what_is_not_given(query: dict[str, str]) -> None:
    first, second = public_meta(request(**query)), public_meta(request(**query))
    assert first.channels == ("default",)
    assert first.user_id != second.user_id
    assert len(first.user_id) >= 16


def test_public_meta_never_takes_the_client_id_from_the_client() -> None:
    query = {"userId": "ann", "clientId": "mine", "client_id": "mine"}
    first, second = public_meta(request(**query)), public_meta(request(**query))
    assert "mine" not in (first.client_id, second.client_id)
    assert first.client_id != second.client_id


@pytest.mark.parametrize(
    ("room", "query", "name"),
    [
        ("path", {"room": "r", "roomId": "i"}, "path"),
        (None, {"room": "r", "roomId": "i"}, "r"),
        (None, {"roomId": "i"}, "i"),
        (None, {"room": "", "roomId": "i"}, "i"),
        (None, {}, "default"),
        ("", {}, "default"),
    ],
)
async def test_the_room_is_named_by_path_then_room_then_room_id_then_default(
    room: str | None, query: dict[str, str], name: str
) -> None:
    asked = ConnectRequest("/ws", room=room, query=query)
    assert room_from_request(asked) == name
    assert await define_room("chat").name_for(asked) == name


async def test_name_from_request_may_be_def_or_async_def() -> None:
    async def later(request: ConnectRequest) -> str:
        return "later " + request.path

    assert await define_room("chat", name_from_request=lambda request: "now").name_for(request()) == "now"
    assert await define_room("chat", name_from_request=later).name_for(request()) == "later /ws"


async def test_the_default_meta_has_the_type_of_the_definition() -> None:
    meta = await define_room("chat", meta=Player).meta_for(request(userId="ann", channels="a"))
    assert isinstance(meta, Player)
    assert (meta.user_id, meta.channels, meta.score) == ("ann", ("a",), 0)


class Other(ConnectionMeta):
    score: int = 7
    shoe_size: int = 43


class Camel(ConnectionMeta, rename="camel"):
    shoe_size: int = 0


PLAYER = Player(user_id="ann", client_id="c", score=3, channels=("a",))
FIELDS = {"user_id": "ann", "client_id": "c", "score": 3, "channels": ["a"]}


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (PLAYER, PLAYER),
        (ConnectionMeta(user_id="a", client_id="c"), Player(user_id="a", client_id="c")),
        (Other(user_id="a", client_id="c"), Player(user_id="a", client_id="c", score=7)),
        (FIELDS, PLAYER),
        (MappingProxyType(FIELDS), PLAYER),
        ({"user_id": "ann", "client_id": "c"}, Player(user_id="ann", client_id="c")),
        (Identity(PLAYER), PLAYER),
        (Identity(FIELDS, 5.0), PLAYER),
        (Identity(Other(user_id="a", client_id="c"), 5.0), Player(user_id="a", client_id="c", score=7)),
    ],
)
@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_extract_meta_may_return_a_meta_or_its_fields_or_either_with_an_expiry(
    returned: Any, expected: Player, is_async: bool
) -> None:
    async def later(request: ConnectRequest) -> Any:
        return returned

    room = define_room("chat", meta=Player, extract_meta=later if is_async else lambda request: returned)
    assert not room.is_public
    meta, expires_at = await room.identify(request())
    assert (meta, type(meta)) == (expected, Player)
    assert expires_at == (returned.expires_at if isinstance(returned, Identity) else None)


@pytest.mark.parametrize(
    "returned",
    [
        {"user_id": "ann"},
        ConnectionMeta(user_id="ann"),
        Identity({"user_id": "ann"}),
        Identity(ConnectionMeta(user_id="ann"), 5.0),
    ],
)
async def test_a_client_id_is_made_where_none_is_given(returned: Any) -> None:
    room = define_room("chat", extract_meta=lambda request: copy.deepcopy(returned))
    meta = await room.meta_for(request())
    assert (meta.user_id, meta.channels, len(meta.client_id)) == ("ann", ("default",), 32)


def test_made_client_ids_are_all_different() -> None:
    assert len({ConnectionMeta(user_id="ann").client_id for _ in range(100)}) == 100


@pytest.mark.parametrize("fields", [{"shoe_size": 43}, {"shoeSize": 43}])
async def test_fields_go_by_their_names_and_by_their_wire_names(fields: dict[str, Any]) -> None:
    room = define_room("chat", meta=Camel, extract_meta=lambda request: {"user_id": "ann", **fields})
    assert (await room.meta_for(request())).shoe_size == 43


# --- who may be in a room ------------------------------------------------------------------------------------


async def _allow(meta: ConnectionMeta, request: ConnectRequest) -> bool:
    return meta.user_id == request.room


class _Allow:
    async def __call__(self, meta: ConnectionMeta, request: ConnectRequest) -> bool:
        return await _allow(meta, request)


@pytest.mark.parametrize(
    "hook", [_allow, _Allow(), lambda meta, request: meta.user_id == request.room], ids=["async def", "object", "def"]
)
async def test_authorize_room_is_asked_with_the_meta_and_the_room(hook: Any) -> None:
    given, registered = define_room("chat", authorize_room=hook), define_room("chat")
    assert registered.authorize_room(hook) is hook
    for room in (given, registered):
        asked = msgspec.structs.replace(request(userId="ann"), room="ann")
        assert (await room.meta_for(asked)).user_id == "ann"
        with pytest.raises(Forbidden, match="^room 'bob' is not for 'ann'$"):
            await room.meta_for(msgspec.structs.replace(asked, room="bob"))


async def test_authorize_room_sees_the_definitions_own_meta() -> None:
    room = define_room("chat", meta=Player, extract_meta=lambda request: {"user_id": "ann", "score": 3})
    room.authorize_room(lambda meta, request: type(meta) is Player and meta.score == 3)
    assert (await room.meta_for(request())).score == 3


async def test_what_authorize_room_raises_comes_through() -> None:
    def refuse(meta: ConnectionMeta, request: ConnectRequest) -> bool:
        raise NotFound("no such game")

    with pytest.raises(NotFound, match="no such game"):
        await define_room("chat", authorize_room=refuse).meta_for(request())


@pytest.mark.parametrize("answer", [None, 1, "yes", [True]])
async def test_authorize_room_must_say_true_or_false(answer: Any) -> None:
    room = define_room("chat", authorize_room=lambda meta, request: answer)
    with pytest.raises(TypeError, match=r"^chat\.authorize_room: expected True or False, got "):
        await room.meta_for(request())


async def test_names_that_may_not_pass_are_refused_before_authorize_room_is_asked() -> None:
    asked: list[object] = []

    def decide(meta: ConnectionMeta, request: ConnectRequest) -> bool:
        asked.append(meta)
        return True

    room = define_room("chat", authorize_room=decide)
    with pytest.raises(InvalidArguments):
        await room.meta_for(request(userId="a\nb"))
    assert asked == []


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (None, TypeError),
        (lambda kind: kind(user_id="ann"), TypeError),
        (Identity(None), TypeError),  # type: ignore[arg-type]  # the mistake
        (Identity(Identity({"user_id": "ann"})), TypeError),  # type: ignore[arg-type]  # the mistake
        ("ann", TypeError),
        (("ann", "c"), TypeError),
        ({"user_id": 5, "client_id": "c"}, msgspec.ValidationError),
        ({"client_id": "c"}, msgspec.ValidationError),
        ({"user_id": "a", "client_id": "c", "score": "1"}, msgspec.ValidationError),
    ],
)
async def test_what_is_no_meta_is_refused(result: object, error: type[Exception]) -> None:
    room = define_room("chat", meta=Player, extract_meta=lambda request: result)
    with pytest.raises(error):
        await room.meta_for(request())


async def test_what_extract_meta_raises_comes_through() -> None:
    def refuse(request: ConnectRequest) -> Any:
        raise Unauthorized("no token")

    with pytest.raises(Unauthorized, match="no token"):
        await define_room("chat", extract_meta=refuse).meta_for(request())


def test_a_meta_with_required_fields_needs_an_extract_meta_that_fills_them() -> None:
    room = define_room("chat", meta=Member)
    with pytest.raises(DefinitionError, match="^chat: expected an extract_meta that fills team, rank of Member$"):
        room.check()
    room.extract_meta(nothing)
    room.check()
    define_room("chat", meta=Player).check()


def test_all_rooms_of_a_definition_share_one_codec() -> None:
    room: RoomDefinition[Any, Any] = define_room("chat")
    assert room.codec(100) is room.codec(100)
    assert room.codec(100) is not room.codec(200)


def test_a_connect_request_is_a_value_with_empty_defaults() -> None:
    asked = ConnectRequest("/ws")
    assert (asked.room, asked.query, asked.headers, asked.cookies, asked.remote, asked.app) == (
        None,
        {},
        {},
        {},
        None,
        None,
    )
    assert asked == ConnectRequest("/ws")


# --- rates -----------------------------------------------------------------------------------------------------------


def test_the_rates_of_a_definition_win_over_the_settings_and_only_those() -> None:
    settings = Settings(rate_limit=7, rate_burst=9)
    assert define_room("chat").rated(settings) is settings
    own = define_room("chat", rate_limit=0, rate_limit_bytes=10, rate_policy="drop").rated(settings)
    assert (own.rate_limit, own.rate_limit_bytes, own.rate_policy, own.rate_burst) == (0, 10, "drop", 9)
    assert settings == Settings(rate_limit=7, rate_burst=9)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("rate_limit", value) for value in (-1, "200", True, None, float("nan"), float("inf"))),
        *(("rate_limit_bytes", value) for value in (-1, "1 MiB")),
        *(("rate_burst", value) for value in (0, 1.5, None)),
        *(("rate_policy", value) for value in ("ignore", None, 1)),
    ],
)
def test_a_rate_that_cannot_be_is_refused(option: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=f"^chat: expected {option}= to be "):
        define_room("chat", **{option: value})


def test_an_event_may_have_a_rate_of_its_own() -> None:
    room = define_room("chat")
    room.on("cursor", rate=30, policy="drop")(lambda ctx, data: None)
    room.on("cursor")(lambda ctx, data: None)
    room.on("other", rate=0.5, burst=1)(lambda ctx, data: None)
    assert room.event_rates == {"cursor": (30.0, None, "drop"), "other": (0.5, 1, None)}


@pytest.mark.parametrize(
    ("event", "options"),
    [
        ("cursor", {"rate": 0}),
        ("cursor", {"rate": -1}),
        ("cursor", {"rate": "30"}),
        ("cursor", {"rate": True}),
        ("cursor", {"rate": 30, "burst": 0}),
        ("cursor", {"rate": 30, "policy": "ignore"}),
        ("cursor", {"policy": "drop"}),
        ("cursor", {"burst": 3}),
        ("*", {"rate": 30}),
        ("twice", {"rate": 30}),
    ],
)
def test_a_rate_of_an_event_that_cannot_be_is_refused(event: str, options: dict[str, Any]) -> None:
    room = define_room("chat")
    room.on("twice", rate=1)
    with pytest.raises(DefinitionError, match=r"^chat: .*expected"):
        room.on(event, **options)
