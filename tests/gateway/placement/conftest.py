"""A service whose parts are in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from verani.settings import Settings

if TYPE_CHECKING:
    pass

from tests.gateway.placement.cabled import Diary, Service


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
async def service(diary: Diary) -> AsyncIterator[Service]:
    service = Service(diary.room, Settings(rate_limit=0.0, drain_seconds=1.0))
    yield service
    diary.gate.set()
    await service.end()
