"""What the registrar answers, rule by rule; that the rules are enough is shown by the simulation."""

from __future__ import annotations

from typing import TypeVar

import pytest

from verani.link.epoch import Death, Epoch, Member
from verani_actors.membership.control import (
    Beat,
    Beaten,
    Commit,
    Control,
    DrainHost,
    EndMachine,
    Gone,
    Knock,
    Offer,
    Prepare,
    Prepared,
    Publish,
    StartHost,
    StopHost,
)
from verani_actors.membership.drafts import DEATHS_KEPT
from verani_actors.membership.registrar import Registrar

T = TypeVar("T")
LEASE = 3.0
Letters = list[tuple[str, Control]]


def member(id: str, incarnation: str = "", url: str = "") -> Member:
    return Member(id, incarnation or id, id.rpartition("-")[0], 1, "", url)


class Bench:
    """A registrar on machine `r`, and hosts that beat as they are told."""

    def __init__(self, known: Epoch | None = None, now: float = 0.0, patience: float = 0.0) -> None:
        self.now = now
        self.registrar = Registrar("r", LEASE, 30.0, now=now, known=known, patience=patience)
        self.prepared: dict[str, int] = {}
        self.told: Letters = []

    def take(self, letters: Letters) -> Letters:
        self.told += letters
        return letters

    def say(self, sender: str, message: Control) -> Letters:
        return self.take(self.registrar.receive(sender, message, self.now))

    def offer(
        self, machine: str, hosts: int, address: str = "10.0.0.1:1", service: str = "", holds: Epoch | None = None
    ) -> Letters:
        holds = EMPTY if holds is None else holds
        return self.say(f"launcher:{machine}", Offer(machine, address, hosts, service, holds))

    def beat(
        self,
        host: Member,
        epoch: Epoch | None = None,
        vouched: float | None = None,
        gateways: tuple[str, ...] = (),
    ) -> Letters:
        epoch = self.epoch if epoch is None else epoch
        prepared = self.prepared.get(host.incarnation, epoch.number)
        return self.say(f"host:{host.incarnation}", Beat(host, self.now + 1000, epoch, prepared, vouched, gateways))

    def answer(self, host: Member, number: int) -> Letters:
        self.prepared[host.incarnation] = number
        return self.say(f"host:{host.incarnation}", Prepared(host.id, host.incarnation, number))

    def gone(self, host: Member, death: Death | None = None) -> Letters:
        return self.say(f"launcher:{host.machine}", Gone(host.id, host.incarnation, death))

    def wait(self, seconds: float, *beating: Member) -> Letters:
        """Let time pass in ticks; these hosts beat meanwhile."""
        begin = len(self.told)
        for n in range(round(seconds * 20)):
            self.now += 0.05
            if n % 10 == 9:
                for host in beating:
                    self.beat(host)
            self.take(self.registrar.tick(self.now))
        return self.told[begin:]

    @property
    def epoch(self) -> Epoch:
        return self.registrar.committed

    @property
    def asked(self) -> int:
        """The number that hosts were asked to prepare last."""
        return max(message.epoch.number for _, message in self.told if isinstance(message, Prepare))

    @property
    def ids(self) -> list[str]:
        return [member.id for member in self.epoch.members]


def sent(letters: Letters, kind: type[T], to: str = "") -> list[T]:
    return [message for key, message in letters if isinstance(message, kind) and to in key]


R0, R1, A0, B0 = member("r-0"), member("r-1"), member("a-0"), member("b-0")
EMPTY = Epoch()


def one_machine() -> Bench:
    bench = Bench()
    bench.offer("r", 2)
    bench.beat(R0, EMPTY)
    bench.beat(R1, EMPTY)
    return bench


def three_machines() -> Bench:
    """Epoch 2 with r-0, a-0 and b-0, long ago."""
    bench = Bench()
    bench.offer("r", 1)
    bench.beat(R0, EMPTY)
    bench.offer("a", 1)
    bench.offer("b", 1)
    bench.beat(A0, EMPTY)
    bench.beat(B0, EMPTY)
    bench.wait(0.2)
    bench.answer(R0, 2)
    assert bench.ids == ["a-0", "b-0", "r-0"]
    bench.wait(5, R0, A0, B0)
    return bench


