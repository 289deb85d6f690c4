"""Judge every test of a folder by `tests.lifetimes`: its conftest imports these three names.

A module says in `UNJUDGED` why what its tests leave is not this project's; what ends while they run is judged all the
same.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Generator, Iterator
from typing import Any, Final

import pytest

from tests.lifetimes import Lifetimes, clear_frames, counted, describe, held, survivors

__all__ = ["lifetimes", "pytest_runtest_call", "settled"]


@pytest.fixture(autouse=True)
def lifetimes(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Lifetimes]:
    """Fail a test that leaves anything of what it has made."""
    gc.freeze()
    with Lifetimes() as lifetimes:
        yield lifetimes
        (request.node.funcargs or {}).clear()  # pytest would keep the fixtures a little longer
        _forget_logged(caplog)
        is_judged = not request.node.stash.get(_failed, False) and not hasattr(request.module, "UNJUDGED")
        left = survivors() if is_judged else []
    gc.collect()  # what the next test freezes stays until the end
    assert not left, f"left when the test was over: {counted(map(describe, left))}; held: {held(left)}"


def _forget_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Have pytest keep what was logged as text, without the exceptions and objects that it was about."""
    for record in (*caplog.get_records("setup"), *caplog.get_records("call"), *caplog.get_records("teardown")):
        record.msg, record.args, record.exc_info = record.getMessage(), None, None


# A test that has failed keeps its frames, and all that they know.
_failed: Final = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Ask what is left of what has ended before the fixtures end the rest."""
    item.stash[_failed] = True
    result = yield
    item.stash[_failed] = False
    if isinstance(item, pytest.Function) and asyncio.iscoroutinefunction(item.function):
        item._request.getfixturevalue("settled")
    return result


@pytest.fixture
async def settled(lifetimes: Lifetimes, caplog: pytest.LogCaptureFixture) -> None:
    """Fail if anything is left of what has ended, while all the rest lives on."""
    _forget_logged(caplog)
    clear_frames()
    await lifetimes.gone()
