"""Take the addresses of a service before anything of it starts: hosts and a port, or the path of a Unix socket.

Invariants:
- An address that somebody else listens on is never shared or taken over; of a Unix socket, only what a killed service
  has left behind is removed.
- All hosts of a listener have the same port.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from verani.errors import VeraniError
from verani.settings import Settings

from ..http.host_port import is_unspecified

__all__ = [
    "BACKLOG",
    "ListenError",
    "Sockets",
    "internal_port",
    "listen_publicly",
    "listen_unix",
    "port_of",
    "take",
    "unix_url",
    "urls",
]

# Every client of a restarted service comes back at once; the kernel caps this at somaxconn.
BACKLOG: Final = 1024

# The settings that errors of the two listeners name.
_PUBLIC: Final = "host, port"
_INTERNAL: Final = "internal_host, internal_port"

# How often a port that is free at one host is looked for, until it is free at all.
_TRIES: Final = 8

# A family of addresses, and an address as sockets of that family have it.
_Address: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...]]


class ListenError(VeraniError):
    """An address that cannot be listened on: in use, not of this machine, not permitted."""


class Sockets(NamedTuple):
    """What both listeners of a service take connections from, in one process or in several."""

    public: list[socket.socket]
    internal: list[socket.socket]

    @classmethod
    def inherited(cls, public: Iterable[int], internal: Iterable[int]) -> Sockets:
        """Take them from the process that started this one; what this one starts does not get them."""
        both = cls(*([socket.socket(fileno=descriptor) for descriptor in each] for each in (public, internal)))
        for each in (*both.public, *both.internal):
            each.set_inheritable(False)
        return both

    def close(self) -> None:
        """Let go of them in this process."""
        _close((*self.public, *self.internal))


async def take(settings: Settings, opened: ExitStack | AsyncExitStack) -> tuple[Settings, Sockets]:
    """Take both addresses until `opened` is closed; return them in the settings. Raises `ListenError`.

    Clients wait in the backlog until somebody takes their connections.
    """
    if settings.unix_socket is not None:
        public = [opened.enter_context(listen_unix(settings.unix_socket))]
    else:
        public = await listen_publicly(settings)
        opened.callback(_close, public)
        settings = msgspec.structs.replace(settings, port=port_of(public), internal_port=internal_port(settings))
    internal = await _listen(settings.internal_addresses, internal_port(settings), _INTERNAL)
    opened.callback(_close, internal)
    return msgspec.structs.replace(settings, internal_port=port_of(internal)), Sockets(public, internal)


async def listen_publicly(settings: Settings) -> list[socket.socket]:
    """Listen where the public listener is to be, on TCP."""
    return await _listen(settings.public_addresses, settings.port, _PUBLIC)


def internal_port(settings: Settings) -> int:
    """Give the port the internal listener asks for; 0 takes a free one."""
    if settings.internal_port is not None:
        return settings.internal_port
    # A free public port says nothing about its neighbour, and the last port has none.
    return settings.port + 1 if 0 < settings.port < 65535 else 0


def urls(hosts: Iterable[str], port: int) -> tuple[str, ...]:
    """Give the addresses of a listener, one for each host."""
    return tuple(f"http://{_authority(host, port)}" for host in hosts)


def unix_url(path: str) -> str:
    """Give the address of a listener on a Unix socket."""
    return f"unix:{path}"


def port_of(sockets: Sequence[socket.socket]) -> int:
    """Give the port that all sockets of a listener have."""
    return int(sockets[0].getsockname()[1])


# --- TCP -------------------------------------------------------------------------------------------------


async def _listen(hosts: Sequence[str], port: int, names: str) -> list[socket.socket]:
    """Listen on every address of every host, before anything else starts, so that a port in use is told at once."""
    found = _without_covered([address for host in hosts for address in await _look_up(host, port, names)])
    for tries_left in reversed(range(_TRIES if port == 0 else 1)):
        sockets: list[socket.socket] = []
        try:
            for family, address in found:
                # With port 0 the first address takes a free port and the others take the same one.
                at = (address[0], port_of(sockets) if sockets else port, *address[2:])
                sockets.append(_open(family, at))
        except OSError as error:
            _close(sockets)
            if not (tries_left and sockets):
                raise _refusal(str(address[0]), port, names, error) from error
        else:
            return sockets
    raise AssertionError("the last try returns or raises")


async def _look_up(host: str, port: int, names: str) -> list[_Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise _refusal(host, port, names, error) from error
    return [(family, address) for family, _, _, _, address in found]


def _without_covered(found: Sequence[_Address]) -> list[_Address]:
    """Leave out what a listener on all addresses takes anyway; one on all of IPv6 takes all of IPv4 where it can."""
    everywhere = {family for family, address in found if is_unspecified(str(address[0]))}
    if socket.AF_INET6 in everywhere and socket.has_dualstack_ipv6():
        everywhere.add(socket.AF_INET)
        found = [each for each in found if each[0] != socket.AF_INET]
    return list(dict.fromkeys(each for each in found if each[0] not in everywhere or is_unspecified(str(each[1][0]))))


def _open(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    """Listen; one that listens on all of IPv6 takes IPv4, too."""
    is_dual = family == socket.AF_INET6 and is_unspecified(str(address[0])) and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=is_dual)


def _refusal(host: str, port: int, names: str, error: OSError) -> ListenError:
    return ListenError(f"cannot listen on {_authority(host, port)} ({names}): {_reason(error)}")


def _reason(error: OSError) -> str:
    # `create_server` adds the address to the text, which the sentence already names.
    return (os.strerror(error.errno) if not isinstance(error, socket.gaierror) and error.errno else str(error)).lower()


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _close(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        each.close()


# --- Unix sockets ----------------------------------------------------------------------------------------


@contextmanager
def listen_unix(path: str) -> Iterator[socket.socket]:
    """Listen on a Unix socket while the block runs; who may connect is what the umask leaves of its permissions.

    A socket that a service has left behind which was killed is replaced. Raises `ListenError`.
    """
    file = Path(path).absolute()  # the working folder may change until the end
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listening:
        try:
            _remove_abandoned(file)
            listening.bind(str(file))
            listening.listen(BACKLOG)
            made = file.lstat()
        except (OSError, ValueError) as error:  # the latter for what no path can hold
            reason = _reason(error) if isinstance(error, OSError) else str(error)
            raise ListenError(f"cannot listen on {path} (unix_socket): {reason}") from error
        try:
            yield listening
        finally:
            with suppress(OSError):  # somebody has removed it, or its folder
                if os.path.samestat(file.lstat(), made):
                    file.unlink()


def _remove_abandoned(file: Path) -> None:
    """Remove a socket on which nobody listens; raises OSError for any other file, and for one in use."""
    try:
        if not stat.S_ISSOCK(file.lstat().st_mode):
            raise FileExistsError(f"{file} is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # where its queue is full, somebody listens, too
            probe.connect(str(file))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        file.unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass
    raise OSError("address already in use")