# The first epoch.


def test_an_offer_starts_its_hosts() -> None:
    letters = Bench().offer("r", 2)
    assert [start.id for start in sent(letters, StartHost, "launcher:r")] == ["r-0", "r-1"]


def test_the_first_epoch_is_number_1_once_all_offered_hosts_beat() -> None:
    bench = Bench()
    bench.offer("r", 2)
    assert not sent(bench.beat(R0, EMPTY), Commit)
    letters = bench.beat(R1, EMPTY)
    assert bench.epoch.number == 1
    assert bench.ids == ["r-0", "r-1"]
    assert {to for to, message in letters if isinstance(message, Commit)} == {"host:r-0", "host:r-1"}
    assert {to for to, message in letters if isinstance(message, Beaten)} == {"host:r-0", "host:r-1"}


def test_the_first_epoch_waits_two_seconds_for_hosts_that_are_slow() -> None:
    bench = Bench()
    bench.offer("r", 2)
    bench.beat(R0, EMPTY)
    bench.wait(1.8, R0)
    assert bench.epoch.number == 0
    bench.wait(0.4, R0)
    assert bench.ids == ["r-0"]


def test_what_is_committed_is_published_on_the_own_machine_before_anybody_hears_of_it() -> None:
    bench = Bench()
    letters = [*bench.offer("r", 1), *bench.beat(R0, EMPTY)]
    kinds = [(to, type(message)) for to, message in letters if isinstance(message, Publish | Commit)]
    assert kinds[0] == ("launcher:r", Publish)


# Members.


def test_a_beat_of_a_member_is_answered_with_its_own_time() -> None:
    bench = one_machine()
    assert sent(bench.beat(R0), Beaten, "host:r-0") == [Beaten(bench.now + 1000)]


def test_who_is_no_member_gets_no_lease() -> None:
    bench = one_machine()
    assert not sent(bench.beat(A0, EMPTY), Beaten)


def test_a_lost_commit_is_repeated_to_a_host_that_shows_an_older_epoch() -> None:
    bench = one_machine()
    assert sent(bench.beat(R0, EMPTY), Commit, "host:r-0") == [Commit(bench.epoch)]
    assert not sent(bench.beat(R0), Commit)


def test_every_offer_is_answered_with_the_epoch() -> None:
    bench = one_machine()
    assert sent(bench.offer("a", 0), Publish, "launcher:a") == [Publish(bench.epoch)]


@pytest.mark.threat(66)
def test_a_joining_host_becomes_a_member_only_when_every_member_has_prepared() -> None:
    bench = one_machine()
    bench.offer("a", 1)
    bench.beat(A0, EMPTY)
    letters = bench.wait(0.2)
    assert {to for to, message in letters if isinstance(message, Prepare)} == {"host:r-0", "host:r-1", "host:a-0"}
    bench.answer(R0, 2)
    bench.answer(A0, 2)
    assert bench.epoch.number == 1
    bench.answer(R1, 2)
    assert (bench.epoch.number, bench.ids) == (2, ["a-0", "r-0", "r-1"])


def test_hosts_that_join_within_a_tenth_of_a_second_are_one_change() -> None:
    bench = one_machine()
    bench.beat(A0, EMPTY)
    assert not sent(bench.wait(0.05), Prepare)
    bench.beat(B0, EMPTY)
    letters = bench.wait(0.2)
    assert {len(prepare.epoch.members) for prepare in sent(letters, Prepare)} == {4}


def test_prepare_is_repeated_until_it_is_answered() -> None:
    bench = one_machine()
    bench.beat(A0, EMPTY)
    bench.wait(0.2)
    assert len(sent(bench.beat(R0), Prepare, "host:r-0")) == 1
    bench.answer(R0, 2)
    assert not sent(bench.beat(R0), Prepare)


def test_an_answer_to_an_older_proposal_does_not_count() -> None:
    bench = one_machine()
    bench.beat(A0, EMPTY)
    bench.wait(0.2)
    bench.answer(R0, 1)
    bench.answer(R1, 1)
    assert bench.epoch.number == 1


