"""Make the suite independent of who started it, and keep together what shares a service.

A script that runs `make test &` leaves SIGINT ignored, `nohup` does so with SIGHUP, and a supervisor may have closed
standard input: children inherit all of it, and tests that send signals would wait for ever.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import pytest

from tests.netns import isolate
from tests.ports import free_port
from verani.engine.hook_run import HookRun
from verani.engine.hook_runner import Hooks
from verani.engine.waking import Waking
from verani.room import handlers

__all__ = [
    "pytest_addoption",
    "pytest_collection",
    "pytest_collection_finish",
    "pytest_configure",
    "pytest_xdist_make_scheduler",
    "unused_tcp_port",
]

ROOT: Final = Path(__file__).parents[1]

# Those that tests send, and SIGCHLD, without which nobody could wait for a child.
_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGUSR1,
    signal.SIGALRM,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the whole suite take the long way."""
    parser.addoption("--in-tasks", action="store_true", help="run every handler in a task, as if it were async")


def pytest_configure(config: pytest.Config) -> None:
    """Give every signal the disposition that a process in the foreground has, and every standard stream a file."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest one that is free is this one.
            os.open(os.devnull, os.O_RDWR)
    # aiohttp reads the authorities of the world when it is imported: a sixth of what a start of ours costs, and no test
    # speaks TLS to anybody whom they know.
    os.environ["SSL_CERT_FILE"] = os.devnull
    if hasattr(config, "workerinput"):
        # A browser loses what it loads when an address comes or goes, as it does with the machines of other workers.
        with suppress(OSError):  # and who may not do this makes no machines either
            isolate()
    if config.getoption("--in-tasks"):
        setattr(handlers, "is_async", lambda function: True)  # noqa: B010  # which it has from another module
        Hooks.begin = _begin_in_task  # type: ignore[method-assign]
        Waking.start = lambda self: self._wake  # type: ignore[method-assign]


def _begin_in_task(self: Hooks[Any, Any], which: str, run: HookRun, *arguments: Any) -> Any:
    return partial(self.run, run, self._room.definition.hooks[which], *arguments)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect without looking for garbage: nothing of what is imported and collected is any."""
    gc.disable()
    _import_ahead(session.config)
    try:
        return (yield)
    finally:
        gc.enable()


def _import_ahead(config: pytest.Config) -> None:
    """Have each worker of a whole run import other modules first: what one has compiled, all others read."""
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is None or config.args != ["tests"]:
        return
    paths = sorted(path.relative_to(ROOT) for path in ROOT.glob("tests/**/test_*.py"))
    begin = len(paths) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    for path in paths[begin:] + paths[:begin]:
        with suppress(Exception):  # which its collection says
            import_module(".".join(path.with_suffix("").parts))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about the short way where the long one is taken; mix what several workers share."""
    if config.getoption("--in-tasks"):
        left_out = [item for item in items if item.get_closest_marker("short_way") is not None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if hasattr(config, "workerinput"):
        items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, int]:
    """Mix the groups: neighbours in a file wait for the same things, and all workers would at the same time.

    What takes no time is last, so that nobody begins something long when all others are done.
    """
    path = item.nodeid
    return path.startswith("tests/verani/"), crc32(_group_of(path).encode())


def pytest_collection_finish() -> None:
    """Spare the collections at the end of tests what was imported and collected: it stays until the end."""
    gc.freeze()


@pytest.fixture
def unused_tcp_port() -> int:
    """Name a port that stays unused: what the plugins give out, the kernel may give to the test of another worker."""
    return free_port()


# Their tests share what takes seconds to start.
_SHARED: Final = (
    "tests/actors/processes/test_hardened.py",
    "tests/gateway/cli/test_new.py",
    "tests/integration/test_delivery.py",
    "tests/integration/test_machines.py",
    "tests/integration/test_packages.py",
    "tests/integration/test_strangers.py",
    "tests/test_netns.py",
)
# Theirs share a browser, of which one is enough: they wait for what it shows.
_PAGES: Final = (
    "tests/integration/test_accessibility.py",
    "tests/integration/test_chat_page.py",
    "tests/integration/test_guide_pages.py",
    "tests/integration/test_inspector_page.py",
    "tests/integration/test_new_project.py",
    "tests/integration/test_pages.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give tests that share a service to one worker of pytest-xdist, and all others to whoever is idle."""
    # Groups by mark, as `--dist loadgroup` has them, are nothing to pytest 9.2: ids of tests cannot be changed there.
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # nor has its class
        def _split_scope(self, nodeid: str) -> str:
            return _group_of(nodeid)

        def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
            super().mark_test_complete(node, item_index, duration)
            # It counts what is pending by looking at all that the worker has ever had, after each test.
            groups = self.assigned_work[node]
            group = _group_of(self.registered_collections[node][item_index])
            if all(groups[group].values()):
                del groups[group]

    return Scheduling(config, log)


def _group_of(test: str) -> str:
    path, _, name = test.partition("::")
    if path.startswith("tests/shapes/"):
        # The first parameter is the shape.
        return name.partition("[")[2].rstrip("]").partition("-")[0]
    if path in _PAGES:
        return "pages"
    return path if path in _SHARED else test
