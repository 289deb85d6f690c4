"""What `verani new` makes runs: its make targets as people type them, and its page in a real browser."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.integration.browsers import _function_scoped_runner  # noqa: F401
from tests.integration.test_accessibility import faults as serious_faults
from verani_gateway.cli.new import make_project


def environment() -> dict[str, str]:
    """Have the environment of the tests active, and none of their settings."""
    found = {
        name: value for name, value in os.environ.items() if not name.startswith(("VERANI_", "MAKE", "PYTHONPATH"))
    }
    return found | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PORT": "0"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[str]:
    """Run `make serve` in a new project; give the address of its page."""
    process = await asyncio.create_subprocess_exec(
        "make", "serve", cwd=make_project("hello", tmp_path), env=environment(), stderr=PIPE, process_group=0
    )
    assert process.stderr is not None
    try:
        lines: list[str] = []
        while not (match := re.search(r"public listener: (\S+)", lines[-1] if lines else "")):
            lines.append((await process.stderr.readline()).decode())
            assert lines[-1], "".join(lines)
        reading = asyncio.create_task(process.stderr.read())
        yield match[1]
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        assert "stopped" in (await reading).decode()
        await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def test_make_test_runs_its_tests(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("make", "test"), cwd=make_project("hello", tmp_path), env=environment(), stderr=PIPE, stdout=PIPE
    )
    _, said = await process.communicate()
    assert (process.returncode, b"Ran 3 tests" in said) == (0, True), said.decode()


@pytest.mark.browser
async def test_two_windows_see_each_other_and_what_they_say(served: str, browser: Browser) -> None:
    faults: list[str] = []

    async def window(name: str) -> Page:
        page = await (await browser.new_context()).new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        await page.goto(f"{served}/?name={name}")
        await expect(page.locator("#state")).to_have_text(f"you are {name}")
        return page

    ann, bob = await window("ann"), await window("bob")
    for page in (ann, bob):
        await expect(page.locator("#people")).to_have_text("ann, bob")
    await ann.get_by_label("Say something").fill("<b>hello</b>")
    await ann.keyboard.press("Enter")
    for page in (ann, bob):
        await expect(page.locator("#said li")).to_have_text(["ann: <b>hello</b>"])
    for _ in range(30):  # more than the page has room for
        await bob.get_by_label("Say something").fill("hello")
        await bob.keyboard.press("Enter")
    await expect(ann.locator("#said li")).to_have_count(31)
    for scheme in ("light", "dark"):
        await ann.emulate_media(color_scheme=scheme)
        assert await serious_faults(ann) == []
    await bob.context.close()
    await expect(ann.locator("#people")).to_have_text("ann")
    await ann.context.close()
    assert faults == []
