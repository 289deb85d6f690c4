"""Negotiate permessage-deflate (RFC 7692): without context takeover, so that one compression serves everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import hdrs

from .headers import listed

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = ["DEFLATE", "offers_deflate"]

# What an offer is answered with; a server may ask for both whatever the client says (RFC 7692 7.1.1).
DEFLATE: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

_FLAGS: Final = frozenset({"server_no_context_takeover", "client_no_context_takeover"})
_WINDOWS: Final = frozenset(map(str, range(8, 16)))


def offers_deflate(headers: MultiMapping[str]) -> bool:
    """Tell whether a client offers a compression that can be accepted."""
    return any(map(_is_acceptable, listed(headers, hdrs.SEC_WEBSOCKET_EXTENSIONS)))


def _is_acceptable(offer: str) -> bool:
    """Decline what is unknown, twice there or out of range (RFC 7692 7.1), and any window but the largest for us."""
    name, *found = offer.split(";")
    parameters = [_parameter(each) for each in found]
    return (
        name.strip().lower() == "permessage-deflate"
        and len({key for key, _ in parameters}) == len(parameters)
        and all(map(_is_known, parameters))
    )


def _parameter(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.strip().lower(), value.strip().strip('"')


def _is_known(parameter: tuple[str, str]) -> bool:
    match parameter:
        case "client_max_window_bits", value:
            return not value or value in _WINDOWS
        case "server_max_window_bits", value:
            return value == "15"
        case key, value:
            return key in _FLAGS and not value
