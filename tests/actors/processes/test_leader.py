"""Where the leader is: its name is looked up again without anybody waiting for that."""

from __future__ import annotations

import threading

import pytest

from verani_actors.processes import leader as module
from verani_actors.processes.admin_port import AdminPortError
from verani_actors.processes.leader import Leader


class Names:
    """A directory of names that answers when it is told to."""

    def __init__(self) -> None:
        self.address: str | None = "10.0.0.1"
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()

    def resolve(self, name: str) -> str:
        self.asked += 1
        assert self.answers.wait(10)
        if name != "leader" or self.address is None:
            raise AdminPortError("no such name")
        return self.address


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(module, "resolve", names.resolve)
    return names


def test_a_leader_is_where_its_name_leads(names: Names) -> None:
    leader = Leader("leader:8100")
    assert (leader.address, leader.port) == ("10.0.0.1", 8100)


def test_a_leader_that_is_nowhere_at_first_is_an_error(names: Names) -> None:
    with pytest.raises(AdminPortError):
        Leader("liaeder:8100")


def test_nobody_waits_for_a_name_that_is_looked_up_again(names: Names) -> None:
    leader = Leader("leader:8100")
    names.address = "10.0.0.2"
    names.answers.clear()
    leader.look_again(100.0)
    leader.look_again(200.0)  # while the first is under way
    assert leader.address == "10.0.0.1"
    names.answers.set()
    leader.wait()
    assert (leader.address, names.asked) == ("10.0.0.2", 2)


def test_a_name_is_looked_up_every_few_seconds_only(names: Names) -> None:
    leader = Leader("leader:8100")
    for now in (100.0, 101.0, 104.9):
        leader.look_again(now)
        leader.wait()
    assert names.asked == 2
    leader.look_again(105.0)
    leader.wait()
    assert names.asked == 3


def test_a_name_that_leads_nowhere_for_a_while_changes_nothing(names: Names) -> None:
    leader = Leader("leader:8100")
    names.address = None
    leader.look_again(100.0)
    leader.wait()
    assert leader.address == "10.0.0.1"
