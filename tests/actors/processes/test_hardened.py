"""Strangers at the ports of the actor system: nothing of theirs is executed, and nothing dies of them.

All against a real launcher with a registrar and a host. What a stranger sends goes to every port of every process.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from thespian.actors import ActorAddress
from thespian.system.messages.admin import SystemShutdown
from thespian.system.transport.IPBase import TCPv4ActorAddress
from thespian.system.transport.streamBuffer import toSendBuffer

from tests.actors.processes.launched import SECRET, Launched
from verani_actors.membership.control import Welcome
from verani_actors.processes.parcel import Parcel
from verani_actors.processes.seal import LARGEST, BoundedBuffer, Rejected, Seal


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.file),)


@pytest.fixture(scope="module")
def launched() -> Iterator[Launched]:
    launched = Launched()
    launched.parts()
    yield launched
    launched.end()


@pytest.fixture(autouse=True)
def nothing_dies(launched: Launched) -> Iterator[None]:
    """Whatever a test does, every process is still there, and they still work together."""
    before = launched.pids()
    yield
    assert launched.pids() == before
    admin = next(port for pid, _, port in launched.listening() if pid == launched.children(launched.process.pid)[0])
    assert exchange(admin, toSendBuffer((stranger(), "anything"), Seal(SECRET.encode()).dumps))


def stranger() -> ActorAddress:
    return ActorAddress(TCPv4ActorAddress("127.0.0.1", 9))


def exchange(port: int, content: bytes, *, more: bytes = b"") -> bytes:
    """Send to a port and return what comes back until the other side closes, or has answered."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as connection:
        connection.sendall(content)
        with suppress(ConnectionError):
            if more:
                connection.sendall(more)
            return connection.recv(4096)
        return b""


def ports(launched: Launched) -> list[int]:
    found = sorted({port for _, _, port in launched.listening()})
    assert len(found) == 5, "one each of launcher, Admin, logger, registrar and host"
    return found


@pytest.mark.threat(70)
def test_a_forged_pickle_executes_nothing_at_any_port(launched: Launched, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    forged = [
        toSendBuffer((stranger(), Canary(canary))),
        toSendBuffer(Canary(canary)),
        toSendBuffer((stranger(), Canary(canary)), Seal(b"another secret").dumps),
        toSendBuffer((stranger(), Canary(canary)), lambda message: bytes(32) + pickle.dumps(message)),
    ]
    for port in ports(launched):
        for content in forged:
            exchange(port, content)
    assert not canary.exists()


def test_the_same_pickle_with_the_right_mac_is_executed(launched: Launched, tmp_path: Path) -> None:
    # Or the test before would pass for any reason.
    for port in ports(launched):
        canary = tmp_path / str(port)
        exchange(port, toSendBuffer((stranger(), Canary(canary)), Seal(SECRET.encode()).dumps))
        assert canary.exists()


@pytest.mark.threat(70)
@pytest.mark.parametrize(
    ("content", "more"),
    [
        (b"-5>xxxxxxxxxxxx", b"yy"),
        (b"99999999999>", b"x"),
        (b"1048577>", b"x"),
        (b">", b"x"),
        (b"0>", b"x"),
        (b"+5>12345", b"x"),
        (b" 5>12345", b"x"),
        (b"5_0>12345", b"x"),
        (b"\xff\x00\xfe" * 100, b""),
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b""),
        (os.urandom(1 << 16), b""),
        (b"16>" + bytes(16), b""),
        (b"64>" + bytes(64), b"64>" + bytes(64)),
    ],
)
def test_a_malformed_message_costs_its_sender_the_connection(launched: Launched, content: bytes, more: bytes) -> None:
    for port in ports(launched):
        exchange(port, content, more=more)


@pytest.mark.threat(70)
def test_a_port_scan_kills_nothing(launched: Launched) -> None:
    for port in ports(launched):
        for _ in range(50):
            socket.create_connection(("127.0.0.1", port)).close()
        connection = socket.create_connection(("127.0.0.1", port))
        # Closed with RST.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()


