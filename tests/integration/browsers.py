"""Find Chromium, and start it once for all tests of a worker, each of which opens windows of its own.

`browser` is a fixture of the conftest: a module that imported it would have one of its own. What a test awaits of the
browser is done in the loop in which it was started. So a module that uses it imports `_function_scoped_runner`, and all
of its tests run in that one.
"""

from __future__ import annotations

import os
import shutil
from asyncio import Runner
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

__all__ = ["FLAGS", "_function_scoped_runner", "browser", "chromium"]

# What of Chromium no test needs. For each window it would load two pages behind the address bar, which cost as much as
# the window with all that a test does in it, and start a process for a page that never comes. The rest is what
# Playwright leaves out: the last such flag counts.
_LEFT_OUT = (
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "SpareRendererForSitePerProcess",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
)

# The browser of a test talks to the test's server only, and to nobody else.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
    f"--disable-features={','.join(_LEFT_OUT)}",
]


def chromium() -> str:
    """Find the browser or skip; with VERANI_TEST_BROWSER=required its absence is a failure.

    The one without windows comes first: it shows pages as the others do, for two thirds of the processor time.
    """
    for name in ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    if os.environ.get("VERANI_TEST_BROWSER") == "required":
        pytest.fail("VERANI_TEST_BROWSER=required, but no Chromium was found on PATH")
    pytest.skip("no Chromium on PATH")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
def _function_scoped_runner(_session_scoped_runner: Runner) -> Runner:
    return _session_scoped_runner  # which pytest-asyncio takes for each test, and for its fixtures
