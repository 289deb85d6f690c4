"""A member knows which rooms are its own, and since when, whatever epochs come and go."""

from __future__ import annotations

from verani.link.epoch import Epoch, Member
from verani_actors.membership.share import Ownership, Share


def member(id: str) -> Member:
    """Make a member whose incarnation is its id in capitals."""
    return Member(id, id.upper(), "m", 1, "")


def epoch(number: int, *ids: str) -> Epoch:
    """Make an epoch of these members."""
    return Epoch(number, "m", tuple(member(id) for id in ids))


# Which of the two owns a room does not change between versions (tests/verani/link/test_epoch.py).
OURS = next(f"chat/{n}" for n in range(100) if epoch(1, "a", "b").owns("A", f"chat/{n}"))
THEIRS = next(f"chat/{n}" for n in range(100) if epoch(1, "a", "b").owns("B", f"chat/{n}"))


def test_a_host_that_is_alone_owns_everything() -> None:
    alone = Ownership()
    assert alone.owns(OURS)
    assert alone.owns(THEIRS)
    assert (alone.epoch, alone.since(OURS)) == (0, 0)


def test_a_host_that_is_no_member_owns_nothing() -> None:
    share = Share("A")
    assert not share.owns(OURS)
    share.commit(epoch(1, "b"))
    assert not share.owns(OURS)


def test_a_room_is_given_up_when_its_loss_is_prepared_and_for_good() -> None:
    share = Share("A")
    share.commit(epoch(1, "a"))
    assert share.owns(THEIRS)
    assert share.prepare(epoch(2, "a", "b"))
    assert not share.owns(THEIRS)
    assert share.owns(OURS)
    share.commit(epoch(2, "a", "b"))
    assert not share.owns(THEIRS)


def test_a_room_that_is_gained_is_owned_only_when_that_is_committed() -> None:
    share = Share("A")
    share.commit(epoch(1, "a", "b"))
    share.prepare(epoch(2, "a"))
    assert not share.owns(THEIRS)
    share.commit(epoch(2, "a"))
    assert share.owns(THEIRS)


def test_lower_and_repeated_numbers_are_refused() -> None:
    share = Share("A")
    assert share.commit(epoch(3, "a"))
    assert not share.commit(epoch(3, "b"))
    assert not share.commit(epoch(2, "b"))
    assert not share.prepare(epoch(3, "b"))
    assert share.prepare(epoch(5, "a", "b"))
    assert not share.prepare(epoch(4, "a"))
    assert share.owns(OURS)
    assert (share.epoch, share.prepared) == (3, 5)


def test_a_prepared_epoch_that_is_skipped_ends_with_a_later_commit() -> None:
    share = Share("A")
    share.commit(epoch(1, "a"))
    share.prepare(epoch(2, "a", "b"))
    share.commit(epoch(3, "a"))
    assert share.owns(THEIRS)
    assert share.since(THEIRS) == 3, "what came in epoch 2 or before was refused meanwhile"


def test_what_was_given_up_is_not_taken_back_by_preparing_something_else() -> None:
    share = Share("A")
    share.commit(epoch(1, "a"))
    share.prepare(epoch(2, "a", "b"))
    share.prepare(epoch(3, "a"))
    assert not share.owns(THEIRS), "the other one may have it already"
    share.commit(epoch(2, "a", "b"))
    assert not share.owns(THEIRS)
    share.commit(epoch(3, "a"))
    assert share.owns(THEIRS)


def test_an_older_commit_does_not_undo_a_newer_preparation() -> None:
    share = Share("A")
    share.prepare(epoch(3, "a", "b"))
    share.commit(epoch(2, "a"))
    assert not share.owns(THEIRS)
    assert share.prepared == 3


def test_a_spell_of_ownership_begins_after_the_last_epoch_without_it() -> None:
    share = Share("A")
    for number, ids in ((1, "a"), (2, "ab"), (3, "a"), (4, "ac")):
        share.commit(epoch(number, *ids))
    rooms = [f"chat/{n}" for n in range(100) if epoch(4, "a", "c").owns("A", f"chat/{n}")]
    assert {share.since(room) for room in rooms if epoch(2, "a", "b").owns("B", room)} == {3}
    assert {share.since(room) for room in rooms if epoch(2, "a", "b").owns("A", room)} == {0}
