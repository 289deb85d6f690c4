"""Make machines of network namespaces: each has an address of its own on one bridge, and the tests sit on it too.

Nothing here knows what runs on the machines. Needs root, or what amounts to it (`why_not` says what is missing).

Invariants: every name holds the process id of its maker, so that leftovers of a killed one are found and removed by
the next; `Network.close` ends whatever still runs on the machines, also what had left its process group.
"""

from __future__ import annotations

import ctypes
import functools
import ipaddress
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Machine", "Network", "isolate", "leftovers", "why_not"]

_COUNT = itertools.count(1)

# Interfaces have names of at most 15 characters (IFNAMSIZ).
_NAME = re.compile(r"vn(\d+)[a-z]\d+(?:m\d+)?")

# Networks are looked for in here: a /24 each, far from what machines and containers use by default.
_RANGE = ipaddress.IPv4Network("10.200.0.0/16")

# setns(2) and unshare(2); `os.setns` and `os.unshare` are there from Python 3.12 on.
_CLONE_NEWNET = 0x40000000

# Whoever has no other address than loopback takes itself for offline. Both nets are for examples (RFC 5737).
_OWN = "198.51.100.1/24"
_ELSEWHERE = "192.0.2.0/24"

# An address of the link layer that nobody has; "locally administered" (IEEE 802).
_NOBODY = "02:00:00:00:00:00"