def test_a_member_that_beats_but_does_not_answer_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    bench = one_machine()
    bench.beat(A0, EMPTY)
    bench.wait(0.2)
    bench.answer(R0, 2)
    bench.wait(60, R0, R1, A0)
    assert bench.epoch.number == 1
    assert [record.getMessage() for record in caplog.records] == ["epoch 2 (planned) waits for ['r-1', 'a-0']"]


# Deaths.


def test_rooms_of_a_host_that_is_known_to_be_dead_move_at_once() -> None:
    bench = one_machine()
    letters = bench.gone(R0)
    assert (bench.epoch.number, bench.ids) == (2, ["r-1"])
    assert sent(letters, StartHost) == [StartHost("r-0")]


def test_only_the_incarnation_that_is_gone_leaves() -> None:
    bench = one_machine()
    bench.gone(member("r-0", "another"))
    assert bench.ids == ["r-0", "r-1"]


def test_a_gone_that_comes_twice_changes_nothing_more() -> None:
    bench = one_machine()
    bench.gone(R0)
    assert not bench.gone(R0)


def test_a_beat_of_the_dead_that_comes_late_does_not_count() -> None:
    bench = one_machine()
    bench.gone(R0)
    assert not bench.beat(R0)
    bench.wait(1, R1)
    assert bench.ids == ["r-1"]


def test_deaths_by_a_hook_are_told_for_a_minute_and_at_most_32() -> None:
    bench = one_machine()
    bench.gone(R0, Death("r-0", "chat/lobby", "g", 4))
    assert bench.epoch.deaths == (Death("r-0", "chat/lobby", "g", 4),)
    for n in range(40):
        bench.gone(member("r-0", f"next {n}"), Death(f"next {n}", "chat/lobby", "g", 4))
    bench.gone(R1)
    assert len(bench.epoch.deaths) == DEATHS_KEPT
    assert bench.epoch.deaths[-1].incarnation == "next 39"
    bench.wait(61)
    fresh = member("r-0", "fresh")
    bench.beat(fresh, EMPTY)
    bench.wait(0.2)
    assert not bench.epoch.deaths
    assert bench.ids == ["r-0"]


def test_a_host_that_dies_again_and_again_is_started_with_growing_delays() -> None:
    bench = one_machine()
    bench.gone(R0)
    delays = []
    for n in range(9):
        again = member("r-0", f"again {n}")
        bench.gone(again)
        begin = bench.now
        while not sent(bench.wait(0.05, R1), StartHost):
            assert bench.now - begin < 20
        delays.append(bench.now - begin)
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10], abs=0.06)


def test_a_proposal_goes_on_under_a_newer_number_when_a_member_dies() -> None:
    bench = one_machine()
    bench.beat(A0, EMPTY)
    bench.wait(0.2)
    bench.answer(R0, 2)
    bench.gone(R1)
    assert (bench.epoch.number, bench.ids) == (3, ["r-0"])
    bench.answer(R0, 2)
    assert bench.ids == ["r-0"]
    bench.answer(R0, 4)
    assert (bench.epoch.number, bench.ids) == (4, ["a-0", "r-0"])


# Draining.


def test_a_drained_host_is_stopped_after_the_commit_and_not_started_again() -> None:
    bench = one_machine()
    bench.say("host:r-1", DrainHost("r-0"))
    assert not sent(bench.told, StopHost)
    bench.answer(R0, 2)
    letters = bench.answer(R1, 2)
    assert bench.ids == ["r-1"]
    assert sent(letters, StopHost, "launcher:r") == [StopHost("r-0", "r-0")]
    assert sent(bench.beat(R0), StopHost), "the first may have been lost"
    bench.gone(R0)
    assert not sent(bench.offer("r", 2), StartHost)


def test_a_machine_that_was_drained_and_is_started_again_gets_its_hosts() -> None:
    bench = three_machines()
    bench.say("launcher:a", DrainHost("a-0"))
    for host in (R0, A0, B0):
        bench.answer(host, bench.epoch.number + 1)
    assert "a-0" not in bench.ids
    bench.gone(A0)
    assert sent(bench.offer("a", 1), StartHost) == []
    assert sent(bench.offer("a", 1, service="its next life"), StartHost) == [StartHost("a-0")]


def test_everybody_can_be_drained() -> None:
    bench = one_machine()
    bench.say("host:r-1", DrainHost())
    bench.answer(R0, 2)
    letters = bench.answer(R1, 2)
    assert bench.ids == []
    assert len(sent(letters, StopHost)) == 2


