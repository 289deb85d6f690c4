from __future__ import annotations

import asyncio

import pytest

from verani.engine.mailbox import Mailbox


async def test_events_are_handled_one_after_the_other_in_the_order_in_which_they_were_put() -> None:
    log: list[str] = []

    async def handle(event: str) -> bool:
        log.append(f"{event} begins")
        await asyncio.sleep(0)
        log.append(f"{event} ends")
        return True

    mailbox = Mailbox(handle)
    mailbox.put("a")
    mailbox.put("b")
    await mailbox.until_quiet()
    mailbox.put("c")
    assert not mailbox.is_quiet
    await mailbox.until_quiet()
    assert log == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]
    assert mailbox.is_quiet


async def test_the_rest_is_handled_although_a_hook_never_ends_and_its_task_takes_nothing_more() -> None:
    log: list[tuple[str, asyncio.Task[None] | None]] = []
    ends = asyncio.Event()

    async def handle(event: str) -> bool:
        log.append((event, asyncio.current_task()))
        if event == "stubborn":
            await ends.wait()
            return False
        return True

    mailbox = Mailbox(handle)
    mailbox.put("stubborn")
    mailbox.put("next")
    stubborn = mailbox.worker
    assert stubborn is not None
    await asyncio.sleep(0)
    mailbox.resume()
    await mailbox.until_quiet()
    assert log == [("stubborn", stubborn), ("next", mailbox.worker)]
    assert stubborn is not mailbox.worker
    mailbox.put("last")
    ends.set()
    await stubborn
    await mailbox.until_quiet()
    assert log[2:] == [("last", mailbox.worker)]


async def test_an_event_that_is_put_back_is_handled_again_before_the_others() -> None:
    log: list[str] = []

    async def handle(event: str) -> bool:
        if not log:
            mailbox.put_back(event)
        log.append(event)
        return True

    mailbox: Mailbox[str] = Mailbox(handle)
    mailbox.put("a")
    mailbox.put("b")
    await mailbox.until_quiet()
    assert log == ["a", "a", "b"]


async def test_what_handling_raises_is_raised_by_check_and_all_tasks_end_with_the_mailbox() -> None:
    async def handle(event: BaseException | None) -> bool:
        if event is not None:
            raise event
        await asyncio.Event().wait()
        return True

    mailbox = Mailbox(handle)
    mailbox.put(ValueError("a bug"))
    await mailbox.until_quiet()
    with pytest.raises(ValueError, match="a bug"):
        mailbox.check()
    mailbox.put(None)
    await asyncio.sleep(0)
    mailbox.resume()
    mailbox.put(None)
    await mailbox.end(patience=10)
    assert all(task.cancelled() for task in mailbox.abandoned)
    assert mailbox.worker is not None
    assert mailbox.worker.cancelled()
