"""Hold what the connections of a gateway share, which is all that they know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from verani.settings import Settings

from ..inputs.ingress import Ingress
from ..inputs.metrics import Metrics
from .meters import Meters
from .outbox import Writer
from .rate import Turns

__all__ = ["Facilities"]


@dataclass(frozen=True, slots=True)
class Facilities:
    """What connections use; `now` is the clock of the event loop, in seconds."""

    settings: Settings
    now: Callable[[], float]
    writer: Writer
    turns: Turns
    meters: Meters
    metrics: Metrics
    ingress: Ingress