def restarted(bench: Bench, host: Member) -> None:
    """Have a host hand over its rooms, because it is to be started anew."""
    bench.say(f"host:{host.incarnation}", DrainHost(host.id, again=True))
    number = bench.epoch.number + 1
    for each in bench.epoch.members:
        bench.answer(each, number)
    assert host.id not in bench.ids


def test_a_host_that_is_restarted_comes_back_at_once_when_its_process_has_ended() -> None:
    bench = one_machine()
    restarted(bench, R0)
    assert sent(bench.told, StopHost, "launcher:r") == [StopHost("r-0", "r-0")]
    assert sent(bench.offer("r", 2), StartHost) == [], "it runs still"
    assert sent(bench.gone(R0), StartHost, "launcher:r") == [StartHost("r-0")]
    again = member("r-0", "again")
    bench.beat(again, EMPTY)
    bench.wait(0.5, R1, again)
    for each in (R1, again):
        bench.answer(each, bench.epoch.number + 1)
    assert bench.ids == ["r-0", "r-1"]


def test_what_a_host_has_said_of_its_restart_does_not_restart_its_successor() -> None:
    bench = one_machine()
    restarted(bench, R0)
    bench.gone(R0)
    again = member("r-0", "again")
    bench.beat(again, EMPTY)
    bench.wait(0.5, R1, again)
    for each in (R1, again):
        bench.answer(each, bench.epoch.number + 1)
    bench.say("host:r-0", DrainHost("r-0", again=True))
    bench.wait(1.0, R1, again)
    assert bench.ids == ["r-0", "r-1"]
    assert not bench.registrar.draining


def test_the_only_host_can_be_restarted() -> None:
    bench = Bench()
    bench.offer("r", 1)
    bench.beat(R0, EMPTY)
    restarted(bench, R0)
    assert bench.ids == []
    assert sent(bench.gone(R0), StartHost) == [StartHost("r-0")]
    assert sent(bench.told, EndMachine) == []


def test_a_host_that_dies_while_it_hands_over_comes_back_too() -> None:
    bench = one_machine()
    bench.say("host:r-0", DrainHost("r-0", again=True))
    assert sent(bench.gone(R0), StartHost) == [StartHost("r-0")]


def test_a_drain_outranks_a_restart() -> None:
    bench = one_machine()
    bench.say("host:r-0", DrainHost("r-0", again=True))
    bench.say("host:r-1", DrainHost("r-0"))
    bench.say("host:r-0", DrainHost("r-0", again=True))
    bench.answer(R0, 2)
    bench.answer(R1, 2)
    assert sent(bench.gone(R0), StartHost) == []
    assert sent(bench.offer("r", 2), StartHost) == []


# Unreachable hosts.


def evicted_after(bench: Bench, gone: str, *beating: Member) -> float:
    begin = bench.now
    while gone in bench.ids:
        bench.wait(0.05)
        assert bench.now - begin < 30
        for host in beating:
            for prepare in sent(bench.told[-20:], Prepare, f"host:{host.incarnation}"):
                bench.answer(host, prepare.epoch.number)
        if round((bench.now - begin) * 20) % 10 == 0:
            for host in beating:
                bench.beat(host)
    return bench.now - begin


@pytest.mark.threat(69)
def test_an_unreachable_host_is_removed_a_lease_and_a_second_after_its_last_beat() -> None:
    bench = three_machines()
    assert 4.0 <= evicted_after(bench, "a-0", R0, B0) <= 4.2


@pytest.mark.threat(67)
def test_nobody_is_removed_without_half_of_the_machines() -> None:
    bench = three_machines()
    bench.wait(60, R0)
    assert bench.ids == ["a-0", "b-0", "r-0"]


def test_of_two_machines_the_registrar_s_suffices() -> None:
    bench = Bench()
    bench.offer("r", 1)
    bench.beat(R0, EMPTY)
    bench.beat(A0, EMPTY)
    bench.wait(0.2)
    bench.answer(R0, 2)
    bench.wait(6, R0, A0)
    bench.wait(5, R0)
    assert bench.ids == ["r-0"]


