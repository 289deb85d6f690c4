"""What `docs/authentication.md` shows works as it stands there: its files are taken out of it and run with pytest."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

GUIDE = (Path(__file__).parents[2] / "docs" / "authentication.md").read_text()
OPTIONS = '[tool.pytest.ini_options]\nasyncio_mode = "auto"\npythonpath = ["."]\nfilterwarnings = ["error"]\n'
PATIENCE = 60


async def test_the_rooms_of_the_guide_do_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(OPTIONS + 'asyncio_default_fixture_loop_scope = "function"\n')
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == GUIDE.count("```python")
    for name, block in blocks:
        (tmp_path / name).write_text(block)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", cwd=tmp_path, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"4 passed" in output
