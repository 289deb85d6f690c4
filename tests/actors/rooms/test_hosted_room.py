"""The states of a room at its host."""

from __future__ import annotations

import pytest

from verani_actors.rooms.hosted_room import TRANSITIONS, RoomChange, RoomState

LIVING = [state for state in RoomState if state is not RoomState.GONE]


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(RoomState)


@pytest.mark.parametrize("state", LIVING)
def test_a_room_can_be_abandoned_in_every_state_and_is_then_gone_for_good(state: RoomState) -> None:
    assert TRANSITIONS[state][RoomChange.ABANDONED] is RoomState.GONE
    assert not TRANSITIONS[RoomState.GONE]


@pytest.mark.parametrize("state", [state for state in LIVING if not state.moves])
def test_a_room_that_is_released_and_kept_is_where_it_was_and_reads_the_same_meanwhile(state: RoomState) -> None:
    released = TRANSITIONS[state][RoomChange.RELEASED]
    assert released.moves
    assert released.shown == (state.shown if state is not RoomState.AWAKE else "moving")
    assert TRANSITIONS[released][RoomChange.KEPT] is state


@pytest.mark.parametrize("change", [RoomChange.OPENED, RoomChange.RETIRED, RoomChange.STAYED])
def test_what_a_room_does_changes_nothing_about_whether_it_moves(change: RoomChange) -> None:
    changed = {state: row[change] for state, row in TRANSITIONS.items() if change in row}
    assert len(changed) == 2
    assert all(before.moves == after.moves for before, after in changed.items())