def test_a_vouch_given_before_puts_the_removal_off_for_its_own_lease() -> None:
    bench = three_machines()
    bench.wait(3.5, R0, B0)
    bench.beat(B0, vouched=0.5)
    begin = bench.now
    assert evicted_after(bench, "a-0", R0, B0) == pytest.approx(3.5, abs=0.1)
    assert bench.now - begin == pytest.approx(3.5, abs=0.1)


def test_a_machine_has_a_vote_only_when_all_its_members_prepared() -> None:
    b1 = member("b-1")
    bench = three_machines()
    bench.offer("b", 2)
    bench.beat(b1, EMPTY)
    bench.wait(0.2)
    for host in (R0, A0, B0):
        bench.answer(host, 3)
    assert "b-1" in bench.ids
    bench.wait(5, R0, A0, B0, b1)
    begin = bench.now
    while bench.now - begin < 10:
        bench.wait(0.5, R0, b1, B0)
        for prepare in sent(bench.told[-10:], Prepare, "host:b-0"):
            bench.answer(B0, prepare.epoch.number)
    assert "a-0" in bench.ids
    for prepare in sent(bench.told, Prepare, "host:b-1")[-1:]:
        bench.answer(b1, prepare.epoch.number)
    bench.wait(1, R0, b1, B0)
    assert "a-0" not in bench.ids


def test_a_host_that_is_heard_again_in_time_stays() -> None:
    bench = three_machines()
    bench.wait(3.5, R0, B0)
    bench.answer(B0, bench.registrar.committed.number + 1)
    letters = bench.beat(A0)
    assert sent(letters, Beaten, "host:a-0")
    bench.wait(5, R0, A0, B0)
    assert bench.ids == ["a-0", "b-0", "r-0"]
    assert bench.epoch.number == 4, "who prepared the removal is told that it is off"


def test_who_was_removed_and_comes_back_is_told_and_stopped_and_never_gets_a_lease() -> None:
    bench = three_machines()
    old = bench.epoch
    evicted_after(bench, "a-0", R0, B0)
    letters = bench.beat(A0, old)
    assert not sent(letters, Beaten)
    assert sent(letters, Commit, "host:a-0") == [Commit(bench.epoch)]
    assert sent(letters, StopHost, "launcher:a") == [StopHost("a-0", "a-0")]
    assert sent(bench.gone(A0), StartHost, "launcher:a") == [StartHost("a-0")]


def test_who_was_removed_before_it_heard_of_its_membership_is_stopped_too() -> None:
    bench = three_machines()
    evicted_after(bench, "a-0", R0, B0)
    letters = bench.beat(A0, EMPTY)
    assert not sent(letters, Beaten)
    assert sent(letters, StopHost, "launcher:a") == [StopHost("a-0", "a-0")]
    begin = len(bench.told)
    for _ in range(4):
        bench.beat(A0, EMPTY)
        bench.wait(0.5, R0, B0)
    assert not sent(bench.told[begin:], Prepare)


def test_after_a_death_nobody_is_removed_until_the_vouches_of_the_dead_have_ended() -> None:
    bench = three_machines()
    bench.wait(3.5, R0, B0)
    bench.gone(B0)
    assert 4.0 <= evicted_after(bench, "a-0", R0) <= 4.2


def test_a_successor_that_prepares_proves_that_the_silent_one_is_dead() -> None:
    bench = three_machines()
    late = member("a-0", "late")
    bench.wait(3.3, R0)
    bench.beat(late, EMPTY)
    (prepare,) = sent(bench.beat(late, EMPTY), Prepare, "host:late")[-1:]
    assert "a-0" in bench.ids
    bench.answer(late, prepare.epoch.number)
    assert bench.ids == ["b-0", "r-0"]


def test_a_host_of_another_machine_with_the_same_name_proves_nothing() -> None:
    bench = three_machines()
    late = member("a-0", "late", "wss://10.9.9.9:1/link")
    bench.wait(3.3, R0)
    bench.beat(late, EMPTY)
    assert not sent(bench.beat(late, EMPTY), Prepare, "host:late")


def test_a_registrar_that_was_stopped_counts_silence_anew() -> None:
    bench = three_machines()
    bench.now += 60
    letters = bench.take(bench.registrar.tick(bench.now))
    assert not letters
    assert not sent(bench.wait(2.9, R0), Prepare)
    assert sent(bench.wait(0.2, R0), Prepare)


