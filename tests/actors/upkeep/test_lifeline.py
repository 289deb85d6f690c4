"""What a launcher is told of its processes, when it cannot even be told."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from verani_actors.upkeep.lifeline import Announcements


@contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.threat(61)
def test_a_process_that_cannot_be_watched_is_told_of_and_can_be_killed() -> None:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader.setblocking(False)
    with reader, writer, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        descriptor = os.pidfd_open(process.pid)
        socket.send_fds(writer, [f"{process.pid} host".encode()], [descriptor])
        os.close(descriptor)
        with no_more_files():
            (birth,) = Announcements(reader).take()
        assert (birth.pid, birth.name, birth.is_watched) == (process.pid, "host", False)
        birth.kill()
        birth.close()
        assert process.wait(10) == -9
