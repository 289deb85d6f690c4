"""From what gateways have heard, the next owner of a room knows who has missed something."""

from __future__ import annotations

from verani.link.messages import Heard, Said
from verani_actors.rooms.hearsay import Reach, seen_of, who_missed


def test_whoever_is_behind_what_another_knows_of_has_missed_something() -> None:
    heard = {
        "g1": Heard("i1", 1, 12, (Said("g2", 11, 5), Said("g3", 9, 2))),
        "g2": Heard("i1", 1, 10, (Said("g1", 8, 0),)),
        "g3": Heard("i1", 1, 9, (Said("g1", 8, 0), Said("g2", 7, 4))),
    }
    assert who_missed(heard) == {"g2"}


def test_the_most_that_anybody_has_seen_of_inputs_counts() -> None:
    heard = {
        "g1": Heard("i1", 1, 12, (Said("g3", 11, 2),)),
        "g2": Heard("i1", 1, 15, (Said("g3", 14, 6),)),
        "g3": Heard("i1", 1, 10),
    }
    assert seen_of(heard) == {"g3": 6}


def test_what_an_owner_said_whom_a_gateway_never_heard_is_missed_there() -> None:
    assert who_missed({"g1": Heard("i2", 2, 1, (Said("g2", 2, 0),)), "g2": Heard("i1", 1, 50)}) == {"g2"}


def test_what_an_owner_said_that_had_a_later_one_is_settled() -> None:
    assert who_missed({"g1": Heard("i1", 1, 50, (Said("g2", 40, 0),)), "g2": Heard("i2", 2, 1)}) == set()


def test_who_need_not_have_anything_misses_nothing() -> None:
    assert who_missed({"g1": Heard("i2", 2, 1, (Said("g2", 0, 7),)), "g2": Heard("i1", 1, 50)}) == set()


def test_nobody_misses_anything_of_what_was_said_to_gateways_that_are_gone_or_know_nothing_of_the_room() -> None:
    assert who_missed({"g1": Heard("i1", 1, 5, (Said("gone", 9, 1),))}) == set()
    assert who_missed({}) == set()


def _shown(reach: Reach) -> dict[str, int]:
    return {said.gateway: said.shown for said in reach.said() if said.shown}


def test_what_has_been_seen_of_inputs_is_not_forgotten_for_an_earlier_one_that_is_interrupted() -> None:
    reach = Reach()
    reach.begin(["g1", "g2"], {"g1": 5})
    reach.note("g2", 1, 3, "g1")
    assert _shown(reach) == {"g1": 5}


def test_of_many_gateways_that_were_given_up_those_are_remembered_that_were_lost_last() -> None:
    reach = Reach()
    gateways = [f"g{n}" for n in range(12)]
    for number, gateway in enumerate(gateways, 1):
        reach.note("witness", number, number, gateway)
        reach.processed[gateway] = number
    linked = set(gateways)
    for gateway in reversed(gateways):
        linked.remove(gateway)
        reach.lose(gateway, linked)
    assert set(_shown(reach)) == set(reach.processed) == set(gateways[:8])


def test_the_end_of_a_session_that_the_host_brings_about_is_no_input_of_its_gateway() -> None:
    reach = Reach()
    reach.note("g2", 1, 0, "gone")
    assert _shown(reach) == {}
