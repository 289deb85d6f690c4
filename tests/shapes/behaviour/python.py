"""The scenarios of `names.py`, played by the client of Python."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.raw import PATIENCE, until
from verani import DeadlineExceeded, Forbidden, InvalidArguments, NotFound, TooLarge
from verani.client import (
    ClientState,
    ConnectFailed,
    ConnectionClosed,
    Event,
    NotSent,
    Reconnection,
    RequestInterrupted,
    VeraniClient,
)

if TYPE_CHECKING:
    from tests.shapes.conftest import Gate

    from .wire import Wire

__all__ = ["PLAYED", "Stage"]

QUICK: Final = Reconnection(initial_delay=0.001, max_delay=0.02)


class Stage:
    """What a scenario has: a wire to the service, a gate, a room of its own, and clients that are closed after it."""

    def __init__(self, wire: Wire, gate: Gate, room: str) -> None:
        self.wire = wire
        self.gate = gate
        self._room = room
        self._clients: list[VeraniClient] = []

    def url(self, path: str = "chat", **query: str) -> str:
        """Name the room of the scenario."""
        question = "&".join(f"{name}={value}" for name, value in query.items())
        return f"ws://127.0.0.1:{self.wire.port}/{path}/{self._room}?{question}"

    def client(self, url: str = "", **options: Any) -> VeraniClient:
        """Make a client that comes back quickly."""
        known: dict[str, Any] = {"reconnection": QUICK, "connection_timeout": PATIENCE, "pong_timeout": PATIENCE}
        self._clients.append(VeraniClient(url or self.url(), **{**known, **options}))
        return self._clients[-1]

    @asynccontextmanager
    async def connected(self, url: str = "", **options: Any) -> AsyncIterator[VeraniClient]:
        """Have a client that is connected."""
        client = self.client(url, **options)
        await client.connect()
        yield client
        await client.close()

    async def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            await client.close()


Scenario = Callable[[Stage], Awaitable[None]]
PLAYED: Final[dict[str, Scenario]] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    def keep(play: Scenario) -> Scenario:
        assert name not in PLAYED, name
        PLAYED[name] = play
        return play

    return keep


def heard(client: VeraniClient, *events: str) -> list[tuple[Any, ...]]:
    """Keep what these events tell, each behind the name of its event."""
    told: list[tuple[Any, ...]] = []
    for event in events:
        client.on(event, lambda *args, event=event: told.append((event, *args)))
    return told


async def ask(client: VeraniClient, event: str, data: Any = None, timeout: float | None = PATIENCE) -> Any:
    return await client.request(event, data, timeout=timeout)


# --- what comes -------------------------------------------------------------------------------------------------


@scenario("a client connects and says what happens")
async def connects(stage: Stage) -> None:
    client = stage.client()
    told = heard(client, "connecting", "open", "connected", "close", "disconnected")
    await client.connect(wait=False)
    await until(lambda: client.state is ClientState.CONNECTING)
    await client.wait_for_connection()
    assert client.connected
    await until(lambda: len(told) == 3)
    await client.close()
    assert told == [("connecting",), ("open",), ("connected",), ("close", 1000, ""), ("disconnected", 1000, "")]
    assert client.state is ClientState.DISCONNECTED


@scenario("a listener gets the data of its events in order")
async def listens(stage: Stage) -> None:
    async with stage.connected() as client:
        told = heard(client, "replied")
        for n in range(3):
            client.emit("reply", {"n": n})
        await until(lambda: len(told) == 3)
        assert told == [("replied", {"type": "replied", "n": n}) for n in range(3)]


@scenario("a listener of all events gets name, data and channel")
async def listens_to_all(stage: Stage) -> None:
    async with stage.connected() as client:
        order = list[str]()
        found = list[Event]()

        def listen(event: Event) -> None:
            found.append(event)
            order.append("*")

        client.on("*", listen)
        client.on("replied", lambda data: order.append("replied"))
        client.emit("reply", {"n": 1})
        await until(lambda: found)
        assert found == [Event("replied", {"type": "replied", "n": 1}, "default")]
        assert order == ["replied", "*"]


@scenario("once is one event, and off is none")
async def listens_once(stage: Stage) -> None:
    async with stage.connected() as client:
        calls = list[str]()

        def twice(data: Any) -> None:
            calls.append("twice")

        def never(data: Any) -> None:
            calls.append("never")

        client.once("replied", lambda data: calls.append("once"))
        client.on("replied", twice)
        client.on("replied", twice)
        client.on("replied", never)
        client.off("replied", never)
        for _ in range(2):
            client.emit("reply", {})
        await until(lambda: calls.count("twice") == 2)
        assert calls == ["once", "twice", "twice"]
        client.off("replied")
        client.emit("reply", {})
        await ask(client, "echo")
        assert len(calls) == 3


@scenario("a listener that throws is told to error and stops nobody")
async def listener_throws(stage: Stage) -> None:
    async with stage.connected() as client:
        error, late = RuntimeError("on purpose"), RuntimeError("on purpose, later")
        errors = heard(client, "error")
        calls = list[int]()

        def fails(data: Any) -> None:
            raise error

        async def fails_later(data: Any) -> None:
            await asyncio.sleep(0)
            raise late

        client.on("replied", fails)
        client.on("replied", fails_later)
        client.on("replied", lambda data: calls.append(data["n"]))
        for n in range(2):
            client.emit("reply", {"n": n})
        await until(lambda: len(calls) == 2 and len(errors) == 4)
        assert calls == [0, 1]
        assert sorted(str(each[1]) for each in errors) == sorted(2 * [str(error), str(late)])
        assert await ask(client, "echo", 1) == 1


@scenario("events with names of the client's own reach only those who listen to all")
async def own_names(stage: Stage) -> None:
    names = ["open", "close", "connected", "disconnected", "connecting", "reconnecting", "*", "verani.dropped"]
    async with stage.connected(stage.url(userId="ann")) as client:
        assert await ask(client, "echo", 1) == 1  # the callbacks of what connecting tells have been called
        told = heard(client, *names[:-2], "verani.dropped", "error")
        found = list[str]()
        client.on("*", lambda event: found.append(event.type))
        for name in [*names, "error"]:
            client.emit("utter", name)
        await until(lambda: len(found) == len(names) + 1)
        assert found == [*names, "error"]
        assert told == [("error", {"type": "error", "by": "ann"})]


# --- what is sent -----------------------------------------------------------------------------------------------


@scenario("what is emitted before there is a connection is sent in order")
async def emits_before(stage: Stage) -> None:
    client = stage.client()
    told = heard(client, "replied")
    for n in range(20):
        client.emit("reply", {"n": n})
    await client.connect()
    await until(lambda: len(told) == 20)
    assert [data["n"] for _, data in told] == list(range(20))


@scenario("the oldest of too many frames that wait are dropped, and that is told")
async def drops(stage: Stage) -> None:
    client = stage.client(max_queue=3)
    told, dropped = heard(client, "replied"), heard(client, "verani.dropped")
    for n in range(5):
        client.emit("reply", {"n": n})
    await client.connect()
    await until(lambda: len(told) == 3 and dropped)
    assert [data["n"] for _, data in told] == [2, 3, 4]
    assert dropped == [("verani.dropped", "outbox", 2)]


@scenario("a name of the client's own is sent all the same")
async def emits_own_name(stage: Stage) -> None:
    async with stage.connected() as client:
        with pytest.raises(NotFound):
            await ask(client, "open")


# --- requests ---------------------------------------------------------------------------------------------------


@scenario("a request brings the answer of the room")
async def answers(stage: Stage) -> None:
    async with stage.connected() as client:
        assert await ask(client, "echo", {"a": [1, None]}) == {"a": [1, None]}
        assert await ask(client, "nick", "Annie") is None
        assert await asyncio.gather(*(ask(client, "echo", n) for n in range(5))) == list(range(5))


@scenario("a request fails with the code of the room, its path and its text")
async def errors(stage: Stage) -> None:
    async with stage.connected() as client:
        with pytest.raises(InvalidArguments) as invalid:
            await ask(client, "say", {"channel": 5})
        assert (invalid.value.path, invalid.value.public) == ("$.channel", None)
        with pytest.raises(Forbidden) as forbidden:
            await ask(client, "mute", "You are muted")
        assert forbidden.value.public == "You are muted"
        with pytest.raises(NotFound):
            await ask(client, "nobody handles this")


@scenario("a request waits for the connection")
async def waits(stage: Stage) -> None:
    client = stage.client()
    await client.connect(wait=False)
    assert await ask(client, "echo", 1) == 1


@scenario("a request fails at its deadline")
async def deadline(stage: Stage) -> None:
    async with stage.connected() as client:
        with pytest.raises(DeadlineExceeded):
            await ask(client, "wait", {"gate": stage.gate.name}, timeout=0.02)
        await stage.gate.open()
        assert await ask(client, "echo", 1) == 1


@scenario("a request that is taken back before it was sent is never sent")
async def taken_back(stage: Stage) -> None:
    client = stage.client()
    stage.wire.block()
    await client.connect(wait=False)
    request = asyncio.create_task(ask(client, "note", "taken back"))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    stage.wire.unblock()
    assert await ask(client, "note", "kept") == ["kept"]


@scenario("a request whose connection ends may have run, and says how it ended")
async def interrupted(stage: Stage) -> None:
    async with stage.connected() as client:
        with pytest.raises(RequestInterrupted) as failure:
            await ask(client, "quit_then_wait", stage.gate.name)
        assert failure.value.closing.code == 4000
        await stage.gate.open()
        assert await ask(client, "echo", 1) == 1


@scenario("a request that is too large says so")
async def too_large(stage: Stage) -> None:
    async with stage.connected() as client:
        with pytest.raises(TooLarge):
            await ask(client, "echo", "x" * 100_000)
        assert await ask(client, "echo", 1) == 1


@scenario("a request of a client that has ended is not sent")
async def not_sent(stage: Stage) -> None:
    async with stage.connected() as client:
        client.emit("quit", 1000)
        await until(lambda: client.state is ClientState.DISCONNECTED)
        with pytest.raises(NotSent):
            await ask(client, "echo")


@scenario("the keepalive is no request")
async def ping(stage: Stage) -> None:
    async with stage.connected() as client:
        with pytest.raises(ValueError, match="ping"):
            await ask(client, "ping")


# --- coming back ------------------------------------------------------------------------------------------------


@scenario("a client comes back after every code but 1000")
async def comes_back(stage: Stage) -> None:
    async with stage.connected() as client:
        closes = heard(client, "close")
        codes = (1008, 1011, 1012, 1013, 4001, 4009)
        for n, code in enumerate(codes, 1):
            client.emit("quit", code)
            await until(lambda n=n: len(closes) == n)  # type: ignore[misc]  # mypy has no types for defaults
            assert await ask(client, "echo", code) == code
        assert closes == [("close", code, "as asked") for code in codes]


@scenario("a client comes back after its connection was lost")
async def lost(stage: Stage) -> None:
    async with stage.connected() as client:
        closes = heard(client, "close")
        stage.wire.cut()
        await until(lambda: closes)
        assert closes == [("close", 1006, "")]
        assert await ask(client, "echo", 1) == 1


@scenario("what is emitted while there is no connection is sent after it")
async def sent_after(stage: Stage) -> None:
    async with stage.connected() as client:
        told, closes = heard(client, "replied"), heard(client, "close")
        stage.wire.block()
        stage.wire.cut()
        await until(lambda: closes)
        for n in range(3):
            client.emit("reply", {"n": n})
        stage.wire.unblock()
        await until(lambda: len(told) == 3)
        assert [data["n"] for _, data in told] == [0, 1, 2]


@scenario("a connection that answers no ping is given up, and the client comes back")
async def silent(stage: Stage) -> None:
    async with stage.connected(ping_interval=0.01, pong_timeout=2.0) as client:
        closes = heard(client, "close")
        stage.wire.freeze()
        await until(lambda: closes)
        assert closes[0][1] == 1006
        stage.wire.thaw()
        assert await ask(client, "echo", 1) == 1


@scenario("a handshake that takes too long is given up, and tried again")
async def slow_handshake(stage: Stage) -> None:
    client = stage.client(connection_timeout=1.0, reconnection=Reconnection(initial_delay=0.001, max_attempts=None))
    errors = heard(client, "error")
    stage.wire.freeze()
    await client.connect(wait=False)
    await until(lambda: errors)
    assert isinstance(errors[0][1], ConnectFailed)
    stage.wire.thaw()
    assert await ask(client, "echo", 1) == 1


@scenario("delays grow, are random, and start anew when a connection has proved itself")
async def delays(stage: Stage) -> None:
    plan = Reconnection(initial_delay=0.001, max_delay=0.008, backoff_multiplier=2, max_attempts=None)
    client = stage.client(reconnection=plan)
    retries = heard(client, "reconnecting")
    stage.wire.block()
    await client.connect(wait=False)
    await until(lambda: len(retries) >= 6)
    stage.wire.unblock()
    assert [attempt for _, attempt, _ in retries[:6]] == [1, 2, 3, 4, 5, 6]
    ceilings = [0.001, 0.002, 0.004, 0.008, 0.008, 0.008]
    assert all(0 <= delay <= ceiling for (*_, delay), ceiling in zip(retries, ceilings, strict=False))
    assert [delay for *_, delay in retries[:6]] != ceilings
    assert await ask(client, "echo", 1) == 1
    before = len(retries)
    stage.wire.cut()
    await until(lambda: len(retries) > before)
    assert retries[before][1] == 1


@scenario("a connection that the server ends does not start the delays anew")
async def verdicts(stage: Stage) -> None:
    async with stage.connected() as client:
        retries = heard(client, "reconnecting")
        for n in (1, 2, 3):
            assert await ask(client, "echo", n) == n
            client.emit("quit", 4009)
            await until(lambda n=n: len(retries) == n)  # type: ignore[misc]  # mypy has no types for defaults
        assert [attempt for _, attempt, _ in retries] == [1, 2, 3]


@scenario("a URL may be another one for each attempt")
async def other_url(stage: Stage) -> None:
    async with stage.connected(stage.url(userId="ann")) as client:
        assert (await ask(client, "who"))["user"] == "ann"
        client.url = stage.url(userId="bob")
        closes = heard(client, "close")
        stage.wire.cut()
        await until(lambda: closes)
        assert (await ask(client, "who"))["user"] == "bob"


# --- giving up --------------------------------------------------------------------------------------------------


@scenario("a client gives up after as many failures as it may have")
async def gives_up(stage: Stage) -> None:
    client = stage.client(reconnection=Reconnection(initial_delay=0.001, max_attempts=3))
    told = heard(client, "error", "reconnecting")
    stage.wire.block()
    with pytest.raises(ConnectFailed):
        await client.connect()
    assert client.state is ClientState.ERROR
    await until(lambda: len(told) == 5)
    assert [each[0] for each in told] == ["error", "reconnecting"] * 2 + ["error"]
    with pytest.raises(NotSent):
        await ask(client, "echo")


@scenario("a client that may try for ever does")
async def for_ever(stage: Stage) -> None:
    client = stage.client(reconnection=Reconnection(initial_delay=0.001, max_delay=0.001, max_attempts=None))
    retries = heard(client, "reconnecting")
    stage.wire.block()
    await client.connect(wait=False)
    await until(lambda: len(retries) >= 12)
    stage.wire.unblock()
    await client.wait_for_connection()


@scenario("a client that may not reconnect does not")
async def no_reconnection(stage: Stage) -> None:
    async with stage.connected(reconnection=Reconnection(enabled=False)) as client:
        closes = heard(client, "close")
        client.emit("quit", 1012)
        await until(lambda: closes)
        assert client.state is ClientState.DISCONNECTED
        with pytest.raises(NotSent):
            await ask(client, "echo")
        with pytest.raises(ConnectionClosed) as failure:
            await client.wait_for_connection()
        assert failure.value.closing.code == 1012


@scenario("a client that the room refuses gives up with the room's reason")
async def refused(stage: Stage) -> None:
    client = stage.client(stage.url(userId="unwelcome"))
    told = heard(client, "error", "close", "reconnecting")
    await client.connect(wait=False)
    with pytest.raises(Forbidden):
        await ask(client, "echo")
    assert client.state is ClientState.ERROR
    with pytest.raises(Forbidden):
        await client.wait_for_connection()
    await until(lambda: len(told) == 2)
    assert told[0] == ("close", 1000, "forbidden")
    assert isinstance(told[1][1], Forbidden)


@scenario("a client whose room fails has not proved itself")
async def failing_room(stage: Stage) -> None:
    plan = Reconnection(initial_delay=0.001, max_attempts=2)
    client = stage.client(stage.url(userId="unwanted"), reconnection=plan)
    errors, closes = heard(client, "error"), heard(client, "close")
    await client.connect(wait=False)
    await until(lambda: errors)
    assert [code for _, code, _ in closes] == [1011, 1011]
    assert errors[0][1].closing.code == 1011
    assert client.state is ClientState.ERROR


@scenario("a client stays away after 1000 until it is told to connect")
async def stays_away(stage: Stage) -> None:
    async with stage.connected() as client:
        told = heard(client, "close", "reconnecting")
        client.emit("quit", 1000)
        await until(lambda: told)
        with pytest.raises(ConnectionClosed):
            await client.wait_for_connection()
        assert told == [("close", 1000, "as asked")]
        await client.connect()
        assert await ask(client, "echo", 1) == 1


# --- tokens -----------------------------------------------------------------------------------------------------


@scenario("a token is asked for before each handshake")
async def tokens(stage: Stage) -> None:
    users = iter(["ann", "bob"])

    async def fetch() -> str:
        await asyncio.sleep(0)
        return f"{next(users)}.3600"

    async with stage.connected(stage.url("vault"), token=fetch) as client:
        assert await ask(client, "who") == "ann"
        closes = heard(client, "close")
        stage.wire.cut()
        await until(lambda: closes)
        assert await ask(client, "who") == "bob"


@scenario("a token that is about to expire is renewed")
async def renewal(stage: Stage) -> None:
    tokens = ["ann.3600", "ann.20"]
    records = list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]  # a test's own
    logger = logging.getLogger("verani.client")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        async with stage.connected(stage.url("vault"), token=lambda: tokens.pop()) as client:
            await until(lambda: "the token was refreshed" in records)
            assert await ask(client, "who") == "ann"
            assert tokens == []
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@scenario("a function that fails to give a token is asked again")
async def token_fails(stage: Stage) -> None:
    tokens = ["ann.3600", ""]
    client = stage.client(stage.url("vault"), token=lambda: tokens.pop())
    errors = heard(client, "error")
    await client.connect(wait=False)
    assert await ask(client, "who") == "ann"
    assert len(errors) == 1
    assert isinstance(errors[0][1], ConnectFailed)


@scenario("a token that nobody takes is no connection")
async def bad_token(stage: Stage) -> None:
    client = stage.client(stage.url("vault"), token="bad", reconnection=Reconnection(max_attempts=2, initial_delay=0))
    with pytest.raises(ConnectFailed):
        await client.connect()
    assert client.state is ClientState.ERROR


@scenario("a token that no header can carry is refused at once")
async def impossible_token(stage: Stage) -> None:
    for token in ("two words", "", "n\u00e9e"):
        with pytest.raises(ValueError, match="token"):
            stage.client(token=token)


# --- the end ----------------------------------------------------------------------------------------------------


@scenario("waiting for a connection ends with it, in time, or with the client")
async def waiting(stage: Stage) -> None:
    client = stage.client()
    stage.wire.freeze()
    await client.connect(wait=False)
    with pytest.raises(TimeoutError):
        await client.wait_for_connection(timeout=0.02)
    waiter = asyncio.create_task(client.wait_for_connection())
    stage.wire.thaw()
    await waiter
    await client.wait_for_connection()
    await client.close()
    with pytest.raises(ConnectFailed):
        await client.wait_for_connection()


@scenario("close is final and may be repeated")
async def closing(stage: Stage) -> None:
    async with stage.connected(stage.url(channels="presence")) as watcher:
        assert await ask(watcher, "echo", 1) == 1
        left = heard(watcher, "left")
        client = stage.client()
        await client.connect()
        assert await ask(client, "echo", 1) == 1
        await client.close(4000, "bye")
        await client.close()
        await until(lambda: left)
        assert (left[0][1]["code"], left[0][1]["reason"]) == (4000, "bye")
        assert client.state is ClientState.DISCONNECTED
        with pytest.raises(NotSent):
            client.emit("echo")
        with pytest.raises(NotSent):
            await ask(client, "echo")
        with pytest.raises(RuntimeError):
            await client.connect()


@scenario("a close code that cannot be sent is refused, and nothing else happens")
async def close_code(stage: Stage) -> None:
    async with stage.connected() as client:
        for code in (1006, 1001, 2999, 5000):
            with pytest.raises(ValueError, match="close code"):
                await client.close(code)
        assert await ask(client, "echo", 1) == 1


@scenario("numbers that make no sense are refused")
async def numbers(stage: Stage) -> None:
    for option in ("max_queue", "connection_timeout", "ping_interval", "pong_timeout"):
        with pytest.raises(ValueError, match=option):
            stage.client(stage.url(), **{option: -1})
    for option in ("max_attempts", "initial_delay", "backoff_multiplier"):
        plan: dict[str, Any] = {option: -1}
        with pytest.raises(ValueError, match=option):
            Reconnection(**plan)
