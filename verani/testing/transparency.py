"""Prove that nobody notices a room's sleep: run one script with tear-downs at every point and compare.

It compares what clients saw and what hooks raised, neither times nor what is in the room's memory.
"""

from __future__ import annotations

import difflib
import os
import random
import warnings
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias
from unittest import mock

from ..engine.room_events import Event, Retire, Woken
from ..room.definition import RoomDefinition
from ..settings import Settings
from .harness import RoomHarness, Step

__all__ = ["Script", "assert_hibernation_transparent"]

Script: TypeAlias = Callable[[RoomHarness[Any, Any]], Awaitable[object]]

# Every number that a step can have.
_EVERYWHERE = range(1 << 62)


async def assert_hibernation_transparent(
    definition: RoomDefinition[Any, Any],
    script: Callable[[RoomHarness[Any, Any]], Awaitable[object]],
    *,
    room_id: str = "test",
    settings: Settings | None = None,
    mask: Callable[[str], str] | None = None,
) -> int:
    """Run the script without any sleep, then with a tear-down before each operation, then before all of them.

    Raises AssertionError with a diff at the first point where a client sees another thing or a hook raises another
    error than in a room that never sleeps, and if the room was busy at every point, so that nothing was shown. What
    the script itself raises without a tear-down is raised as it is. Returns how many points were tried.

    Before each operation hooks have a second of real time to return. Where one runs on, or a spawned task does, there
    is no tear-down: a UserWarning names these points. `keep_awake` is the room's own wish and needs none.

    Each run has a room of its own. But for the last run, with its tear-downs everywhere, `RoomHarness.hibernate`
    does nothing and `advance` lets no room sleep, so a difference is the fault of one point. What `uuid.uuid4`,
    `os.urandom`, `secrets` and the functions of `random` return is the same in every run; for other texts that differ
    from run to run, such as times of day, `mask` is given every frame before it is compared.
    """

    if not isinstance(definition, RoomDefinition) or not callable(script):
        raise TypeError("assert_hibernation_transparent: expected a room definition, then an async function (room)")

    async def run(sleeps: Container[int], busy: Mapping[int, str], *, by_itself: bool = False) -> _Run:
        room = _Run(definition, room_id=room_id, settings=settings, sleeps=sleeps, busy=busy, by_itself=by_itself)
        await room.perform(script)
        return room

    awake = await run((), {})
    if awake.failure is not None:
        raise awake.failure
    labels = [step.label for step in awake.steps]
    missed = dict(awake.kept_awake)
    tried = 0
    for point in range(1, len(labels)):
        if point in awake.kept_awake:
            continue
        asleep = await run((point,), awake.kept_awake)
        if asleep.tear_downs:
            tried += 1
            _compare(awake, asleep, f"after: {labels[point - 1]}; before: {labels[point]}", mask)
        elif point in asleep.kept_awake:  # it was not in the first run: something real took longer
            missed[point] = asleep.kept_awake[point]
    if not tried:
        told = f"busy at every point:{_tell(labels, missed)}"
        raise AssertionError(f"{definition.name}: expected a room that can sleep, but it was {told}")
    _compare(awake, await run(_EVERYWHERE, awake.kept_awake, by_itself=True), "before every operation", mask)
    if unwanted := {point: reason for point, reason in missed.items() if reason != "keep_awake"}:
        told = _tell(labels, unwanted)
        text = f"{definition.name}: nothing is known of the sleep of the room where it was busy:{told}"
        warnings.warn(text, UserWarning, stacklevel=2)
    return tried


def _tell(labels: list[str], missed: Mapping[int, str]) -> str:
    return "".join(f"\n    before: {labels[point]} ({reason})" for point, reason in sorted(missed.items()))


