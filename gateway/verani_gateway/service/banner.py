"""Say once, for a whole service, that it is ready, and where: addresses that can be clicked.

A log gets a line for each; a terminal gets them together, with the same words, so that whatever reads one reads both.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from verani.settings import Settings
from verani.version import __version__
from verani_actors.upkeep.log_lines import printable
from verani_actors.upkeep.logs import writes_json

from ..http.host_port import is_loopback

__all__ = ["Served", "announce", "warn_of_public"]

logger = logging.getLogger(__name__)

_WILDCARDS: Final = (("://0.0.0.0:", "://127.0.0.1:"), ("://[::]:", "://[::1]:"))


class Served(Struct, frozen=True):
    """One room definition, told to who does not import it; `address` is MODULE:NAME, empty where none is needed."""

    name: str
    path: str
    is_public: bool
    address: str = ""


def announce(public: Sequence[str], internal: Sequence[str], served: Sequence[Served], settings: Settings) -> None:
    """Name all addresses of both listeners, and warn of rooms that believe whatever clients say."""
    places = list(_places(public, internal, served, settings))
    if sys.stderr is not None and sys.stderr.isatty() and logger.isEnabledFor(logging.INFO) and not writes_json():
        sys.stderr.write(_banner(places))
    else:
        for label, url, definition in places:
            logger.info("%s: %s", label, url, extra={"url": url, "definition": definition})
    warn_of_public(served, settings)


def _places(
    public: Sequence[str], internal: Sequence[str], served: Sequence[Served], settings: Settings
) -> Iterator[tuple[str, str, str]]:
    """Give what there is, where it is, and the room definition if it is one."""
    for url in public:
        yield "public listener", url, ""
    rooms_at = public[0].replace("http", "ws", 1) if settings.unix_socket is None else ""
    for each in served:
        yield f"room definition {each.name}", rooms_at + each.path, each.name
    for url in internal:
        yield "internal listener", url, ""
    yield "inspector", f"{internal[0]}/inspector/", ""


def _banner(places: Sequence[tuple[str, str, str]]) -> str:
    width = max(len(label) for label, _, _ in places)
    lines = (f"  {printable(label):>{width}}: {printable(_clickable(url))}\n" for label, url, _ in places)
    return f"\n  Verani {__version__}\n\n{''.join(lines)}\n  Ctrl-C stops it.\n\n"


def _clickable(url: str) -> str:
    """Name this machine where an address means all of its own: no browser can go there."""
    for wildcard, loopback in _WILDCARDS:
        url = url.replace(wildcard, loopback, 1)
    return url


def warn_of_public(served: Sequence[Served], settings: Settings) -> None:
    """Warn of rooms that believe whatever clients say, where others than this machine's can reach them."""
    public = [each.name for each in served if each.is_public]
    reached = [host for host in settings.public_addresses if not is_loopback(host)]
    if public and reached and settings.unix_socket is None:
        logger.warning(
            "host %s is reachable from other machines, and without extract_meta clients may claim any user id in: %s",
            ", ".join(reached),
            ", ".join(public),
        )
