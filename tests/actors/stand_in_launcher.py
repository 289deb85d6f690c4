"""Run the launcher with a stand-in for what lives in a host: `python stand_in_launcher.py RUNTIME_FOLDER`.

The stand-in beats and says what it is told in files of the runtime folder; it obeys what tests write there.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType

from verani.epoch import Epoch, Member
from verani_actors.control import Beat, Commit, Control, Prepare, Prepared
from verani_actors.runtime import Plan, Runtime


class Hosting:
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
        while not self._stopped.is_set():
            self._post("registrar", Beat(self._member, time.monotonic(), self._epoch, self._prepared))
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
            case _:
                pass

    def stop(self) -> None:
        self._stopped.set()


module = ModuleType("verani_actors.hosting")
module.Hosting = Hosting  # type: ignore[attr-defined]  # a module made here
sys.modules["verani_actors.hosting"] = module

from verani_actors.launcher import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
