"""What the load says to servers and hears from them: a wrong codec would measure something else, and say nothing."""

from __future__ import annotations

import json

import pytest

from benchmarks.wires import FRAMES, SOCKET_IO, Numbered, WireError


def test_an_event_of_socket_io_is_the_packet_that_its_clients_send() -> None:
    assert SOCKET_IO.encode("cast", b'{"s":1,"n":2}') == b'42["cast",{"s":1,"n":2}]'


def test_an_event_of_socket_io_gives_its_sender_and_number() -> None:
    assert SOCKET_IO.decode(b'42["cast",{"s":7,"n":300,"p":"xx"}]') == Numbered(7, 300)


@pytest.mark.parametrize("control", [b"0{}", b"2", b'40{"sid":"a"}', b"6"])
def test_a_packet_of_socket_io_that_is_no_event_counts_as_no_delivery(control: bytes) -> None:
    assert SOCKET_IO.decode(control) is None


def test_an_engine_that_opens_is_asked_for_the_namespace() -> None:
    assert SOCKET_IO.answer(b'0{"sid":"a","upgrades":[],"pingInterval":25000}') == b"40"


def test_the_room_is_open_when_the_namespace_is_and_not_before() -> None:
    assert not SOCKET_IO.opens_at_once
    assert not SOCKET_IO.opens(b'0{"sid":"a"}')
    assert SOCKET_IO.opens(b'40{"sid":"b"}')
    assert SOCKET_IO.answer(b'40{"sid":"b"}') is None


@pytest.mark.parametrize(("ping", "pong"), [(b"2", b"3"), (b"2probe", b"3probe")])
def test_a_ping_is_answered_with_what_it_carries(ping: bytes, pong: bytes) -> None:
    assert SOCKET_IO.answer(ping) == pong


@pytest.mark.parametrize("wrong", [b'44{"message":"no"}', b"1", b"41", b"", b"<html>"])
def test_a_refusal_or_something_else_ends_the_measurement(wrong: bytes) -> None:
    with pytest.raises(WireError):
        SOCKET_IO.answer(wrong)


def test_a_frame_is_json_with_a_type_and_data() -> None:
    assert json.loads(FRAMES.encode("echo", b'{"s":0,"n":1}')) == {"type": "echo", "data": {"s": 0, "n": 1}}


def test_a_sign_of_life_counts_as_no_delivery() -> None:
    assert FRAMES.decode(b'{"type":"pong"}') is None
    assert FRAMES.decode(b'{"type":"event","channel":"default","data":{"type":"echo","s":3,"n":4}}') == Numbered(3, 4)


def test_rooms_are_named_in_the_handshake() -> None:
    assert FRAMES.path("r 1") == "/ws?room=r%201"
    assert SOCKET_IO.path("r1") == "/socket.io/?EIO=4&transport=websocket&room=r1"
