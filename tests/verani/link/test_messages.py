"""What gateways and hosts say survives the wire, and old and new versions understand each other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verani.link import epoch, messages
from verani.link.epoch import Death, Epoch, Member
from verani.link.messages import (
    Announce,
    Ask,
    Attach,
    CallInput,
    Cast,
    Close,
    Connect,
    Deliver,
    Drain,
    Drained,
    Ended,
    Entry,
    EntryBatch,
    FrameInput,
    GatewayMessage,
    GatewayPacket,
    GivenUp,
    Group,
    Heard,
    Hello,
    HostMessage,
    HostPacket,
    InputBatch,
    InterruptedInput,
    Invalid,
    Invoke,
    Kick,
    Outcome,
    Pull,
    Rebuild,
    Record,
    Replied,
    Reply,
    Said,
    Seat,
    Serving,
    Snapshot,
    TakenCall,
    Told,
    Ungroup,
    decode_gateway_packet,
    decode_hello,
    decode_host_packet,
    encode_message,
)

HELLO = Hello((2, 2), "0.1", "gateway-1", "abc", 3, ("zstd",), 9, "def")
MEMBER = Member("a-0", "0123", "a", 77, "/run/a-0.sock", "wss://10.0.0.2:8101")

FROM_GATEWAY: list[GatewayMessage] = [
    InputBatch(
        [
            Connect("chat/lobby", 1, "c1", b"\x01\xff", "trace"),
            FrameInput("chat/lobby", 2, "c1", "say", b'{"a":1}', "news", 2**53 - 1, "trace"),
            FrameInput("chat/lobby", 3, "c1", "say"),
            FrameInput("chat/lobby", 4, "c1", "say", b""),
            Close("chat/lobby", 5, "c1", 1000, "bye", None),
            CallInput("chat/lobby", 6, "kick", b"[]", 5.0, "key", ("chat/a",), "trace"),
            InterruptedInput(FrameInput("chat/lobby", 7, "c1", "say")),
        ],
        3,
        True,
    ),
    Rebuild("chat/lobby", "crash", 3),
    Snapshot("chat/lobby", 4, [Record("c1", b"\x00", True), Record("c2", b"")], False, 6),
    Snapshot("chat/lobby", 4, [], True, 6, Heard("i1", 2, 9, (Said("g2", 8, 3),))),
    Drained("chat/lobby", 7),
    Replied("chat/lobby", 8, Outcome(b"1")),
    Replied("chat/lobby", 9, Outcome(code="invalid", path="$.a", message="Expected `int`")),
    Ask(1, "rooms", "10", True),
    Told(1, "gateway-1", b"[]", ("gateway-2",)),
]

FROM_HOST: list[HostMessage] = [
    EntryBatch(
        [
            Entry("chat/lobby"),
            Entry(
                "chat/lobby",
                5,
                6,
                [
                    Deliver(("a", "b"), b"{}", ("b",)),
                    Cast(2, b"{}", (1,)),
                    Kick("a", 4009, "x"),
                    Invalid("b"),
                    Drain("b", 1),
                    Reply(6, Outcome(b"3")),
                ],
                [Attach("a", b"\x01"), Seat("b", 2)],
                8,
                True,
                True,
                (Said("g2", 8, 3),),
                ("trace", "another"),
            ),
        ],
    ),
    Pull("chat/lobby", 4, 3),
    Invoke("chat/lobby", 8, "chat/b", "kick", b"{}", 5.0, "key", ("chat/lobby",), "trace"),
    Announce(Epoch(3, "a", (MEMBER,), (Death("0122", "chat/lobby", "gateway-1", 5),))),
    GivenUp(["chat/lobby"], True, {"chat/other": 7}),
    Serving(2.5),
    Group(2, 1, (1, 1, 300), ("a", "b")),
    Ungroup([1, 2]),
    Ask(1, "rooms"),
    Told(1, "a-0", b"[]"),
]


@pytest.mark.parametrize("message", FROM_GATEWAY, ids=lambda message: type(message).__name__)
def test_what_a_gateway_says_arrives_as_it_was(message: GatewayMessage) -> None:
    packet = GatewayPacket(1, 2, [message])
    assert decode_gateway_packet(encode_message(packet)) == packet


@pytest.mark.parametrize("message", FROM_HOST, ids=lambda message: type(message).__name__)
def test_what_a_host_says_arrives_as_it_was(message: HostMessage) -> None:
    packet = HostPacket(1, 2, [message])
    assert decode_host_packet(encode_message(packet)) == packet


def test_a_hello_arrives_as_it_was() -> None:
    assert decode_hello(encode_message(HELLO)) == HELLO


# The fields of each message in the order of version 2. New ones go to the end, with a default; none is ever removed,
# renamed or moved, so that a process of the version before and one of the version after can share a service.
FIELDS: dict[type[Any], tuple[str, str]] = {
    Hello: ("hello", "versions build sender incarnation epoch features received resumes"),
    GatewayPacket: ("", "number confirmed messages"),
    HostPacket: ("", "number confirmed messages"),
    Connect: ("connect", "room number connection attachment trace"),
    FrameInput: ("frame", "room number connection event data channel request trace"),
    Close: ("close", "room number connection code reason trace"),
    InterruptedInput: ("interrupted", "input"),
    InputBatch: ("inputs", "inputs epoch again"),
    Rebuild: ("rebuild", "room reason epoch"),
    CallInput: ("call", "room number method arguments timeout key chain trace"),
    Record: ("", "connection attachment closing order"),
    Said: ("", "gateway seq shown"),
    Heard: ("", "owner epoch seq others"),
    Snapshot: ("snapshot", "room incarnation records last processed heard"),
    Drained: ("drained", "room token"),
    Outcome: ("", "result code path message"),
    Replied: ("replied", "room token outcome"),
    Deliver: ("deliver", "connections payload exclude"),
    Kick: ("kick", "connection code reason refused"),
    Invalid: ("invalid", "connection"),
    Drain: ("drain", "connection token"),
    Reply: ("reply", "call outcome"),
    Attach: ("attach", "connection attachment"),
    Seat: ("seat", "connection order"),
    Entry: ("entry", "room processed begun outputs attachments seq asleep more others"),
    EntryBatch: ("entries", "entries"),
    Pull: ("pull", "room incarnation epoch"),
    Invoke: ("invoke", "room token target method arguments timeout key chain"),
    Ask: ("ask", "token topic argument relay"),
    Told: ("told", "token sender body more"),
    Announce: ("announce", "epoch"),
    GivenUp: ("given_up", "rooms others unheard"),
    Serving: ("serving", "seconds"),
    Cast: ("cast", "group payload exclude"),
    Group: ("group", "name base kept added"),
    Ungroup: ("ungroup", "names"),
    Ended: ("ended", "rooms"),
    TakenCall: ("call", "room number method arguments timeout key chain trace expires"),
    Epoch: ("", "number registrar members deaths"),
    Member: ("", "id incarnation machine pid path url"),
    Death: ("", "incarnation room gateway number"),
}


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_fields_are_only_ever_appended_and_appended_ones_have_defaults(kind: type[Any]) -> None:
    tag, names = FIELDS[kind]
    fields = msgspec.structs.fields(kind)
    expected = names.split()
    assert [field.name for field in fields][: len(expected)] == expected
    assert not any(field.required for field in fields[len(expected) :])
    assert (kind.__struct_config__.tag or "") == tag
    assert not kind.__struct_config__.forbid_unknown_fields


def test_every_message_is_in_the_table() -> None:
    names = {**vars(messages), **vars(epoch)}
    kinds = {kind for kind in names.values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)}
    assert kinds - {msgspec.Struct} == set(FIELDS)


def test_a_message_with_fields_of_a_newer_version_is_understood() -> None:
    newer = ["close", "chat/x", 1, "c", 1000, "", None, "red"]
    packet = msgspec.msgpack.encode([1, 0, [["inputs", [newer], 3, False, "more"]], "more"])
    assert decode_gateway_packet(packet) == GatewayPacket(1, 0, [InputBatch([Close("chat/x", 1, "c", 1000)], 3)])


def test_a_message_of_an_older_version_without_the_optional_fields_is_understood() -> None:
    older = ["hello", [1, 1], "b", "g", "i"]
    assert decode_hello(msgspec.msgpack.encode(older)) == Hello((1, 1), "b", "g", "i")


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused_with_the_errors_of_a_decoder(data: bytes) -> None:
    for decode in (decode_hello, decode_gateway_packet, decode_host_packet):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            decode(data)


def test_a_process_does_not_take_messages_of_the_wrong_direction() -> None:
    for message in FROM_GATEWAY:
        if not isinstance(message, (Ask, Told)):
            with pytest.raises(msgspec.ValidationError):
                decode_host_packet(encode_message(GatewayPacket(1, 0, [message])))
    for output in FROM_HOST:
        if not isinstance(output, (Ask, Told)):
            with pytest.raises(msgspec.ValidationError):
                decode_gateway_packet(encode_message(HostPacket(1, 0, [output])))
