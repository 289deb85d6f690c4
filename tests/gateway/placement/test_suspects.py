"""An input that hosts die of is judged by what it did, and only that one."""

from __future__ import annotations

from verani.link.epoch import Death
from verani.link.messages import CallInput, Close, Connect, FrameInput, Input
from verani_gateway.placement.suspects import Suspects, Verdict

ROOM = "chat/a"


class Court:
    """Suspects of gateway g1, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.incarnations = 0
        self.suspects = Suspects("g1", clock=lambda: self.now, wall_clock=lambda: 1_000_000.0 + self.now)

    def die(self, number: int = 7, *, room: str = ROOM, gateway: str = "g1") -> Verdict | None:
        self.incarnations += 1
        return self.suspects.judge(Death(f"i{self.incarnations}", room, gateway, number))


def test_an_input_goes_alone_after_the_first_death_and_nowhere_after_the_second() -> None:
    court = Court()
    assert court.die() == "alone"
    assert list(court.suspects.of(ROOM)) == [7]
    assert court.die() == "quarantine"
    assert list(court.suspects.of(ROOM)) == []


def test_a_death_counts_once_however_often_it_is_told() -> None:
    court = Court()
    death = Death("i", ROOM, "g1", 7)
    assert court.suspects.judge(death) == "alone"
    assert court.suspects.judge(death) is None


def test_deaths_before_the_gateway_came_do_not_count() -> None:
    court = Court()
    death = Death("i", ROOM, "g1", 7)
    court.suspects.ignore([death])
    assert court.suspects.judge(death) is None


def test_an_input_of_another_gateway_is_not_this_ones_to_judge() -> None:
    court = Court()
    assert [court.die(gateway="g2"), court.die(gateway="g2"), court.die(gateway="", number=0)] == [None] * 3


def test_two_inputs_of_a_room_are_judged_each_for_itself() -> None:
    court = Court()
    assert [court.die(7), court.die(8)] == ["alone", "alone"]
    assert list(court.suspects.of(ROOM)) == [7, 8]
    court.suspects.settle(ROOM, 7)
    court.suspects.settle(ROOM, 9)
    assert list(court.suspects.of(ROOM)) == [8]
    assert court.die(7) == "alone", "what was processed has left no trace"
    court.suspects.forget(ROOM)
    assert list(court.suspects.of(ROOM)) == []


def test_a_room_fails_with_its_fifth_death_in_a_minute_whoever_sent_the_inputs() -> None:
    court = Court()
    verdicts = [court.die(number, gateway=gateway) for number, gateway in ((1, "g1"), (2, "g2"), (0, ""), (3, "g2"))]
    assert verdicts == ["alone", None, None, None]
    assert court.die(4, gateway="g2") == "failed"
    assert list(court.suspects.of(ROOM)) == []
    assert court.die(5) == "alone", "it may begin anew"


def test_deaths_that_lie_apart_do_not_add_up() -> None:
    court = Court()
    for number in range(1, 20):
        assert court.die(number, gateway="g2") is None
        court.now += 15.1
    assert court.die(1, room="chat/b", gateway="g2") is None


def test_what_is_set_aside_is_listed_without_its_payload() -> None:
    court = Court()
    inputs: list[Input] = [
        FrameInput(ROOM, 1, "c1", "draw", b"secret"),
        Connect(ROOM, 2, "c2", b"secret"),
        Close(ROOM, 3, "c3", 1000),
        CallInput(ROOM, 4, "kick", b"secret", 1.0),
    ]
    for input in inputs:
        court.suspects.keep(input, 200)
    listed = court.suspects.listed()
    assert [(each.connection, each.event, each.number) for each in listed] == [
        ("c1", "draw", 1),
        ("c2", "connect", 2),
        ("c3", "close", 3),
        ("", "kick", 4),
    ]
    assert {(each.room, each.size, each.since) for each in listed} == {(ROOM, 200, 1_000_100.0)}
    assert "secret" not in repr(listed)
    assert court.suspects.quarantined == 4


def test_what_is_set_aside_is_bounded_in_number_and_in_bytes() -> None:
    court = Court()
    for number in range(150):
        court.suspects.keep(FrameInput(ROOM, number, "c", "n"), 10)
    assert [each.number for each in court.suspects.listed()] == list(range(50, 150))
    court.suspects.keep(FrameInput(ROOM, 200, "c", "n"), 1 << 20)
    assert [each.number for each in court.suspects.listed()] == [200]
    court.suspects.keep(FrameInput(ROOM, 201, "c", "n"), 2 << 20)
    assert court.suspects.listed() == []
