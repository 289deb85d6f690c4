"""No message order, loss, partition, pause or death makes two processes serve a room; and once all is well, all serve.

`VERANI_TEST_EXAMPLES=N` runs more.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.actors.membership.simulation import LEASE, REGISTRAR, ROOMS, Cluster

EXAMPLES = int(os.environ.get("VERANI_TEST_EXAMPLES", "40"))
ACTIONS = [
    "cut",
    "cut one way",
    "cut registrar",
    "isolate",
    "heal network",
    "kill host",
    "kill registrar",
    "start registrar",
    "kill machine",
    "start machine",
    "stop host",
    "stop registrar",
    "go on",
    "drain",
    "join",
    "lossy",
    "slow",
]

Step = tuple[float, str, int, int]
STEPS = st.tuples(
    st.sampled_from([0.02, 0.3, 1.0, 2.0, 4.0, 5.0]), st.sampled_from(ACTIONS), st.integers(0, 30), st.integers(0, 30)
)


def act(cluster: Cluster, action: str, first: int, second: int) -> None:
    machines = sorted(cluster.hosts_of)
    hosts = sorted(cluster.hosts(), key=lambda host: host.key)
    ids = [*machines, REGISTRAR, *(host.member.id for host in hosts)]
    one, other = ids[first % len(ids)], ids[second % len(ids)]
    registrar = cluster.processes.get(REGISTRAR)
    match action:
        case "cut":
            cluster.cut(one, other)
        case "cut one way":
            cluster.cut(one, other, one_way=True)
        case "cut registrar":
            cluster.cut(REGISTRAR, one)
        case "isolate":
            lonely = machines[first % len(machines)]
            for machine in machines:
                if machine != lonely:
                    cluster.cut(lonely, machine)
        case "heal network":
            cluster.cuts.clear()
            cluster.loss = cluster.slow = 0.0
        case "kill host" if hosts:
            cluster.kill(hosts[first % len(hosts)])
        case "kill registrar" if registrar is not None:
            cluster.kill(registrar)
        case "start registrar":
            if REGISTRAR not in cluster.processes and cluster.launcher(cluster.leader):
                cluster.start_registrar()
        case "kill machine":
            cluster.kill_machine(machines[first % len(machines)])
        case "start machine":
            if cluster.launcher(machines[first % len(machines)]) is None:
                cluster.start_machine(machines[first % len(machines)])
        case "stop host" if hosts:
            hosts[first % len(hosts)].stop()
        case "stop registrar" if registrar is not None:
            registrar.stop()
        case "go on":
            for process in list(cluster.living()):
                process.go_on()
            cluster.check_all()
        case "drain" if registrar is not None and hosts and registrar.backlog is None:
            cluster.drain(hosts[first % len(hosts)].member.id)
        case "join" if len(machines) < 5:
            name = f"n{len(machines)}"
            cluster.hosts_of[name] = 1 + second % 2
            cluster.start_machine(name)
        case "lossy":
            cluster.loss = 0.3
        case "slow":
            cluster.slow = 0.1
        case _:
            pass


def play(shape: list[int], seed: int, script: list[Step]) -> None:
    cluster = Cluster({f"m{n}": hosts for n, hosts in enumerate(shape)}, seed)
    cluster.run(4.0)
    for delay, action, first, second in script:
        act(cluster, action, first, second)
        cluster.run(delay)
    cluster.heal()
    cluster.run_until(cluster.is_whole, 3 * LEASE + 15)
    cluster.run(2.0)
    assert cluster.is_whole()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.integers(0, 1000), st.lists(STEPS, max_size=20))
def test_at_most_one_process_serves_a_room_whatever_fails_and_everything_is_served_afterwards(
    shape: list[int], seed: int, script: list[Step]
) -> None:
    play(shape, seed, script)


# The last two found a host that counted itself for an epoch although it had voted for its successor.
@pytest.mark.parametrize("seed", [*range(EXAMPLES), 1552, 1669])
def test_long_random_scripts_leave_one_owner_too(seed: int) -> None:
    chance = random.Random(seed)
    shape = [chance.randint(1, 2) for _ in range(chance.choice([2, 3, 3, 4, 5]))]
    script = [
        (chance.choice([0.02, 0.3, 1.0, 2.0, 4.0]), chance.choice(ACTIONS), chance.randrange(30), chance.randrange(30))
        for _ in range(30)
    ]
    play(shape, seed, script)


def whole(machines: dict[str, int], seed: int = 1) -> Cluster:
    """A service that has run for a while."""
    cluster = Cluster(machines, seed)
    cluster.run_until(cluster.is_whole, 15)
    cluster.run(2 * LEASE)
    return cluster


def serving(cluster: Cluster) -> set[str]:
    return {host.member.id for host in cluster.hosts() if host.serving()}


@pytest.mark.threat(66)
@pytest.mark.parametrize("seed", range(5))
def test_hosts_that_all_start_at_once_agree_on_one_owner_of_each_room(seed: int) -> None:
    cluster = Cluster({"a": 3, "b": 3, "c": 2}, seed)
    cluster.run_until(cluster.is_whole, 15)
    assert len(cluster.members) == 8


@pytest.mark.threat(67)
@pytest.mark.parametrize("seed", range(5))
def test_after_half_a_minute_of_partition_the_lone_side_serves_nothing_and_then_converges(seed: int) -> None:
    cluster = whole({"a": 1, "b": 1, "c": 2}, seed)
    cluster.cut("b", "a")
    cluster.cut("b", "c")
    cluster.run_until(lambda: "b-0" not in cluster.members, LEASE + 2)
    assert serving(cluster) == {"a-0", "c-0", "c-1"}
    cluster.run_until(lambda: cluster.served() == frozenset(ROOMS), 0.5)
    cluster.run(30)
    cluster.heal()
    cluster.run_until(cluster.is_whole, 5)


@pytest.mark.threat(67)
def test_where_the_registrar_is_the_lone_one_the_others_serve_on() -> None:
    cluster = whole({"a": 1, "b": 1, "c": 1})
    cluster.cut("a", "b")
    cluster.cut("a", "c")
    cluster.run(30)
    assert {"b-0", "c-0"} <= serving(cluster)
    assert cluster.members == {"a-0", "b-0", "c-0"}, "without a majority nobody is removed"
    cluster.heal()
    cluster.run_until(cluster.is_whole, 5)


@pytest.mark.threat(68)
def test_the_leader_s_machine_dies_and_returns_and_rooms_elsewhere_are_served_all_the_time() -> None:
    cluster = whole({"a": 1, "b": 1, "c": 1})
    cluster.kill_machine("a")
    for _ in range(200):
        cluster.run(0.1)
        assert serving(cluster) == {"b-0", "c-0"}
    cluster.heal()
    cluster.run_until(cluster.is_whole, 3 * LEASE)


@pytest.mark.threat(69)
@pytest.mark.threat(68)
@pytest.mark.parametrize("seed", range(5))
def test_gateways_follow_a_leader_that_is_started_anew_although_they_hold_a_higher_number(seed: int) -> None:
    cluster = whole({"a": 2, "g": 0}, seed)
    for _ in range(3):
        cluster.kill(cluster.host("a-0"))
        cluster.run_until(cluster.is_whole, 5)
    cluster.kill_machine("a")
    cluster.known = None
    cluster.start_machine("a")
    gateways = cluster.launcher("g")
    assert gateways is not None
    cluster.run_until(lambda: cluster.is_whole() and gateways.epoch == cluster.registrar.registrar.committed, 10)


@pytest.mark.parametrize("seed", range(5))
def test_a_host_that_is_stopped_loses_its_rooms_and_serves_none_when_it_runs_on(seed: int) -> None:
    cluster = whole({"a": 2, "b": 2, "c": 1}, seed)
    stopped = cluster.host("b-1")
    stopped.stop()
    cluster.run_until(lambda: "b-1" not in cluster.members, LEASE + 2)
    cluster.run(1.0)
    assert cluster.served() == frozenset(ROOMS)
    stopped.go_on()
    assert not stopped.serving()
    cluster.run_until(cluster.is_whole, 5)
    assert not stopped.alive


@pytest.mark.threat(69)
def test_a_host_that_only_the_registrar_cannot_reach_is_removed_although_others_vouch_until_then() -> None:
    cluster = whole({"a": 1, "b": 1, "c": 1})
    cluster.cut(REGISTRAR, "b-0")
    cluster.run_until(lambda: "b-0" not in cluster.members, LEASE + 2)
    cluster.run(1.0)
    assert cluster.served() == frozenset(ROOMS)


@pytest.mark.parametrize("seed", range(5))
def test_no_voucher_s_colleague_on_the_same_machine_votes_in_its_stead(seed: int) -> None:
    cluster = whole({"a": 1, "b": 1, "c": 2}, seed)
    # b-0 and c-0 have lost the registrar but not one another, while c-1 hears it.
    for lost in ("b-0", "c-0"):
        cluster.cut(REGISTRAR, lost)
    cluster.cut("b-0", "c-1")
    cluster.run(30)
    assert {"b-0", "c-0", "c-1"} <= serving(cluster)
    cluster.heal()
    cluster.run_until(cluster.is_whole, 3 * LEASE)


def test_a_host_that_is_killed_is_replaced_well_before_a_lease_is_over() -> None:
    cluster = whole({"a": 3})
    cluster.kill(cluster.host("a-1"))
    assert cluster.run_until(lambda: cluster.served() == frozenset(ROOMS), LEASE) < 0.3
    assert cluster.run_until(cluster.is_whole, LEASE) < 2.0


def test_a_registrar_that_is_killed_comes_back_and_nobody_stops_serving() -> None:
    cluster = whole({"a": 2})
    cluster.kill(cluster.registrar)
    cluster.run(1.0)
    cluster.start_registrar()
    for _ in range(100):
        cluster.run(0.1)
        assert cluster.served() == frozenset(ROOMS)
    assert cluster.registrar.registrar.committed.number >= 1000


@pytest.mark.parametrize("seed", range(5))
def test_a_registrar_that_is_stopped_for_a_minute_removes_nobody(seed: int) -> None:
    cluster = whole({"a": 1, "b": 1, "c": 1}, seed)
    incarnations = {host.key for host in cluster.hosts()}
    cluster.registrar.stop()
    cluster.run(60)
    assert {"b-0", "c-0"} <= serving(cluster)
    cluster.registrar.go_on()
    cluster.run_until(cluster.is_whole, 5)
    assert {host.key for host in cluster.hosts()} == incarnations


def test_a_drained_host_gives_up_its_rooms_and_is_not_started_again() -> None:
    cluster = whole({"a": 2, "b": 1})
    drained = cluster.host("a-1")
    cluster.drain("a-1")
    cluster.run_until(lambda: not drained.alive, 5)
    cluster.run(10)
    assert cluster.members == {"a-0", "b-0"}
    assert cluster.is_whole()


@pytest.mark.parametrize("seed", range(5))
def test_hosts_of_two_machines_that_died_unseen_do_not_block_the_rest(seed: int) -> None:
    cluster = whole({"a": 1, "b": 1, "c": 1}, seed)
    cluster.kill(cluster.registrar)
    cluster.kill_machine("b")
    cluster.kill_machine("c")
    cluster.run(1.0)
    cluster.heal()
    cluster.run_until(cluster.is_whole, 3 * LEASE)