def _compare(awake: _Run, asleep: _Run, point: str, mask: Callable[[str], str] | None) -> None:
    if awake.outcome(mask) == asleep.outcome(mask):
        return
    diff = difflib.unified_diff(
        awake.transcript(mask), asleep.transcript(mask), "never asleep", f"asleep {point}", lineterm=""
    )
    text = f"{awake.definition.name}: the sleep of the room is visible; asleep {point}\n" + "\n".join(diff)
    raise AssertionError(text) from asleep.failure


class _Run(RoomHarness[Any, Any]):
    """One run of a script, with a tear-down before the operations that `sleeps` names.

    `busy` holds those before which an earlier run has waited in vain.
    """

    def __init__(
        self, *arguments: Any, sleeps: Container[int], busy: Container[int], by_itself: bool, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.failure: Exception | None = None
        self.tear_downs = 0
        # Before which operations something kept the room awake, and what.
        self.kept_awake: dict[int, str] = {}
        self._sleeps = sleeps
        self._busy = busy
        # Whether the room sleeps by its clock, too: where it does not, a difference is that of one known point.
        self._runner.hibernates = by_itself
        self._random = random.Random()
        self._handled = 0

    @property
    def steps(self) -> list[Step]:
        """The operations so far and what clients saw of them."""
        return self._steps

    async def perform(self, script: Script) -> None:
        """Run the script; what it raises is kept in `failure`."""
        with self._repeatable():
            try:
                await script(self)
                await self._begin("the script ended")
                await self._runner.lives.settle()
            except Exception as error:  # a failure of the script is a difference like any other  # noqa: BLE001
                self.failure = error
            finally:
                await self.close()

    async def _begin(self, label: str) -> Step:
        # In every run, so that each event belongs to the same operation in all of them.
        if len(self._steps) in self._busy:
            await self._runner.lives.settle()
        else:
            await self._runner.lives.be_patient()
        step = len(self._steps)
        self._seed(f"{step}")
        reason = self._runner.lives.kept_awake_by() if self.awake else None
        if reason is not None:
            self.kept_awake[step] = reason
        elif step in self._sleeps and self.awake:
            await self._runner.lives.tear_down()
            self.tear_downs += 1
        self._handled = 0
        self._seed(f"{step}")
        return await super()._begin(label)

    # --- the same random numbers in every run ----------------------------------------------------------

    def _handles(self, event: Event) -> None:
        """Draw from a sequence of this event's own: what a wake draws must not shift what follows."""
        if isinstance(event, Woken | Retire):
            self._seed(f"{len(self._steps)}/{type(event).__name__}")
        else:
            self._handled += 1
            self._seed(f"{len(self._steps)}/{self._handled}")

    def _seed(self, text: str) -> None:
        self._random.seed(text)
        random.seed(text)

    @contextmanager
    def _repeatable(self) -> Iterator[None]:
        before = random.getstate()
        try:
            # `SystemRandom`, and with it `secrets`, has a name of its own for the function.
            with (
                mock.patch.object(os, "urandom", self._random.randbytes),
                mock.patch.object(random, "_urandom", self._random.randbytes),
            ):
                yield
        finally:
            random.setstate(before)

    # --- what came of it -------------------------------------------------------------------------------

    def outcome(self, mask: Callable[[str], str] | None) -> tuple[Any, ...]:
        """Return what every client saw, in its order, whatever the operation it came with."""
        seen: dict[str, list[str]] = {}
        for step in self._steps:
            for who, what in step.seen:
                seen.setdefault(who, []).append(mask(what) if mask is not None else what)
        return seen, repr(self.failure)

    def transcript(self, mask: Callable[[str], str] | None) -> list[str]:
        """Tell the run in lines: each operation, then what each client saw."""
        lines: list[str] = []
        for step in self._steps:
            lines.append(step.label)
            # By client: which of two clients is written to first is nothing that either can see.
            for who, what in sorted(step.seen, key=lambda item: item[0]):
                lines.append(f"    {who}: {mask(what) if mask is not None else what}")
        if self.failure is not None:
            lines.append(f"the script raised {self.failure!r}")
        return lines
