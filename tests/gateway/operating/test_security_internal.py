"""Attacks on the internal listener, and on what must only be there: threats 48 to 52, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.listeners import ADMIN, RPC, Listen
from tests.raw import Response, until

STATUS = Path("/proc/self/status")

COUNT = "/rpc/chat/lobby/get_session_count"


def peak(*, reset: bool = False) -> int:
    """Return the most bytes of this process that were in memory since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def code_of(response: Response) -> Any:
    return json.loads(response.body)["error"]["code"]


# --- 48: who may call, and with what -------------------------------------------------------------------------


@pytest.mark.threat(48)
@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {RPC[:-1]}",
        f"Bearer {RPC}x",
        f"Bearer {RPC.upper()}",
        f"Bearer {ADMIN}",
        f"Basic {RPC}",
        f"Bearer {RPC} {RPC}",
        f"Bearer {RPC}, Bearer {RPC}",
        f"Bearer\t{RPC}",
        RPC,
        "Bearer \xff\xfe",
    ],
)
async def test_a_call_without_the_key_is_401_and_wakes_nothing(listen: Listen, authorization: str) -> None:
    running = await listen()
    head = f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {authorization}\r\nContent-Length: 0\r\n\r\n"
    response = await running.send(running.internal, head.encode("latin-1"))
    assert (response.status, code_of(response)) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert RPC.encode() not in response.body
    assert running.gateway.rooms() == []


@pytest.mark.threat(48)
async def test_of_two_authorizations_a_wrong_first_one_is_not_saved_by_the_second(listen: Listen) -> None:
    running = await listen()
    head = f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer wrong\r\nAuthorization: Bearer {RPC}\r\n"
    assert (await running.send(running.internal, f"{head}Content-Length: 0\r\n\r\n".encode())).status in (400, 401)


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.threat(48)
async def test_a_body_of_two_mebibytes_is_413_however_it_comes(listen: Listen) -> None:
    running = await listen()
    body = b'{"x":"' + b"x" * (2 << 20) + b'"}'
    response = await running.ask(COUNT, method="POST", token=RPC, body=body)
    assert (response.status, code_of(response)) == (413, "too_large")
    head = f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {RPC}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = await running.send(running.internal, head.encode() + _chunked(body))
    assert (response.status, code_of(response)) == (413, "too_large")
    assert running.gateway.rooms() == []
    assert (await running.ask(COUNT, method="POST", token=RPC)).body == b"0"


@pytest.mark.threat(48)
@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc to read memory")
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_as_the_body_of_a_call_is_415_and_not_inflated(listen: Listen, encoding: str) -> None:
    # Before there is anybody whose loop it would block.
    plain = bytes(64 << 20)
    bomb = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    del plain
    running = await listen()
    before = peak(reset=True)
    response = await running.ask(COUNT, method="POST", token=RPC, body=bomb, Content_Encoding=encoding)
    assert (response.status, code_of(response)) == (415, "invalid")
    assert peak() - before < 16 << 20
    assert running.gateway.rooms() == []


@pytest.mark.threat(48)
async def test_a_bomb_without_the_key_is_401_and_not_inflated(listen: Listen) -> None:
    bomb = gzip.compress(bytes(32 << 20))
    running = await listen()
    before = peak(reset=True)
    response = await running.ask(COUNT, method="POST", token="wrong", body=bomb, Content_Encoding="gzip")
    assert response.status == 401
    assert peak() - before < 16 << 20


