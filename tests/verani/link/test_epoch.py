"""Everybody who has an epoch finds the same owner, and a change moves no room that it need not."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from verani.link.epoch import Death, Epoch, Member

ROOMS = [f"chat/room-{n}" for n in range(20_000)]


def member(id: str, incarnation: str = "") -> Member:
    return Member(id, incarnation or f"process of {id}", id.rpartition("-")[0], 7, f"/run/{id}")


def epoch(*ids: str, registrar: str = "m") -> Epoch:
    return Epoch(1, registrar, tuple(member(id) for id in ids))


def owner(epoch: Epoch, room: str) -> str:
    owner = epoch.owner(room)
    assert owner is not None
    return owner.id


FOUR = epoch("m-0", "m-1", "m-2", "m-3")


@pytest.mark.parametrize(
    ("room", "id"), [("chat/lobby", "m-1"), ("chat/1", "m-2"), ("game/é", "m-1"), ("x/" + "y" * 200, "m-2")]
)
def test_owners_are_the_same_in_every_version(room: str, id: str) -> None:
    assert owner(FOUR, room) == id


def test_every_member_owns_its_share() -> None:
    shares = Counter(owner(FOUR, room) for room in ROOMS)
    assert shares.keys() == {"m-0", "m-1", "m-2", "m-3"}
    # 5,000 each; the deviation is about 61.
    assert all(4_700 < share < 5_300 for share in shares.values())


def test_a_member_that_joins_takes_its_share_and_moves_nothing_else() -> None:
    five = epoch("m-0", "m-1", "m-2", "m-3", "n-0")
    moved = [room for room in ROOMS if owner(FOUR, room) != owner(five, room)]
    assert {owner(five, room) for room in moved} == {"n-0"}
    assert 3_700 < len(moved) < 4_300


def test_a_member_that_leaves_gives_its_rooms_to_all_others_and_moves_nothing_else() -> None:
    three = epoch("m-0", "m-1", "m-3")
    moved = [room for room in ROOMS if owner(FOUR, room) != owner(three, room)]
    assert {owner(FOUR, room) for room in moved} == {"m-2"}
    assert {owner(three, room) for room in moved} == {"m-0", "m-1", "m-3"}


def test_the_order_of_members_does_not_matter() -> None:
    other = epoch("m-3", "m-1", "m-0", "m-2")
    assert all(owner(FOUR, room) == owner(other, room) for room in ROOMS[:1000])


def test_a_successor_takes_over_the_rooms_of_its_place_but_is_another_owner() -> None:
    after = Epoch(2, "m", (member("m-0", "the next"), *FOUR.members[1:]))
    room = next(room for room in ROOMS if owner(FOUR, room) == "m-0")
    assert owner(after, room) == "m-0"
    assert after.owns("the next", room)
    assert not after.owns("process of m-0", room)


def test_an_epoch_without_members_has_no_owners() -> None:
    assert Epoch().owner("chat/lobby") is None
    assert not Epoch().owns("", "chat/lobby")


def test_the_machine_of_the_registrar_has_a_say_without_hosts() -> None:
    assert epoch("m-0", "m-1", "n-0", registrar="r").machines == {"m", "n", "r"}


def test_epochs_survive_the_wire() -> None:
    told = Epoch(3, "m", FOUR.members, (Death("process of m-0", "chat/lobby", "g", 4),))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Epoch) == told