# Machines.


def test_a_second_machine_of_one_name_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    bench = three_machines()
    bench.offer("a", 1)
    assert bench.offer("a", 3, "10.6.6.6:1") == []
    assert bench.offer("a", 3, "10.6.6.6:1") == []
    assert bench.registrar.refusal(Offer("a", "10.6.6.6:1", 3), bench.now) is not None
    assert len(caplog.records) == 1


def test_a_machine_that_was_silent_for_a_lease_may_come_back_elsewhere() -> None:
    bench = three_machines()
    bench.wait(3.1, R0, A0, B0)
    assert bench.registrar.refusal(Offer("a", "10.6.6.6:1", 1), bench.now) is None
    bench.offer("a", 1, "10.6.6.6:1")
    assert bench.registrar.refusal(Offer("a", "10.0.0.1:1", 1), bench.now) is not None


# A new registrar.


def test_a_new_registrar_that_knows_the_last_epoch_gives_leases_at_once_and_numbers_anew() -> None:
    known = Epoch(7, "r", (R0, R1))
    bench = Bench(known)
    assert sent(bench.beat(R0, known), Beaten)
    bench.beat(R1, known)
    assert (bench.epoch.number, bench.ids) == (1000, ["r-0", "r-1"])


@pytest.mark.threat(68)
def test_a_new_registrar_removes_nobody_before_a_lease_and_a_second() -> None:
    known = Epoch(7, "r", (A0, R0))
    bench = Bench(known)
    bench.wait(3.9, R0)
    assert bench.ids == ["a-0", "r-0"]
    bench.wait(0.6, R0)
    assert bench.ids == ["r-0"]


@pytest.mark.threat(68)
def test_a_registrar_without_memory_adopts_what_hosts_tell_and_gives_no_lease_for_one() -> None:
    seven, nine = Epoch(7, "r", (A0, R0)), Epoch(9, "r", (A0, B0))
    bench = Bench()
    assert not sent(bench.beat(A0, seven), Beaten)
    assert not sent(bench.beat(B0, nine), Beaten)
    assert bench.epoch == nine
    bench.prepared = {"b-0": 1005, "a-0": 7}
    bench.wait(3.2, A0, B0)
    assert (bench.epoch.number, bench.ids) == (2000, ["a-0", "b-0"])
    assert sent(bench.beat(A0), Beaten)


def test_a_service_that_may_have_been_there_before_listens_before_its_first_epoch() -> None:
    bench = Bench(patience=5.0)
    bench.offer("r", 1)
    bench.beat(R0, EMPTY)
    assert sent(bench.wait(2.0, R0), Publish) == []
    elsewhere = Epoch(7, "r", (member("r-0", "old"), A0, B0))
    bench.offer("a", 1)
    bench.beat(A0, elsewhere)
    assert bench.epoch == elsewhere, "it is the service that was there before, which goes on"
    bench.wait(LEASE + 0.1, R0, A0, B0)
    assert bench.epoch.number >= 1000


def test_a_service_that_is_new_begins_when_it_has_listened() -> None:
    bench = Bench(patience=5.0)
    bench.offer("r", 1)
    bench.beat(R0, EMPTY)
    assert sent(bench.wait(4.9, R0), Publish) == []
    assert sent(bench.wait(0.2, R0), Publish) != []
    assert (bench.epoch.number, bench.ids) == (1, ["r-0"])


def test_a_host_that_the_adopted_epoch_does_not_have_is_stopped_and_not_let_in() -> None:
    seven, nine = Epoch(7, "r", (A0, R0)), Epoch(9, "r", (A0, B0))
    bench = Bench()
    for _ in range(7):
        bench.beat(R0, seven)
        bench.beat(B0, nine)
        bench.beat(A0, nine)
        bench.wait(0.5)
    assert bench.epoch.number == 1000
    assert sent(bench.beat(R0, seven), StopHost, "launcher:r")
    bench.wait(0.3)
    assert not sent(bench.told, Prepare)


OLD = Epoch(57, "r", (member("r-0", "old"),))


