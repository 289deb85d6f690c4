"""What holds tests and services to the life of their objects finds what stays."""

from __future__ import annotations

import gc
from typing import Any, cast

import pytest

from tests.lifetimes import Lifetimes, survivors
from verani.engine.audience import Membership


class Thing:
    """Something that ends."""

    itself: Thing


async def test_what_is_in_a_cycle_after_its_end_is_found() -> None:
    with Lifetimes() as lifetimes:
        thing = Thing()
        thing.itself = thing
        lifetimes.note(thing)
        del thing
        with pytest.raises(AssertionError, match=r"ended, but not gone: 1 x tests.test_lifetimes.Thing; held: a cycle"):
            await lifetimes.gone()


async def test_what_is_free_after_its_end_is_not() -> None:
    with Lifetimes() as lifetimes:
        thing = Thing()
        lifetimes.note(thing)
        lifetimes.note(thing)
        assert lifetimes.left() == ["tests.test_lifetimes.Thing"]
        del thing
        await lifetimes.gone()


def test_what_a_test_leaves_is_found_among_all_objects() -> None:
    gc.freeze()
    gc.disable()
    try:
        membership = Membership[Any]()
        membership.sessions["itself"] = cast("Any", membership)
        del membership
        assert [type(thing) for thing in survivors()] == [Membership]
    finally:
        gc.enable()
        gc.collect()
    assert survivors() == []