@pytest.mark.threat(70)
def test_connections_that_say_nothing_or_go_on_for_ever_hold_nothing_up(launched: Launched) -> None:
    seal = Seal(SECRET.encode())
    for port in ports(launched):
        # More than a process keeps: it closes the oldest.
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        for connection in idle[-50:]:
            connection.sendall(b"1000>" + bytes(10))
        assert exchange(port, toSendBuffer((stranger(), "anything"), seal.dumps))
        for connection in idle:
            connection.close()


def test_every_socket_is_bound_to_the_advertised_address_only() -> None:
    launched = Launched(address="127.0.0.3")
    try:
        parts = launched.parts()
        listening = launched.listening()
        assert {address for _, address, _ in listening} == {"127.0.0.3"}
        assert {pid for pid, _, _ in listening} == set(parts.values())
    finally:
        launched.end()


def test_an_authentic_message_can_end_the_system_so_the_secret_is_what_protects_it() -> None:
    launched = Launched()
    try:
        admin = launched.parts()["admin"]
        port = next(port for pid, _, port in launched.listening() if pid == admin)
        exchange(port, toSendBuffer((stranger(), SystemShutdown())))
        assert launched.process.poll() is None
        exchange(port, toSendBuffer((stranger(), SystemShutdown()), Seal(SECRET.encode()).dumps))
        assert launched.process.wait(20) == 1
        assert launched.pids() == []
    finally:
        launched.end()


def test_a_flood_of_refused_messages_is_one_line_a_reason_and_process_in_the_log() -> None:
    launched = Launched()
    try:
        launched.parts()
        found = ports(launched)
        for port in found:
            for _ in range(50):
                exchange(port, b"64>" + bytes(64))
                exchange(port, b"GET / HTTP/1.1\r\n\r\n")
        refused = "WARNING [Verani] control message refused: "
        assert launched.log.count(f"{refused}wrong cluster secret (last from 127.0.0.1); 1 so far") == len(found)
        assert launched.log.count(f"{refused}malformed or too large (last from 127.0.0.1); 1 so far") == len(found)
        assert "thespian:" not in launched.log
        assert "Traceback" not in launched.log
        assert SECRET not in launched.log
    finally:
        launched.end()


def test_a_message_comes_back_from_its_seal_as_it_went_in() -> None:
    seal = Seal(b"secret")
    assert seal.loads(seal.dumps({"a": (1, 2)})) == {"a": (1, 2)}


@pytest.mark.parametrize("at", [0, 31, 32, -1])
def test_one_changed_bit_breaks_the_seal(at: int) -> None:
    sealed = bytearray(Seal(b"secret").dumps("message"))
    sealed[at] ^= 1
    with pytest.raises(Rejected):
        Seal(b"secret").loads(bytes(sealed))


def test_a_buffer_takes_a_message_in_any_pieces_up_to_its_bound() -> None:
    seal = Seal(b"secret")
    message = toSendBuffer("x" * 100, seal.dumps)
    buffer = BoundedBuffer(seal.loads)
    for at in range(len(message)):
        assert not buffer.isDone()
        buffer.addMore(message[at : at + 1])
    assert buffer.isDone()
    assert buffer.completed()[0] == "x" * 100
    BoundedBuffer(seal.loads).addMore(b"%d>" % LARGEST)
    with pytest.raises(Rejected):
        BoundedBuffer(seal.loads).addMore(b"%d>" % (LARGEST + 1))


def test_what_thespian_may_log_of_a_control_message_tells_nothing() -> None:
    parcel = Parcel("registrar", Welcome("a machine"))
    assert "a machine" not in f"{parcel} {parcel!r}"


def test_a_control_message_that_is_too_large_is_an_error_of_its_sender() -> None:
    with pytest.raises(ValueError, match="expected a control message of at most"):
        Parcel("registrar", Welcome("m" * (1 << 20)))
