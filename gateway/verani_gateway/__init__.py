"""Serve rooms over WebSockets: `setup` mounts them in an aiohttp application, `verani serve` runs them alone."""

from .application import GATEWAY, setup
from .gateway import Gateway

__all__ = ["GATEWAY", "Gateway", "setup"]
