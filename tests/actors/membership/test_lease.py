"""A host serves by the registrar's word or by that of most machines, and never by anything older than a lease."""

from __future__ import annotations

import pytest

from verani.link.epoch import Epoch, Member
from verani_actors.membership.lease import Lease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def epoch(*machines: str, number: int = 7) -> Epoch:
    """The first machine is the registrar's."""
    members = tuple(Member(f"{machine}-0", machine, machine, 1, "") for machine in machines)
    return Epoch(number, machines[0], members)


THREE = epoch("r", "a", "b")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(clock: Clock) -> Lease:
    return Lease("a", 3.0, clock)


def entered(lease: Lease, epoch: Epoch) -> Lease:
    lease.until(epoch)
    return lease


def test_nobody_serves_before_the_registrar_has_answered(lease: Lease) -> None:
    assert not lease.serves(THREE)


def test_an_answer_is_worth_one_lease_from_when_the_beat_was_sent(lease: Lease, clock: Clock) -> None:
    lease.beaten(99.0)
    assert lease.until(THREE) == 102.0
    clock.now = 101.99
    assert lease.serves(THREE)
    clock.now = 102.0
    assert not lease.serves(THREE)


def test_an_old_answer_that_comes_late_takes_nothing_away(lease: Lease) -> None:
    lease.beaten(100.0)
    lease.beaten(98.0)
    assert lease.until(THREE) == 103.0


@pytest.mark.threat(69)
def test_a_process_that_was_stopped_for_a_lease_serves_nothing_when_it_runs_on(lease: Lease, clock: Clock) -> None:
    lease.beaten(100.0)
    clock.now = 160.0
    assert not lease.serves(THREE)


def test_the_registrar_is_lost_after_half_a_lease(lease: Lease, clock: Clock) -> None:
    assert not lease.lost_registrar
    lease.beaten(100.0)
    clock.now = 101.5
    assert not lease.lost_registrar
    clock.now = 101.51
    assert lease.lost_registrar


@pytest.mark.threat(68)
def test_two_of_three_machines_serve_on_when_the_registrar_s_is_lost(lease: Lease, clock: Clock) -> None:
    entered(lease, THREE)
    clock.now = 110.0
    assert not lease.serves(THREE)
    lease.vouched("b", 109.0)
    assert lease.until(THREE) == 112.0
    assert lease.serves(THREE)
    clock.now = 112.0
    assert not lease.serves(THREE)


def test_of_two_machines_the_other_one_has_no_majority(lease: Lease) -> None:
    two = epoch("r", "a")
    entered(lease, two).vouched("r", 100.0)
    assert not lease.serves(two)


def test_the_vote_of_the_registrar_s_machine_is_the_registrar_s(lease: Lease) -> None:
    entered(lease, THREE).vouched("r", 100.0)
    assert not lease.serves(THREE)


def test_a_host_of_the_registrar_s_machine_needs_most_of_all_machines_from_others(clock: Clock) -> None:
    lease = entered(Lease("r", 3.0, clock), THREE)
    lease.vouched("a", 100.0)
    assert not lease.serves(THREE)
    lease.vouched("b", 100.0)
    assert lease.serves(THREE)


def test_a_majority_lasts_as_long_as_its_weakest_needed_vouch(lease: Lease) -> None:
    five = epoch("r", "a", "b", "c", "d")
    entered(lease, five)
    for machine, sent in (("b", 100.2), ("c", 100.1)):
        lease.vouched(machine, sent)
    assert lease.until(five) == pytest.approx(103.1)
    lease.vouched("d", 100.3)
    assert lease.until(five) == pytest.approx(103.2)


def test_vouches_of_strangers_and_of_the_own_machine_do_not_count(lease: Lease) -> None:
    entered(lease, THREE)
    lease.vouched("elsewhere", 100.0)
    lease.vouched("a", 100.0)
    assert not lease.serves(THREE)


def test_a_machine_outside_of_the_epoch_serves_nothing_by_vouches(clock: Clock) -> None:
    lease = entered(Lease("x", 3.0, clock), THREE)
    lease.vouched("b", 100.0)
    assert not lease.serves(THREE)


def test_a_new_epoch_forgets_the_vouches_for_the_last_one(lease: Lease, clock: Clock) -> None:
    entered(lease, THREE).vouched("b", 100.0)
    clock.now = 100.5
    later = epoch("r", "a", "b", number=8)
    assert not lease.serves(later)
    lease.vouched("b", 100.4)
    assert not lease.serves(later), "that Knock asked for the last epoch"
    lease.vouched("b", 100.5)
    assert lease.serves(later)


@pytest.mark.threat(67)
def test_a_host_that_prepared_a_newer_epoch_does_not_count_itself_for_the_older_one(lease: Lease) -> None:
    entered(lease, THREE).vouched("b", 100.0)
    lease.voted(8)
    assert not lease.serves(THREE)
    lease.beaten(100.0)
    assert lease.serves(THREE), "the registrar's word holds all the same"


def test_no_host_vouches_while_it_hears_the_registrar(lease: Lease, clock: Clock) -> None:
    lease.beaten(100.0)
    clock.now = 101.0
    assert not lease.may_vouch(7, 7)
    assert lease.vouched_ago is None


@pytest.mark.threat(67)
def test_no_host_vouches_for_an_epoch_older_than_what_it_prepared(lease: Lease, clock: Clock) -> None:
    clock.now = 105.0
    assert not lease.may_vouch(7, 8)
    assert lease.vouched_ago is None
    assert lease.may_vouch(8, 8)
    assert lease.may_vouch(9, 8)


def test_a_host_tells_how_long_ago_it_vouched_last(lease: Lease, clock: Clock) -> None:
    clock.now = 105.0
    assert lease.may_vouch(7, 7)
    clock.now = 106.5
    assert lease.vouched_ago == pytest.approx(1.5)