class Machine:
    """One namespace with a loopback and one interface on the bridge."""

    def __init__(self, network: Network, number: int, address: str) -> None:
        self.name = f"{network.name}m{number}"
        self.address = address
        self._network = network
        # The end of the veth pair that is on the bridge has the name of the namespace.
        _ip("netns", "add", self.name)
        _ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self.name, "master", network.bridge, "up")
        self._ip("addr", "add", f"{address}/24", "dev", "eth0")
        self._ip("link", "set", "lo", "up")
        self._ip("link", "set", "eth0", "up")

    def __repr__(self) -> str:
        return f"<Machine {self.name} {self.address}>"

    def _ip(self, *arguments: str) -> str:
        return _ip("-n", self.name, *arguments)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command on this machine; the process is that of the command itself."""
        # `ip netns exec` enters the namespace and then becomes the command.
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], **options)

    def open_socket(self) -> socket.socket:
        """Make a TCP socket on this machine, for a client that stays with it while it is cut off."""
        made: list[socket.socket | OSError] = []
        # A namespace is entered by one thread alone, and a socket stays where it was made.
        thread = threading.Thread(target=self._make_socket, args=[made])
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def _make_socket(self, made: list[socket.socket | OSError]) -> None:
        try:
            with Path(f"/run/netns/{self.name}").open("rb") as namespace:
                _call("setns", namespace.fileno(), _CLONE_NEWNET)
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        except OSError as error:
            made.append(error)

    def pids(self) -> list[int]:
        """List the processes on this machine."""
        return [int(pid) for pid in _ip("netns", "pids", self.name).split()]

    def cut(self) -> None:
        """Pull the cable: what is sent is lost, and nobody gets a FIN or RST."""
        _ip("link", "set", self.name, "down")

    def heal(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self.name, "up")

    def part(self, other: Machine) -> None:
        """Lose what this machine and another one send to each other; everybody else reaches both."""
        self._ip("neigh", "replace", other.address, "lladdr", _NOBODY, "nud", "permanent", "dev", "eth0")
        other._ip("neigh", "replace", self.address, "lladdr", _NOBODY, "nud", "permanent", "dev", "eth0")

    def give_up(self, other: Machine) -> None:
        """End connections with another machine, which does not hear of it, as the kernel does after long silence."""
        # Where the kernel cannot be asked to, it does so in its own time.
        subprocess.run(
            ["ip", "netns", "exec", self.name, "ss", "--kill", "--tcp", "dst", other.address],
            capture_output=True,
            check=False,
        )

    def meet(self, other: Machine) -> None:
        """Undo `part`."""
        self._ip("neigh", "del", other.address, "dev", "eth0")
        other._ip("neigh", "del", self.address, "dev", "eth0")


class Network:
    """A bridge with machines on it, reachable from the namespace that made it; use it in a ``with`` block."""

    def __init__(self, machines: int) -> None:
        """Make the machines; raises OSError where that is not allowed, and leaves nothing behind then."""
        sweep()
        self.name = f"vn{os.getpid()}n{next(_COUNT)}"
        self.bridge = self.name
        self.machines: list[Machine] = []
        subnet = _free_subnet()
        addresses = (str(address) for address in subnet.hosts())
        # The address of the tests themselves.
        self.address = next(addresses)
        try:
            # Without these two a port forwards nothing for seconds after its link came up.
            _ip("link", "add", self.bridge, "type", "bridge", "forward_delay", "0", "stp_state", "0")
            _ip("addr", "add", f"{self.address}/{subnet.prefixlen}", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            for number in range(1, machines + 1):
                self.machines.append(Machine(self, number, next(addresses)))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Remove all of it; what is not there is no error."""
        _remove(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def isolate() -> None:
    """Move this thread, and what it starts, into a network that nobody else is in and from which nobody is reached.

    Raises OSError where that is not allowed, and changes nothing then.
    """
    if shutil.which("ip") is None:
        raise FileNotFoundError("ip")
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        _call("unshare", _CLONE_NEWNET)
        try:
            _ip("link", "set", "lo", "up")
            _ip("link", "add", "eth0", "type", "veth", "peer", "name", "nobody")
            _ip("addr", "add", _OWN, "dev", "eth0")
            _ip("link", "set", "nobody", "up")
            _ip("link", "set", "eth0", "up")
            # For those who ask by which address they would get to somebody else.
            _ip("route", "add", _ELSEWHERE, "dev", "eth0")
        except OSError:
            _call("setns", before.fileno(), _CLONE_NEWNET)
            raise


@functools.cache
def why_not() -> str:
    """Say why there can be no namespaces here; empty where there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    try:
        with Network(1):
            return ""
    except OSError as error:
        return f"network namespaces are not allowed: {error}"


def leftovers(pid: int) -> list[str]:
    """Name what is there of the networks that this process made."""
    return sorted({name for name in _names() if _maker(name) == pid})


def sweep() -> None:
    """Remove what killed processes have left."""
    for name in {name.partition("m")[0] for name in _names() if not _lives(_maker(name))}:
        _remove(name)


def _remove(network: str) -> None:
    names = [name for name in _names() if name.partition("m")[0] == network]
    for namespace in [name for name in _namespaces() if name in names]:
        with suppress(OSError):  # somebody else removes it, too, and was first
            for pid in _ip("netns", "pids", namespace).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "del", namespace)
    # Interfaces outlive the name of their namespace where a process is still being reaped.
    for interface in [name for name in _interfaces() if name in names]:
        with suppress(OSError):  # a pair goes with either end, whoever is first
            _ip("link", "del", interface)


def _maker(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1])


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _names() -> Iterator[str]:
    for name in {*_namespaces(), *_interfaces()}:
        if _NAME.fullmatch(name):
            yield name


def _namespaces() -> list[str]:
    return [each["name"] for each in _json("netns", "list")]


def _interfaces() -> list[str]:
    return [each["ifname"] for each in _json("link", "show")]


def _free_subnet() -> ipaddress.IPv4Network:
    taken = {
        ipaddress.IPv4Interface(f"{info['local']}/{info['prefixlen']}").network
        for each in _json("addr", "show")
        for info in each.get("addr_info", ())
        if info["family"] == "inet"
    }
    # Two test runs that start at once begin to look at different places.
    subnets = list(_RANGE.subnets(new_prefix=24))
    start = os.getpid() % len(subnets)
    for subnet in (*subnets[start:], *subnets[:start]):
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise OSError(f"no network of {_RANGE} is free")


def _json(*arguments: str) -> list[Mapping[str, Any]]:
    return json.loads(_ip("-j", *arguments) or "[]")  # type: ignore[no-any-return]  # as `ip -j` prints it


def _call(function: str, *arguments: int) -> None:
    """Call a function of the C library that says what went wrong in `errno`."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments):
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
