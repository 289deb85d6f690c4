"""Who waits for a room is resumed when the room goes on, and is kept no longer."""

from __future__ import annotations

import pytest

from verani.link.messages import CallInput
from verani_gateway.inputs import congestion as congestion_module
from verani_gateway.inputs.attachments import Attachments
from verani_gateway.inputs.congestion import Congestion


class Waiter:
    def __init__(self) -> None:
        self.resumed = 0

    def resume(self) -> None:
        self.resumed += 1


def call(attachments: Attachments, room: str, size: int) -> None:
    attachments.add(CallInput(room, attachments.next_number(), "method", bytes(size), 1.0, None, ()))


def forget(attachments: Attachments, room: str) -> None:
    attachments.forget(attachments.rooms[room])


def test_progress_of_a_room_resumes_who_waits_for_that_room() -> None:
    congestion = Congestion(Attachments())
    first, second, other = Waiter(), Waiter(), Waiter()
    for room, waiter in (("chat/a", first), ("chat/a", second), ("chat/b", other)):
        congestion.wait_for(room, waiter)
    congestion.ease(["chat/a", "chat/c"])
    assert (first.resumed, second.resumed, other.resumed) == (1, 1, 0)


def test_a_gateway_that_was_full_resumes_everybody_and_one_that_is_full_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(congestion_module, "MAX_GATEWAY_IN_FLIGHT", 1000)
    attachments = Attachments()
    congestion = Congestion(attachments)
    waiters = [Waiter(), Waiter()]
    congestion.wait_for("chat/a", waiters[0])
    congestion.wait_for("chat/b", waiters[1])
    call(attachments, "chat/c", 1000)
    assert congestion.is_full
    assert congestion.holds_up("chat/a"), "every room is held up by a full gateway"
    congestion.ease(["chat/a"], was_full=True)
    assert [each.resumed for each in waiters] == [0, 0]
    forget(attachments, "chat/c")
    assert not congestion.holds_up("chat/a")
    congestion.ease(["chat/c"], was_full=True)
    assert [each.resumed for each in waiters] == [1, 1]


def test_a_room_over_its_limit_holds_up_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(congestion_module, "MAX_ROOM_IN_FLIGHT", 1000)
    attachments = Attachments()
    congestion = Congestion(attachments)
    call(attachments, "chat/a", 1000)
    assert (congestion.holds_up("chat/a"), congestion.holds_up("chat/b")) == (True, False)


def test_who_waits_no_more_is_not_kept() -> None:
    congestion = Congestion(Attachments())
    first, second = Waiter(), Waiter()
    congestion.wait_for("chat/a", first)
    congestion.wait_for("chat/a", second)
    congestion.wait_no_more("chat/a", first)
    congestion.ease(["chat/a"])
    assert (first.resumed, second.resumed) == (0, 1)
    congestion.wait_no_more("chat/a", second)
    congestion.wait_no_more("chat/a", second)
    assert not congestion.waiting
