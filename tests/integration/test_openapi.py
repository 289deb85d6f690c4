"""Schemathesis calls a service by its own description: what fits is accepted, what does not is refused."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guide import run_python

if TYPE_CHECKING:
    from tests.integration.conftest import Serve

# `make fuzz` tries more.
EXAMPLES = os.environ.get("VERANI_FUZZ_EXAMPLES", "5")

# Numbers are left out: JSON Schema takes 7.0 for an integer, msgspec does not.
APP = """
from typing import Annotated, Literal
from msgspec import Meta, Struct
from verani import Forbidden, define_room

Reason = Annotated[str, Meta(min_length=1, max_length=20)]

class Ban(Struct):
    user_id: str
    until: Literal["today", "tomorrow"] = "today"
    reasons: Annotated[list[Reason], Meta(max_length=3)] = []
    by: str | None = None

desk = define_room("desk", hibernate_after=0.05)

@desk.rpc
async def ban(actor, ban: Ban, quietly: bool = False) -> dict[str, str]:
    return {ban.user_id: ban.until}

@desk.rpc
def refuse(actor, why: str | None = None) -> None:
    raise Forbidden("no")
"""

# A deadline of a millisecond may well be over in time. HTTP lets anybody send headers that nobody knows; the coverage
# phase takes that for an error.
CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]

[phases.coverage.checks.negative_data_rejection]
enabled = false
"""

TOKEN = "the-token-of-the-test"


@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed")
@pytest.mark.timeout(600)
async def test_the_listener_does_what_its_description_says(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "desk_app.py").write_text(APP)
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    server = await serve("desk_app:desk", directory=tmp_path, environ={"VERANI_RPC_TOKEN": TOKEN})
    url = f"{server.internal}/openapi.json"
    header = ("-H", f"Authorization: Bearer {TOKEN}")
    options = ("--phases=coverage,fuzzing", f"--max-examples={EXAMPLES}", "--no-color")
    code, output = await run_python(tmp_path, "-m", "schemathesis.cli", "run", url, *header, *options, patience=500)
    assert code == 0, output
    assert "10 selected / 10 total" in output
    assert not [line for line in server.lines if "ERROR" in line or "Traceback" in line]
    assert await server.stop() == 0