def test_the_first_epoch_is_newer_than_what_gateways_hold_of_a_service_that_was_there_before() -> None:
    bench = Bench()
    bench.offer("r", 1)
    assert sent(bench.offer("g", 0, holds=OLD), Publish) == []
    bench.beat(R0, EMPTY)
    assert (bench.epoch.number, bench.ids) == (1000, ["r-0"])


@pytest.mark.parametrize("number", [1, 2, 57])
def test_an_epoch_of_a_service_that_was_there_before_is_outrun_once(number: int) -> None:
    bench = Bench()
    bench.offer("r", 1)
    bench.beat(R0, EMPTY)
    assert bench.epoch.number == 1
    held = Epoch(number, "r", OLD.members)
    assert sent(bench.offer("g", 0, holds=held), Publish, "launcher:g")[-1].epoch == bench.epoch
    assert (bench.epoch.number, bench.ids) == (1000, ["r-0"])
    bench.offer("g", 0, holds=held)
    bench.offer("g", 0, holds=bench.epoch)
    assert bench.epoch.number == 1000


def test_what_a_machine_has_of_this_service_is_not_outrun() -> None:
    bench = one_machine()
    bench.offer("r", 2, holds=bench.epoch)
    bench.offer("g", 0, holds=Epoch(bench.epoch.number, "r", bench.epoch.members, (Death("x", "chat/a"),)))
    bench.offer("h", 0, holds=EMPTY)
    assert bench.epoch.number == 1


def test_a_change_under_way_goes_on_after_an_old_epoch_was_outrun() -> None:
    bench = one_machine()
    bench.offer("a", 1)
    bench.beat(A0, EMPTY)
    assert sent(bench.wait(0.2, R0, R1), Prepare)
    letters = bench.offer("g", 0, holds=OLD)
    assert (bench.epoch.number, bench.ids) == (1000, ["r-0", "r-1"])
    (number,) = {prepare.epoch.number for prepare in sent(letters, Prepare)}
    assert number > 1000
    bench.answer(R0, number)
    bench.answer(R1, number)
    assert (bench.epoch.number, bench.ids) == (number, ["a-0", "r-0", "r-1"])


def test_a_registrar_that_listens_outruns_what_is_held_when_it_has_listened() -> None:
    bench = Bench()
    bench.beat(A0, Epoch(7, "r", (A0,)))
    assert bench.offer("g", 0, holds=Epoch(2007, "r", (A0,))) == [("launcher:g", Publish(Epoch(7, "r", (A0,))))]
    assert bench.epoch.number == 7
    bench.wait(3.2, A0)
    assert bench.epoch.number == 3000


def test_messages_that_are_not_for_a_registrar_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert Bench().say("host:x", Knock("a", 1.0, 1)) == []
    assert Bench().say("host:x", Beat(R0, 1.0, EMPTY)) == []
    assert len(caplog.records) == 2


def test_a_machine_of_another_service_is_refused() -> None:
    registrar = Registrar("r", LEASE, 30.0, now=0.0, definitions=("chat:chat", "chat:news"))
    assert registrar.refusal(Offer("a", "10.0.0.2:1", 1, definitions=("chat:chat",)), 0.0) is None
    assert registrar.refusal(Offer("a", "10.0.0.2:1", 1), 0.0) is None, "an older version does not say"
    stranger = Offer("b", "10.0.0.3:1", 1, definitions=("orders:orders",))
    assert registrar.refusal(stranger, 0.0) == "it serves orders:orders, this service chat:chat, chat:news"
    assert registrar.receive("launcher:b", stranger, 0.0) == []


def test_a_service_that_is_ended_ends_every_machine_and_the_registrar_s_last() -> None:
    bench = three_machines()
    assert [sent(bench.offer(machine, 1), EndMachine) for machine in "rab"] == [[], [], []]
    bench.say("host:r-0", DrainHost(""))
    number = bench.epoch.number + 1
    for host in (R0, A0, B0):
        bench.answer(host, number)
    assert bench.ids == []
    assert sent(bench.offer("r", 1), EndMachine) == [], "others have not heard of it"
    assert sent(bench.offer("a", 1), EndMachine) == [EndMachine()]
    assert sent(bench.offer("r", 1), EndMachine) == []
    assert sent(bench.offer("b", 1), EndMachine) == [EndMachine()]
    assert sent(bench.offer("r", 1), EndMachine) == [EndMachine()]


