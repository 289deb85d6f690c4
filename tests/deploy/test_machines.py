"""The machines of the compose file are a service: started as they are written there, in a network of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.files import ROOT, Tool


def test_the_machines_of_the_compose_file_serve_rooms_and_drain(tool: Tool, tmp_path: Path) -> None:
    unshare = tool("unshare", package="Debian's util-linux")
    tool("ip", package="Debian's iproute2")
    for name in ("cluster_secret", "rpc_token", "admin_token"):
        (tmp_path / name).write_text(f"a-secret-for-the-test-{name}\n")
    # With the namespaces goes whatever is left in them.
    separately = [unshare, "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*separately, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make network namespaces")
    done = subprocess.run(
        [*separately, sys.executable, "-m", "tests.deploy.machines", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
