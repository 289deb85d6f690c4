"""What the README shows works as it stands there: its code is taken out of it and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guide import ROOT, Guide, run_python

if TYPE_CHECKING:
    from tests.integration.conftest import Serve

README = Guide("README.md")
ADDRESS = "ws://127.0.0.1:8000"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Save what the README says to save."""
    README.save(tmp_path)
    return tmp_path


def test_the_thirty_lines_are_those_of_the_example() -> None:
    room = README.files()["chat.py"].text.partition("\n")[2]
    imports, separator, lines = room.partition("chat = define_room")
    lines = separator + lines
    example = (ROOT / "examples" / "chat.py").read_text()
    assert lines in example
    assert all(line in example for line in imports.splitlines())
    assert len(lines.splitlines()) <= 30


async def test_the_room_is_served_and_the_client_talks_to_it(serve: Serve, project: Path) -> None:
    server = await serve("chat:chat", directory=project)
    script = project / "ann.py"
    assert ADDRESS in script.read_text()
    script.write_text(script.read_text().replace(ADDRESS, server.ws))
    printed = re.search(r"`python ann\.py` prints `(.*)`:$", README.text, flags=re.MULTILINE)
    assert printed is not None
    assert await run_python(project, "-W", "error", "ann.py") == (0, printed[1] + "\n")
    assert await server.stop() == 0


def row(text: str, start: str) -> dict[str, str]:
    """Find a row of a table by how its first cell begins; return its cells by the heads of the table."""
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"| {start}"))
    top = next(number for number in range(at, 0, -1) if lines[number].startswith("|--"))
    heads, cells = ([cell.strip() for cell in lines[number].strip("|").split("|")] for number in (top - 1, at))
    return dict(zip(heads, cells, strict=True))


@pytest.mark.parametrize(
    ("here", "there"), [("CPU of an echo", "echo"), ("CPU of a delivery in a room of 1,000", "fan-out")]
)
def test_the_figures_of_the_comparison_are_those_that_were_measured(here: str, there: str) -> None:
    performance = Guide("docs/performance.md").text
    ours, measured = row(README.text, here), row(performance, there)
    for peer, column in {"Socket.IO": "Socket.IO on Node", "python-socketio": "python-socketio"}.items():
        ratio = float(measured[column])
        shown = float(ours[peer].removeprefix("about "))
        # The ratio is rounded to hundredths, so what it is one of lies between these two.
        assert 1 / (ratio + 0.005) <= shown <= 1 / (ratio - 0.005), peer
    dates = [re.findall(r"measured on (\d{4}-\d\d-\d\d)", text, re.IGNORECASE) for text in (README.text, performance)]
    assert dates[0]
    assert dates[0] == dates[1]


def test_the_first_success_is_on_the_first_screen() -> None:
    assert "make serve" in "\n".join(README.text.splitlines()[:10])
