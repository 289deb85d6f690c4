"""What is measured of a process is of that process, also where it was forked from another."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, time
from verani_actors.operating.measures import process_metrics

def started():
    return next(each for each in process_metrics() if each.name == "process_start_time_seconds").samples[0].value

first, begun = started(), time.time()
time.sleep(0.3)
if os.fork() == 0:
    print(begun - first, started() - begun, flush=True)
    os._exit(0)
os.wait()
print(started() - first, 0)
"""


def test_a_process_that_was_forked_began_with_its_fork() -> None:
    output = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    (imported, forked), (moved, _) = (map(float, line.split()) for line in output.splitlines())
    assert imported >= 0
    assert 0.25 < forked < 5
    assert moved == 0
