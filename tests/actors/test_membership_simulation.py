"""No message order, loss, partition, pause or death makes two processes serve a room; and once all is well, all serve.

`VERANI_TEST_EXAMPLES=N` runs more.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.actors.membership import LEASE, REGISTRAR, ROOMS, Cluster, HostProcess

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


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_long_random_scripts_leave_one_owner_too(seed: int) -> None:
    chance = random.Random(seed)
    shape = [chance.randint(1, 2) for _ in range(chance.choice([2, 3, 3, 4, 5]))]
    script = [
        (chance.choice([0.02, 0.3, 1.0, 2.0, 4.0]), chance.choice(ACTIONS), chance.randrange(30), chance.randrange(30))
        for _ in range(30)
    ]
    play(shape, seed, script)


def whole(machines: dict[str, int], seed: int = 1) -> Cluster:
    cluster = Cluster(machines, seed)
    cluster.run_until(cluster.is_whole, 15)
    cluster.run(2 * LEASE)
    return cluster


def serving(cluster: Cluster) -> set[str]:
    return {host.member.id for host in cluster.hosts() if host.serving()}


__all__ = ["HostProcess", "ROOMS", "serving", "whole"]