@pytest.mark.threat(48)
async def test_a_body_that_does_not_come_ends_at_the_deadline_of_its_call(listen: Listen) -> None:
    running = await listen()
    client = await running.tcp(running.internal)
    head = f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {RPC}\r\nVerani-Timeout: 0.2\r\n"
    response = await client.request(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert (response.status, code_of(response)) == (504, "deadline")
    assert running.gateway.rooms() == []


class Smuggled(NamedTuple):
    """Bytes after the request line and Host of a call, and the statuses it may have; none is a result."""

    data: bytes
    statuses: set[int]


SMUGGLED = {
    "two lengths": Smuggled(b"Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}", {400}),
    "a length and chunks": Smuggled(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", {400}),
    "a length that is none": Smuggled(b"Content-Length: -1\r\n\r\n", {400}),
    "a length with a sign": Smuggled(b"Content-Length: +2\r\n\r\n{}", {400}),
    "a chunk size that is none": Smuggled(b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {400}),
    "chunked twice": Smuggled(b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", {400}),
    "a header that goes on": Smuggled(b"X: y\r\n z\r\nContent-Length: 0\r\n\r\n", {400, 401}),
    "a bare line feed": Smuggled(b"X: y\nAuthorization: Bearer wrong\r\n\r\n", {400, 401}),
    "a space before the colon": Smuggled(b"Content-Length : 2\r\n\r\n{}", {400}),
}


@pytest.mark.threat(48)
@pytest.mark.parametrize("smuggled", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_a_body_of_two_meanings_is_refused(listen: Listen, clean_log: list[str], smuggled: Smuggled) -> None:
    clean_log.append("aiohttp.server: Error handling request from 127.0.0.1")
    running = await listen()
    client = await running.tcp(running.internal)
    client.writer.write(f"POST {COUNT} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + smuggled.data)
    async with asyncio.timeout(10):
        assert int((await client.reader.readline()).split(b" ")[1]) in smuggled.statuses
    assert running.gateway.rooms() == []


@pytest.mark.threat(48)
@pytest.mark.parametrize(
    "method", ["__class__", "__init__", "_loop", "spawn", "state", "stub", "close", "sessions", "name", "mro"]
)
async def test_only_methods_that_are_meant_to_be_called_are_there(listen: Listen, method: str) -> None:
    running = await listen()
    response = await running.ask(f"/rpc/chat/lobby/{method}", method="POST", token=RPC, body=b"{}")
    assert (response.status, code_of(response)) == (404, "not_found")


# --- 49: what is not on the public listener ------------------------------------------------------------------

INTERNAL_PATHS = [
    *("/metrics", "/admin", "/admin/", "/admin/rooms", "/admin/rooms/chat/lobby", "/debug", "/debug/pprof"),
    *(
        "/inspector/",
        "/openapi.json",
        "/asyncapi.json",
        "/ready",
        COUNT,
        "/rpc",
        "/server-status",
        "/.env",
        "/.git/config",
    ),
    *("//admin/rooms", "/./admin/rooms", "/ws/../admin/rooms", "/%61dmin/rooms", "/admin%2frooms", "/ADMIN/rooms"),
    "http://127.0.0.1/admin/rooms",
]


@pytest.mark.threat(49)
@pytest.mark.parametrize("path", INTERNAL_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_internal_is_on_the_public_listener_even_with_the_tokens(
    listen: Listen, path: str, method: str
) -> None:
    running = await listen()
    for token in (RPC, ADMIN):
        for host in ("127.0.0.1", f"127.0.0.1:{running.internal}"):
            head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            response = await running.send(running.public, f"{head}Content-Length: 0\r\n\r\n".encode())
            assert response.status == 404
            assert b"chat" not in response.body


# --- 51: web pages -------------------------------------------------------------------------------------------


@pytest.mark.threat(51)
@pytest.mark.parametrize("path", [COUNT, "/admin/rooms", "/metrics", "/openapi.json", "/asyncapi.json", "/ready"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("Origin", "https://evil.test"), ("Origin", "null"), ("Origin", "http://127.0.0.1:1"), ("Host", "evil.test")],
)
async def test_another_page_reaches_nothing_even_with_the_token(
    listen: Listen, path: str, name: str, value: str
) -> None:
    running = await listen()
    if (path, name) == ("/ready", "Host"):
        return  # a probe comes with any Host, and what it reads is no secret
    method = "POST" if path == COUNT else "GET"
    for token in (RPC, ADMIN):
        response = await running.ask(path, method=method, token=token, body=b"", **{name: value})
        assert (response.status, code_of(response)) == (403, "forbidden")
        assert "access-control-allow-origin" not in response.headers
    assert running.gateway.rooms() == []


@pytest.mark.threat(51)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_of_a_page_is_no_call(listen: Listen, content_type: str) -> None:
    running = await listen()
    response = await running.ask(COUNT, method="POST", token=RPC, body=b"{}", Content_Type=content_type)
    assert (response.status, code_of(response)) == (400, "invalid")
    assert running.gateway.rooms() == []


@pytest.mark.threat(51)
async def test_a_page_gets_no_leave_to_ask(listen: Listen) -> None:
    running = await listen()
    response = await running.ask(
        COUNT, method="OPTIONS", Origin="https://evil.test", Access_Control_Request_Method="POST"
    )
    assert response.status == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.threat(51)
@pytest.mark.threat(52)
@pytest.mark.parametrize(
    "path",
    ["/ready", "/metrics", "/admin/rooms", "/openapi.json", "/asyncapi.json", COUNT, "/nowhere", "/admin"],
)
@pytest.mark.parametrize("token", ["", RPC, ADMIN])
async def test_every_answer_forbids_frames_scripts_and_guessing(listen: Listen, path: str, token: str) -> None:
    running = await listen()
    response = await running.ask(path, method="POST" if path == COUNT else "GET", token=token)
    policy = response.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not response.headers["content-type"].startswith("text/html")


# --- 52: text of users ---------------------------------------------------------------------------------------


@pytest.mark.threat(52)
async def test_no_text_of_a_user_is_in_what_operators_read(listen: Listen) -> None:
    running = await listen()
    client = await running.tcp(running.public)
    await client.upgrade("/ws/lobby?userId=%3Cscript%3Ealert(1)%3C/script%3E&channels=%3Cimg%20onerror%3E")
    client.send({"type": "<b>type</b>", "channel": "<i>", "data": "<script>"})
    await client.pinged()
    await until(lambda: running.gateway.rooms())
    for path, token in (("/admin/rooms", ADMIN), ("/admin/rooms/chat/lobby", ADMIN), ("/metrics", ADMIN)):
        response = await running.ask(path, token=token)
        assert response.status == 200
        assert b"<" not in response.body, response.body
    refused = await running.ask("/rpc/chat/lobby/%3Cscript%3E", method="POST", token=RPC, body=b"{}")
    assert (refused.status, refused.headers["content-type"]) == (404, "application/json")
