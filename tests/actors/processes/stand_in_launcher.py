"""Run the launcher with a stand-in for what lives in a host: `python stand_in_launcher.py RUNTIME_FOLDER`.

The stand-in beats and says what it is told in files of the runtime folder; it obeys what tests write there. While
there is a file `full`, no epoch can be written; while there is one `newer`, every control message is one of a newer
version. The file that STAND_IN_LEADER names holds the address that `leader.test` has. With STAND_IN_RAISES no host
starts.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from verani.errors import VeraniError
from verani.link.epoch import Epoch, Member
from verani_actors.membership import control
from verani_actors.membership.control import Beat, Beaten, Commit, Control, DrainHost, Prepare, Prepared
from verani_actors.upkeep.runtime import Plan, Runtime


class HostProcess:
    """Has no rooms, but keeps its membership."""

    def __init__(
        self,
        plan: Plan,
        runtime: Runtime,
        member_id: str,
        incarnation: str,
        secret: bytes,
        post: Callable[[str, Control], None],
    ) -> None:
        assert secret
        (runtime.folder / f"{member_id}.environment").write_text("\n".join(os.environ))
        self._post = post
        self._member = Member(member_id, incarnation, plan.machine, os.getpid(), runtime.socket(incarnation))
        self._epoch = Epoch()
        self._prepared = 0
        self._stopped = asyncio.Event()
        self._period = plan.settings.lease / 6
        self._folder = runtime.folder

    async def run(self) -> None:
        if "STAND_IN_RAISES" in os.environ:
            raise VeraniError("something is in use")
        while not self._stopped.is_set():
            self._note("beats", str(self._epoch.number))
            self._post("registrar", Beat(self._member, time.monotonic(), self._epoch, self._prepared))
            if (self._folder / f"{self._member.id}.drain").exists():
                self._post("registrar", DrainHost(self._member.id))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), self._period)
        # What a room's last hook may take.
        await asyncio.sleep(float(os.environ.get("STAND_IN_STOPS_IN", "0")))
        (self._folder / f"{self._member.id}.stopped").touch()

    def receive(self, sender: str, message: Control) -> None:
        match message:
            case Prepare(epoch):
                self._prepared = epoch.number
                self._post("registrar", Prepared(self._member.id, self._member.incarnation, epoch.number))
            case Commit(epoch):
                self._epoch = epoch
                self._note("epoch", str(epoch.number))
            case Beaten(sent):
                self._note("beaten", str(sent))
            case _:
                pass

    has_started = True

    def _note(self, kind: str, text: str) -> None:
        with (self._folder / f"{self._member.id}.{kind}").open("a") as file:
            file.write(f"{text}\n")

    def stop(self) -> None:
        (self._folder / f"{self._member.id}.stopping").touch()
        self._stopped.set()


module = ModuleType("verani_actors.processes.host_process")
module.HostProcess = HostProcess  # type: ignore[attr-defined]  # a module made here
sys.modules["verani_actors.processes.host_process"] = module

from verani_actors.processes.launcher import main  # noqa: E402

FOLDER = Path(sys.argv[-1])
_replace, _decode, _getaddrinfo = Path.replace, control.decode_control, socket.getaddrinfo


def replace(self: Path, target: str | os.PathLike[str]) -> Path:
    if Path(target).name == "epoch" and (FOLDER / "full").exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return _replace(self, target)


def decode(content: bytes) -> Control:
    newer = (FOLDER / "newer").exists()
    message: Control = _decode(msgspec.msgpack.encode({"type": "of another version"}) if newer else content)
    return message


def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
    if host == "leader.test":
        host = Path(os.environ["STAND_IN_LEADER"]).read_text()
    return _getaddrinfo(host, *args, **options)


socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]  # where a name server would say so
Path.replace = replace  # type: ignore[method-assign, assignment]  # where the disk would say so
control.decode_control = decode  # type: ignore[assignment]  # before anybody has imported it

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
