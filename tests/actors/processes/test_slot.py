"""What a host was doing when it died can be read from the file that it leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from verani.link.epoch import Death
from verani_actors.processes.slot import Slot, read_slot


def test_a_dead_process_leaves_the_hook_it_was_in(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        Slot(tmp_path / "slot", "0123").enter("chat/a", "g1", 7)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert read_slot(tmp_path / "slot") == Death("0123", "chat/a", "g1", 7)


def test_outside_of_hooks_there_is_nothing(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "slot", "0123")
    assert read_slot(tmp_path / "slot") is None
    slot.enter("chat/a", "g1", 7)
    slot.leave()
    assert read_slot(tmp_path / "slot") is None
    slot.close()


def test_the_last_mark_counts_and_a_longer_one_before_leaves_no_trace(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "slot", "0123")
    slot.enter("chat/" + "a" * 100, "g1", 7)
    slot.enter("chat/b", "", 0)
    assert read_slot(tmp_path / "slot") == Death("0123", "chat/b")
    slot.close()


def test_a_name_that_does_not_fit_is_no_mark(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "slot", "0123")
    slot.enter("chat/a", "g1", 7)
    slot.enter("x" * 600, "g1", 8)
    assert read_slot(tmp_path / "slot") is None
    slot.close()


def test_a_missing_or_damaged_file_is_nothing(tmp_path: Path) -> None:
    assert read_slot(tmp_path / "none") is None
    (tmp_path / "slot").write_bytes(b"\xff" * 512)
    assert read_slot(tmp_path / "slot") is None
