"""What a host was doing when it died can be read from the file that it leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from verani.link.epoch import Death
from verani_actors.processes.running_hook import RunningHook, read_running_hook


def test_a_dead_process_leaves_the_hook_it_was_in(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        RunningHook(tmp_path / "hook", "0123").enter("chat/a", "g1", 7)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert read_running_hook(tmp_path / "hook") == Death("0123", "chat/a", "g1", 7)


def test_outside_of_hooks_there_is_nothing(tmp_path: Path) -> None:
    running_hook = RunningHook(tmp_path / "hook", "0123")
    assert read_running_hook(tmp_path / "hook") is None
    running_hook.enter("chat/a", "g1", 7)
    running_hook.leave()
    assert read_running_hook(tmp_path / "hook") is None
    running_hook.close()


def test_the_last_mark_counts_and_a_longer_one_before_leaves_no_trace(tmp_path: Path) -> None:
    running_hook = RunningHook(tmp_path / "hook", "0123")
    running_hook.enter("chat/" + "a" * 100, "g1", 7)
    running_hook.enter("chat/b", "", 0)
    assert read_running_hook(tmp_path / "hook") == Death("0123", "chat/b")
    running_hook.close()


def test_inputs_of_one_room_differ_by_their_number_and_rooms_by_their_names(tmp_path: Path) -> None:
    running_hook = RunningHook(tmp_path / "hook", "0123")
    for room, gateway, number in (("a", "g1", 7), ("a", "g1", 8), ("a", "g2", 8), ("b", "g2", 8), ("b", "", 0)):
        running_hook.enter(f"chat/{room}", gateway, number)
        assert read_running_hook(tmp_path / "hook") == Death("0123", f"chat/{room}", gateway, number)
        running_hook.leave()
        assert read_running_hook(tmp_path / "hook") is None
    running_hook.close()


def test_a_name_that_does_not_fit_is_no_mark(tmp_path: Path) -> None:
    running_hook = RunningHook(tmp_path / "hook", "0123")
    running_hook.enter("chat/a", "g1", 7)
    running_hook.enter("x" * 600, "g1", 8)
    assert read_running_hook(tmp_path / "hook") is None
    running_hook.close()


def test_a_missing_or_damaged_file_is_nothing(tmp_path: Path) -> None:
    assert read_running_hook(tmp_path / "none") is None
    (tmp_path / "hook").write_bytes(b"\xff" * 512)
    assert read_running_hook(tmp_path / "hook") is None
