"""Machines of network namespaces are what fault tests take them for."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests import netns
from tests.netns import Machine, Network

PATIENCE = 30.0
PORT = 7000

ECHO = """
import socket, sys, threading

def serve(connection):
    while data := connection.recv(65536):
        connection.sendall(data)

with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listener:
    print("listening", flush=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

CONNECT = """
import socket, sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as connection:
    connection.sendall(b"hello")
    print(connection.recv(5).decode())
"""

ISOLATED = """
import socket, sys
from tests.netns import isolate

try:
    isolate()
except OSError as error:
    print(error)
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    with socket.create_connection(listener.getsockname()):
        print("hears itself")
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
    print("hears others")
except ConnectionRefusedError:
    pass
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if reason := netns.why_not():
        pytest.skip(reason)
    with Network(3) as network:
        yield network


@pytest.fixture
def machines(network: Network) -> Iterator[list[Machine]]:
    """Start a server that answers what it is sent on each machine."""
    servers = [
        machine.popen([sys.executable, "-c", ECHO, machine.address, str(PORT)], stdout=subprocess.PIPE)
        for machine in network.machines
    ]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
    yield network.machines
    for server in servers:
        server.kill()
        server.communicate()


def connect(machine: Machine) -> socket.socket:
    return socket.create_connection((machine.address, PORT), timeout=PATIENCE)


def echoed(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return received(connection, len(data))


def received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data)) or pytest.fail("the connection was closed")
    return data


def asks(machine: Machine, other: Machine, patience: float = PATIENCE) -> str:
    """Connect from one machine to another; return what comes back, empty if nothing does."""
    command = [sys.executable, "-c", CONNECT, other.address, str(PORT), str(patience)]
    process = machine.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return process.communicate()[0].decode().strip()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def sent_again(connection: socket.socket) -> int:
    """Tell how often the kernel has sent something again, in vain (tcpi_retransmits of linux/tcp.h)."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2]


def test_machines_reach_each_other_and_the_tests_reach_them(machines: list[Machine]) -> None:
    for machine in machines:
        with connect(machine) as connection:
            assert echoed(connection, b"hello") == b"hello"
            assert connection.getsockname()[0] == machine._network.address
        assert [asks(machine, other) for other in machines] == ["hello"] * 3


def test_a_port_of_one_machine_is_no_port_of_another(machines: list[Machine]) -> None:
    """Each has its own loopback, so services with the same ports may run side by side."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE)


def test_a_cut_swallows_what_is_sent_and_a_heal_brings_it_on_the_same_connection(machines: list[Machine]) -> None:
    cut, other = machines[0], machines[1]
    with connect(cut) as connection, connect(other) as unharmed:
        assert echoed(connection, b"before") == b"before"
        cut.cut()
        try:
            connection.sendall(b"meanwhile")
            until(lambda: sent_again(connection))
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
            with pytest.raises(OSError) as failed:  # noqa: PT011  # there are two
                socket.create_connection((cut.address, PORT), timeout=0.2)
            # Silence, or its neighbours do not find it any more.
            assert isinstance(failed.value, TimeoutError) or failed.value.errno == errno.EHOSTUNREACH
            assert asks(other, cut, 0.2) == ""
            assert echoed(unharmed, b"hello") == b"hello"
        finally:
            cut.heal()
        connection.settimeout(PATIENCE)
        assert received(connection, len(b"meanwhile")) == b"meanwhile"
    assert asks(other, cut) == "hello"


def test_two_machines_that_were_parted_are_still_reached_by_the_others(machines: list[Machine]) -> None:
    one, two, three = machines
    one.part(two)
    try:
        assert asks(one, two, 0.2) == asks(two, one, 0.2) == ""
        assert [asks(three, one), asks(three, two)] == ["hello"] * 2
        with connect(one) as first, connect(two) as second:
            assert echoed(first, b"a") + echoed(second, b"b") == b"ab"
    finally:
        one.meet(two)
    assert [asks(one, two), asks(two, one)] == ["hello"] * 2


def test_nothing_is_left_behind_not_even_a_process(network: Network) -> None:
    before = netns.leftovers(os.getpid())
    with suppress(ZeroDivisionError), Network(2) as other:
        made = set(netns.leftovers(os.getpid())) - set(before)
        assert {machine.name for machine in other.machines} | {other.bridge} == made
        daemon = other.machines[0].popen(["sleep", "1000"], start_new_session=True)
        until(lambda: other.machines[0].pids() == [daemon.pid])
        raise ZeroDivisionError
    assert daemon.wait(PATIENCE) < 0
    assert netns.leftovers(os.getpid()) == before


def test_what_a_killed_run_left_is_removed_by_the_next(network: Network) -> None:
    maker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, signal\nfrom tests.netns import Network\nNetwork(2)\nos.kill(os.getpid(), 9)",
        ]
    )
    assert maker.wait(PATIENCE) == -9
    assert netns.leftovers(maker.pid)
    before = netns.leftovers(os.getpid())
    with Network(1):
        assert not netns.leftovers(maker.pid)
    assert netns.leftovers(os.getpid()) == before


def isolated(port: int, *command: str) -> list[str]:
    done = subprocess.run([*command, sys.executable, "-c", ISOLATED, str(port)], capture_output=True, check=True)
    return done.stdout.decode().splitlines()


@pytest.mark.usefixtures("network")
def test_whoever_is_isolated_hears_nobody_but_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert isolated(listener.getsockname()[1]) == ["hears itself"]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("capability", ["sys_admin", "net_admin"])
def test_whoever_may_not_be_isolated_stays_where_it_is(capability: str) -> None:
    bounded = ("setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reason, *heard = isolated(listener.getsockname()[1], *bounded)
    assert "not permitted" in reason
    assert heard == ["hears itself", "hears others"]
