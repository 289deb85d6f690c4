"""Serve rooms over WebSockets: `setup` mounts them in an aiohttp application, `verani serve` runs them alone.

What is named here is imported when it is first used: the command line has to obey signals before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .application import GATEWAY, setup
    from .gateway import Gateway

__all__ = ["GATEWAY", "Gateway", "setup"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import application, gateway

    globals().update(GATEWAY=application.GATEWAY, setup=application.setup, Gateway=gateway.Gateway)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