def test_a_host_that_is_removed_unheard_is_told_of_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bench = three_machines()
    evicted_after(bench, "a-0", R0, B0)
    assert any("nothing was heard of a-0" in message for message in caplog.messages)


def test_a_new_member_is_told_which_gateways_the_others_are_linked_to() -> None:
    """Also where no other member is left: those whose host has died are waiting for the next one."""
    bench = Bench()
    bench.offer("r", 2)
    bench.beat(R0, EMPTY)
    bench.wait(3, R0)
    bench.beat(R0, gateways=("g2", "g1"))
    bench.beat(R1, EMPTY)
    bench.wait(0.2)
    letters = bench.answer(R0, bench.asked)
    assert sent(letters, Commit, "host:r-1") == [Commit(bench.epoch, ("g1", "g2"))]
    bench.gone(R0)
    bench.gone(R1)
    bench.wait(0.2)
    new = member("r-0", "new")
    bench.beat(new, EMPTY)
    assert sent(bench.wait(0.2), Commit, "host:new") == [Commit(bench.epoch, ("g1", "g2"))]


def test_a_new_registrar_tells_a_new_member_what_it_has_collected_of_gateways() -> None:
    """The machine of the registrar has come back: hosts of others and their gateways have been there all the time."""
    last = Epoch(7, "r", (A0, R1))
    bench = Bench()
    new = member("r-0", "new")
    told: list[Commit] = []
    for _ in range(round(LEASE * 20) + 60):
        bench.now += 0.05
        bench.beat(A0, max(last, bench.epoch, key=lambda each: each.number), gateways=("ga", "gb"))
        told += sent(bench.beat(new, bench.epoch if "r-0" in bench.ids else EMPTY), Commit, "host:new")
        told += sent(bench.take(bench.registrar.tick(bench.now)), Commit, "host:new")
        if any(isinstance(message, Prepare) for _, message in bench.told) and bench.asked > bench.epoch.number:
            told += sent(bench.answer(A0, bench.asked), Commit, "host:new")
    first = next(commit for commit in told if "new" in {each.incarnation for each in commit.epoch.members})
    assert first.gateways == ("ga", "gb")


def entries(bench: Bench) -> int:
    """Count what the registrar remembers, in all."""
    parts = [bench.registrar, *(each for each in vars(bench.registrar).values() if hasattr(each, "__dict__"))]
    return sum(len(each) for part in parts for each in vars(part).values() if hasattr(each, "__len__"))


def test_machines_that_come_and_go_under_new_names_are_forgotten() -> None:
    """Pods: each has a host that becomes a member, is drained, dies or is removed, and none ever returns."""
    bench = one_machine()
    bench.wait(5, R0, R1)
    before = entries(bench)
    for number in range(30):
        pod = member(f"pod{number}-0")
        bench.offer(pod.machine, 1)
        bench.beat(pod, EMPTY)
        bench.wait(0.2)
        for host in (R0, R1):
            bench.answer(host, bench.epoch.number + 1)
        assert pod.id in bench.ids
        if number % 3 == 0:
            bench.say("host:r-0", DrainHost(pod.id))
        elif number % 3 == 1:
            bench.gone(pod)
        for _ in range(14):
            bench.wait(0.5, R0, R1)
            for host in (R0, R1):
                bench.answer(host, bench.asked)
        assert pod.id not in bench.ids
        bench.registrar.refusal(Offer("r", f"10.6.6.{number}:1", 1), bench.now)
    assert entries(bench) > before + 30
    bench.offer("r", 2)
    bench.wait(700, R0, R1)
    assert entries(bench) <= before


def test_a_machine_that_was_away_for_long_is_as_good_as_a_new_one() -> None:
    bench = three_machines()
    bench.say("host:r-0", DrainHost("a-0"))
    for host in (R0, A0, B0):
        bench.answer(host, bench.asked)
    bench.gone(A0)
    assert bench.offer("a", 1) == [("launcher:a", Publish(bench.epoch))]
    bench.wait(700, R0, B0)
    assert sent(bench.offer("a", 1), StartHost) == [StartHost("a-0")]
