"""What callers over HTTP are told: of servers that are no service, of nobody who listens, and in other threads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from verani import connect, connect_sync, define_room
from verani.errors import DeadlineExceeded, Interrupted, RoomBusy, TooLarge, VeraniError, WrongThread
from verani.settings import Settings
from verani.testing import serve


@asynccontextmanager
async def answering(answer: bytes, calls: list[bytes]) -> AsyncIterator[str]:
    """Answer every request with these bytes, and close."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        await server.wait_closed()


def ok(content_type: str, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        content_type.encode(),
        len(body),
        body,
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (ok("text/html", b"<html>"), "answered 200 and no result; is that the internal listener of a service?"),
        (ok("application/json", b"<html>"), "answered 200 and no result"),
        (ok("application/json", b""), "answered 200 and no result"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204; is that the internal listener of a service?"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", "answered 302; is that the"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope", "answered 404; is that the"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "answered no HTTP; is that the internal listener of a service?"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "answered no HTTP"),
        (b"HTTP/1.1 yes\r\n\r\n", "answered no HTTP"),
    ],
)
async def test_what_no_service_answers_is_said_at_once(answer: bytes, text: str) -> None:
    calls: list[bytes] = []
    async with answering(answer, calls) as url, connect(url, timeout=60) as service:
        with pytest.raises(VeraniError, match=re.escape(text)) as caught:
            await service.room("chat", "lobby").get_session_count()
        assert type(caught.value) is VeraniError
        assert url in str(caught.value)
    assert len(calls) == 1


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nSet-Cookie: secret\r\nX"])
async def test_an_answer_that_breaks_off_is_said_and_not_shown(answer: bytes) -> None:
    async with answering(answer, []) as url, connect(url) as service:
        with pytest.raises(Interrupted) as caught:
            await service.room("chat", "lobby").get_session_count()
    assert str(caught.value) == (
        "chat/lobby: the connection was lost while get_session_count ran: the server closed the connection and had not"
        " answered"
    )
    assert "secret" not in repr(caught.value.__cause__)


async def test_a_port_that_speaks_no_tls_is_said_at_once() -> None:
    calls: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(await reader.read(1))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with connect(url, timeout=60) as service:
        with pytest.raises(VeraniError, match=r"speaks no TLS; is that the internal listener of a service\?"):
            await service.room("chat", "lobby").get_session_count()
    assert len(calls) == 1
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("host", "reason"), [("127.0.0.1:{}", "connection refused"), ("no-such-host.invalid:{}", "name|address|resolution")]
)
async def test_nobody_who_listens_is_said_in_the_words_of_the_system(
    unused_tcp_port: int, host: str, reason: str
) -> None:
    async with connect("http://" + host.format(unused_tcp_port), timeout=0.2) as service:
        with pytest.raises(RoomBusy, match=rf"(?i)cannot connect to http://.*: .*({reason})") as caught:
            await service.room("chat", "lobby").get_session_count()
        assert "unknown error" not in str(caught.value).lower()


@pytest.mark.parametrize("url", ["http://a..b:8001", "ftp://127.0.0.1:8001", "127.0.0.1:8001", ""])
async def test_what_is_no_url_of_a_service_is_said(url: str) -> None:
    async with connect(url) as service:
        with pytest.raises(
            VeraniError, match="expected the URL of an internal listener, such as http://127.0.0.1:8001"
        ):
            await service.room("chat", "lobby").get_session_count()


async def test_a_connection_that_breaks_off_is_an_interruption() -> None:
    calls: list[bytes] = []
    async with answering(b"", calls) as url, connect(url) as service:
        with pytest.raises(Interrupted, match="the connection was lost while get_session_count ran"):
            await service.room("chat", "lobby").get_session_count()


@pytest.mark.parametrize("size", [70_000, 2 << 20, 20 << 20])
async def test_arguments_that_are_too_large_say_so(size: int) -> None:
    server = serve(define_room("chat"))
    async with server, connect(server.internal_url, timeout=30) as service:
        stub = service.room("chat", "lobby")
        try:
            await stub.broadcast("default", "x" * size)
        except TooLarge:
            assert size > 1 << 20
        else:
            assert size < 1 << 20


# --- threads -----------------------------------------------------------------------------------------------------


async def test_a_call_from_another_thread_is_refused_at_once_and_names_the_way() -> None:
    server = serve(define_room("chat"))
    async with server, connect(server.internal_url) as service:
        stub = service.room("chat", "lobby")
        assert await stub.get_session_count() == 0

        async def call() -> Any:
            return await stub.get_session_count()

        misuses: list[Callable[[], Coroutine[Any, Any, Any]]] = [call, service.close]
        for misuse in misuses:
            with pytest.raises(WrongThread, match=r"run_coroutine_threadsafe.*connect_sync"):
                await asyncio.to_thread(asyncio.run, misuse())
        loop = asyncio.get_running_loop()
        count = await asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(stub.get_session_count(), loop).result(10)
        )
        assert count == 0


async def test_a_blocking_service_belongs_to_the_thread_of_its_first_call() -> None:
    server = serve(define_room("chat"))
    async with server:

        def work() -> int:
            with connect_sync(server.internal_url) as service, ThreadPoolExecutor(1) as other:
                stub = service.room("chat", "lobby")
                count: int = stub.get_session_count()
                for misuse in (stub.get_session_count, service.close):
                    with pytest.raises(WrongThread, match=r"connect_sync\(\) in each thread"):
                        other.submit(misuse).result(10)
                return count

        assert await asyncio.to_thread(work) == 0


async def test_a_call_that_does_not_end_in_time_says_so() -> None:
    room = define_room("chat")

    @room.rpc
    async def hold(actor: Any) -> None:
        await asyncio.sleep(60)

    server = serve(room, settings=Settings(drain_seconds=0.1))
    async with server, connect(server.internal_url) as service:
        with pytest.raises(DeadlineExceeded):
            await service.room("chat", "lobby").call("hold", timeout=0.05)
