"""Name the files that the processes of one machine share: the plan, the published epoch, sockets and death notes.

Invariants: the folder is readable by its owner only (0700, files 0600); a file that changes is replaced whole.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from verani.link.epoch import Epoch
from verani.settings import Settings

__all__ = ["DEFAULT_ADMIN_PORT", "Plan", "Runtime"]

# Where the actor system of a service on several machines is found, unless its settings say otherwise.
DEFAULT_ADMIN_PORT: Final = 8100

# A Unix socket's path holds 107 bytes (unix(7)); the names below need up to 45 of them.
_LONGEST_FOLDER: Final = 60


class Plan(Struct, frozen=True):
    """What every process of a machine is to know before it starts.

    `definitions` are addresses, MODULE:NAME, found from `directory`. `address` is the one others reach this machine
    by. `leader` is the address and admin port of the leader's machine, empty on the leader itself.
    """

    settings: Settings
    definitions: tuple[str, ...]
    directory: str
    machine: str
    address: str = "127.0.0.1"
    leader: str = ""
    # What gateways inherit, file descriptors of sockets: those of the public listener, then of the internal one.
    listeners: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    # A command that imports what is served and prints the definitions, or says why it cannot be imported.
    check: tuple[str, ...] = ()

    @property
    def spans_machines(self) -> bool:
        """True if other machines can reach this one: then links between machines are served, too."""
        return not ipaddress.ip_address(self.address).is_loopback

    @property
    def admin_port(self) -> int:
        """Port of the actor system; 0 where any will do, as nobody from elsewhere has to find it."""
        asked = self.settings.admin_port
        return asked if asked is not None else DEFAULT_ADMIN_PORT if self.spans_machines else 0

    def authority(self, port: int) -> str:
        """Write the address with a port, as URLs do."""
        return f"[{self.address}]:{port}" if ":" in self.address else f"{self.address}:{port}"


def _is_own(folder: str) -> bool:
    """Tell whether nobody else may rename what is in a folder; that of another user may have been kept by `sudo`."""
    try:
        return Path(folder).stat().st_uid == os.getuid() and os.access(folder, os.W_OK)
    except OSError:
        return False


class Runtime:
    """The runtime folder of one `verani serve` or `verani join`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def create(cls) -> Runtime:
        """Make a new folder, below XDG_RUNTIME_DIR where there is one that is short enough and this user's."""
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        usable = base and len(base) < _LONGEST_FOLDER - 16 and _is_own(base)
        return cls(tempfile.mkdtemp(prefix="verani-", dir=base if usable else "/tmp"))  # 0700, new

    def write_plan(self, plan: Plan) -> None:
        """Write the plan, before any other process starts."""
        self._write("plan", msgspec.msgpack.encode(plan))

    def read_plan(self) -> Plan:
        """Read the plan."""
        return msgspec.msgpack.decode((self.folder / "plan").read_bytes(), type=Plan)

    def write_epoch(self, epoch: Epoch) -> None:
        """Publish the epoch to the gateways of this machine."""
        self._write("epoch", msgspec.msgpack.encode(epoch))

    def read_epoch(self) -> Epoch:
        """Read the published epoch; number 0 while there is none."""
        try:
            return msgspec.msgpack.decode(self.epoch_file.read_bytes(), type=Epoch)
        except FileNotFoundError:
            return Epoch()

    @property
    def is_whole(self) -> bool:
        """Whether the folder is there, with what every new process needs to read."""
        return (self.folder / "plan").exists()

    def freshen(self) -> None:
        """Mark all that is there as used, for whoever tidies up where the folder is."""
        for path in (self.folder, *self.folder.glob("*")):
            with suppress(OSError):  # gone meanwhile
                os.utime(path)

    @property
    def epoch_file(self) -> Path:
        """File of the published epoch."""
        return self.folder / "epoch"

    @property
    def served_file(self) -> Path:
        """File that is there once the service has begun to serve, and all its gateways take connections."""
        return self.folder / "served"

    def socket(self, incarnation: str) -> str:
        """Path of the Unix socket on which a host takes links."""
        return str(self.folder / f"{incarnation}.sock")

    def running_hook(self, incarnation: str) -> Path:
        """File in which a host keeps the input whose hook runs now."""
        return self.folder / f"{incarnation}.slot"

    def death_note(self, incarnation: str) -> Path:
        """File that holds something only if a host was killed by a fault of its own, or by its watchdog."""
        return self.folder / f"{incarnation}.death"

    def farewell(self, incarnation: str) -> Path:
        """File that is there if a host has ended in order, though nobody of the service had asked it to."""
        return self.folder / f"{incarnation}.farewell"

    def _write(self, name: str, content: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(temporary).replace(self.folder / name)
        except OSError:
            Path(temporary).unlink()
            raise
