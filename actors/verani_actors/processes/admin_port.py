"""Make sure that the port of the actor system is free until the actor system has it, or say who holds it.

Thespian itself would take whatever listens there for its own Admin and give up after 14 s without a reason.
"""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path
from typing import Final

from verani.errors import VeraniError

__all__ = ["AdminPortError", "hold_port", "resolve"]

# What a predecessor leaves behind is killed by the kernel, which takes a moment.
PATIENCE: Final = 3.0
_PAUSE: Final = 0.05
# State of a listening socket in /proc/net/tcp.
_LISTEN: Final = "0A"


class AdminPortError(VeraniError):
    """The actor system cannot listen where it should."""


def resolve(address: str) -> str:
    """Find the IPv4 address of a host name; Thespian's TCP transport knows no other kind."""
    try:
        found = socket.getaddrinfo(address, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise AdminPortError(f"expected an IPv4 address or a host name to advertise, got {address!r}") from error
    return str(found[0][4][0])


def hold_port(address: str, port: int, *, patience: float = PATIENCE) -> socket.socket:
    """Return a socket bound to `port`, or to a free one for 0; wait at most `patience` seconds for it to become free.

    It does not listen, so Thespian can, as both say SO_REUSEADDR; until it is closed, nobody else is given the port.
    """
    if port:
        _wait_until_free(address, port, patience)
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address, port))
    except OSError as error:
        held.close()
        raise AdminPortError(_sentence(address, port, error)) from error
    return held


def _wait_until_free(address: str, port: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        with socket.socket() as probe:
            # As Thespian does, or connections that have just ended would count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen()
                return
            except OSError as error:
                if time.monotonic() >= deadline or error.errno != errno.EADDRINUSE:
                    raise AdminPortError(_sentence(address, port, error)) from error
        time.sleep(_PAUSE)


def _sentence(address: str, port: int, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"the actor system cannot listen on {address}:{port}: {error.strerror}"
    holder = _holder(port)
    who = f"process {holder[0]} ({holder[1]})" if holder is not None else "another process"
    return f"port {port} of the actor system (admin_port) is in use by {who}"


def _holder(port: int) -> tuple[int, str] | None:
    """Find the pid and command of a process that listens on a port, as far as /proc shows it to us."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(entry.readlink()) in sockets for entry in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                return int(process.name), command.decode(errors="replace")
        except OSError:
            continue  # of another user, or gone
    return None


def _listening(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes
