"""Decide who may reach a listener: origins, host names, loopback, and whose forwarding headers count.

Pure functions of text: nothing here opens a socket, resolves a name or reads a setting by itself.
What cannot be parsed is refused, or ignored where ignoring it is the safe side.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import islice, starmap, zip_longest
from typing import TYPE_CHECKING, NamedTuple

from verani.errors import InvalidArguments

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = [
    "ANY",
    "FORWARDING",
    "UNIX",
    "Client",
    "client_of",
    "host_allowed",
    "is_host_name",
    "is_host_pattern",
    "is_loopback",
    "is_origin",
    "is_proxy",
    "is_unspecified",
    "listed",
    "only",
    "origin_allowed",
    "public_host_allowed",
]

# The entry of `allowed_origins` and `public_hosts` that switches the check off.
ANY = "*"

# What a peer over a Unix socket is called, and how `trusted_proxies` names all of them.
UNIX = "unix"

_X_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")

# The headers in which proxies tell what they saw.
FORWARDING = (*_X_FORWARDED, "Forwarded")

# A longer chain is none: whoever wants to keep this process busy pretends it.
_MOST_PROXIES = 32

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# `fullmatch` only: `$` would let a trailing newline pass. User info, paths and empty ports never match.
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
# An address, an IPv6 one in brackets where a port follows; a port may be obfuscated (RFC 7239 6).
_NODE = re.compile(
    r"\[([0-9a-fA-F:.]+)\](?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?|([0-9.]+):(?:[0-9]{1,5}|_[A-Za-z0-9._-]+)"
)
# One parameter of an element of `Forwarded` (RFC 7239 4), or none. Its value is quoted or a token; not every proxy
# quotes what has a colon.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_PARAMETER = re.compile(rf'[ \t]*(?:({_TOKEN}+)=(?:((?:{_TOKEN}|[:\[\]])+)|"((?:[^"\\]|\\.)*)")[ \t]*)?(?:;|\Z)')

# Some proxies name the scheme of a WebSocket request by its own name.
_HTTP_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


class _Authority(NamedTuple):
    host: str
    port: int | None


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


# What a page without an origin of its own sends: a sandboxed frame, a file in some browsers.
_OPAQUE = _Origin("null", "", None)


class Client(NamedTuple):
    """Where a request came from, as far as trusted proxies tell.

    `address` is what the outermost trusted proxy saw, or the peer itself; None for a peer that is gone. `scheme` is
    "http" or "https", `host` the host and port that were asked for. `is_told` is whether a trusted proxy said anything:
    no page can have a browser say it when it opens a WebSocket.
    """

    address: str | None
    scheme: str
    host: str | None
    is_told: bool


# --- headers ---------------------------------------------------------------------------------------------


def listed(headers: MultiMapping[str], name: str) -> list[str]:
    """Give the elements of a header that is a list: all its lines are one (RFC 9110 5.3), empty elements nothing."""
    elements = (element.strip(" \t") for line in headers.getall(name, ()) for element in _elements(line))
    return [element for element in elements if element]


def only(headers: MultiMapping[str], name: str) -> str | None:
    """Give the value of a header that is no list, None without one; raises `InvalidArguments` for several lines."""
    lines = headers.getall(name, ())
    if len(lines) > 1:
        raise InvalidArguments(f"expected one line of {name}, got {len(lines)}")
    return lines[0] if lines else None


def _elements(line: str) -> list[str]:
    """Split at commas that are in no quoted string.

    From the right, because that is where the nearest proxy wrote: a quote that a client left open swallows nothing.
    """
    if '"' not in line:
        return line.split(",")
    elements, end, is_quoted = [], len(line), False
    for at in range(len(line) - 1, -1, -1):
        if line[at] == '"' and not _is_escaped(line, at):
            is_quoted = not is_quoted
        elif line[at] == "," and not is_quoted:
            elements.append(line[at + 1 : end])
            end = at
    return [*elements, line[:end]][::-1]


def _is_escaped(line: str, at: int) -> bool:
    backslashes = 0
    while at > backslashes and line[at - backslashes - 1] == "\\":
        backslashes += 1
    return backslashes % 2 == 1


# --- origins ---------------------------------------------------------------------------------------------


def origin_allowed(origin: str | None, host: str | None, *, secure: bool, allowed: tuple[str, ...]) -> bool:
    """Say whether a request with this `Origin` may go on.

    No `Origin` is not a browser and is allowed. Otherwise scheme, host and port must equal those of the
    request itself (`host` is its `Host`, `secure` whether it came over TLS) or of an entry of `allowed`, in which
    ``*.`` stands for one or more names. Opaque origins, which pages of all sites share, are allowed by name only.
    """
    if origin is None or ANY in allowed:
        return True
    asked = _parse_origin(origin)
    if asked is None:
        return False
    own = _parse_origin(f"{'https' if secure else 'http'}://{host}") if host else None
    return asked == own or any(_is_covered(asked, entry) for entry in _entries(allowed))


def is_origin(text: str) -> bool:
    """Say whether `text` may stand in `allowed_origins`."""
    return text == ANY or _parse_entry(text) is not None


def _parse_origin(text: str) -> _Origin | None:
    if text == "null":
        return _OPAQUE
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or not scheme.isascii() or not _SCHEME.fullmatch(scheme):
        return None
    if rest in ("", ".") and scheme not in _DEFAULT_PORTS:  # file:// has no host
        return _Origin(scheme, "", None)
    authority = _parse_authority(rest)
    if authority is None:
        return None
    return _Origin(scheme, authority.host, authority.port or _DEFAULT_PORTS.get(scheme))


def _parse_entry(text: str) -> _Origin | None:
    """Read an entry of `allowed_origins`; the host of a pattern begins with a dot."""
    if text.endswith("/") and not text.endswith("://"):
        text = text[:-1]
    scheme, separator, rest = text.partition("://")
    if not rest.startswith("*."):
        return _parse_origin(text)
    origin = _parse_origin(f"{scheme}{separator}{rest[2:]}")
    if origin is None or not _is_name(origin.host):
        return None
    return origin._replace(host=f".{origin.host}")


@lru_cache(maxsize=16)
def _entries(allowed: tuple[str, ...]) -> tuple[_Origin, ...]:
    # An entry that does not parse allows nobody; the configuration refuses it beforehand.
    return tuple(origin for entry in allowed if (origin := _parse_entry(entry)) is not None)


def _is_covered(asked: _Origin, entry: _Origin) -> bool:
    return asked == entry._replace(host=asked.host) and _matches(asked.host, entry.host)


def _matches(host: str, pattern: str) -> bool:
    """Say whether a host is the one named, or below it where the pattern begins with a dot."""
    return host == pattern or (pattern.startswith(".") and host.endswith(pattern))


# --- names of a listener ---------------------------------------------------------------------------------


def host_allowed(host: str | None, *, bound: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> bool:
    """Say whether a `Host` header names this listener: loopback, an address it is bound to, or an extra name.

    That is what stops DNS rebinding, where a site's own name is made to resolve to this machine.
    The port is not compared: port forwarding changes it.
    """
    authority = _parse_authority(host) if host else None
    if authority is None:
        return False
    # Browsers send names below localhost nowhere else (RFC 6761 6.3).
    if ANY in extra or is_loopback(authority.host) or authority.host.endswith(".localhost"):
        return True
    names = {_normal_host(name) for name in (*extra, *bound)}
    return any(_matches(authority.host, name) for name in names) and not is_unspecified(authority.host)


def public_host_allowed(host: str | None, local: str, *, bound: tuple[str, ...], extra: tuple[str, ...]) -> bool:
    """Say whether a `Host` header may name the public listener, to which a request came at the address `local`.

    With `extra` it must be one of these, loopback or an own address. Without, any name will do, except at loopback:
    who listens there, and not also everywhere, relies on being reached by this machine only. `bound` are the hosts
    that are listened on, empty where somebody else knows.
    """
    if not extra and not (is_loopback(local) and not any(map(is_unspecified, bound))):
        return True
    return host_allowed(host, bound=(*bound, local), extra=extra)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a listener on `host`; an empty host, "all", is not."""
    if host.lower() in ("localhost", "localhost."):
        return True
    address = _parse_address(host.removeprefix("[").removesuffix("]"))
    return address is not None and address.is_loopback


def is_unspecified(host: str) -> bool:
    """Say whether a listener on `host` is one on every address of its family."""
    address = _parse_address(host.removeprefix("[").removesuffix("]"))
    return address is not None and address.is_unspecified


def is_host_name(text: str) -> bool:
    """Say whether `text` may stand in `internal_hosts`: a name or address without scheme and port."""
    return _parse_address(text) is not None or (
        (authority := _parse_authority(text)) is not None and authority.port is None
    )


def is_host_pattern(text: str) -> bool:
    """Say whether `text` may stand in `public_hosts`: as `is_host_name`, after ``*.`` if it is a name, or ``*``."""
    if text.startswith("*."):
        return is_host_name(text[2:]) and _is_name(_normal_host(text[2:]))
    return text == ANY or is_host_name(text)


# --- proxies ---------------------------------------------------------------------------------------------


def client_of(peer: str | None, headers: MultiMapping[str], trusted: tuple[str, ...], *, scheme: str) -> Client:
    """Find out where a request came from; `peer` is the address of the connection, or `UNIX`, `scheme` its own.

    What proxies have added is read from right to left, as long as who added it is trusted: everything left of the
    first untrusted address is that client's own claim. Of scheme and host the last one read counts, so that the
    outermost trusted proxy has the last word. A malformed address ends the reading.
    """
    address, networks = _parse_address(peer) if peer is not None else None, _networks(trusted)
    is_trusted = _is_in(address, networks) or (peer == UNIX and UNIX in trusted)
    told = Client(
        address=str(address) if address is not None else peer,
        scheme=scheme,
        host=headers.get("Host"),
        is_told=is_trusted and any(name in headers for name in FORWARDING),
    )
    for claim in islice(_claims(headers), _MOST_PROXIES) if is_trusted else ():
        address = _parse_node(claim.node)
        told = Client(
            address=str(address) if address is not None else told.address,
            scheme=_HTTP_SCHEMES.get(claim.scheme.lower(), told.scheme),
            host=claim.host if _parse_authority(claim.host) is not None else told.host,
            is_told=True,
        )
        if not _is_in(address, networks):
            break
    return told


def is_proxy(text: str) -> bool:
    """Say whether `text` may stand in `trusted_proxies`: an IP address or network, or `UNIX`."""
    return text == UNIX or _parse_network(text) is not None


class _Claim(NamedTuple):
    """What one proxy wrote; empty where it did not say."""

    node: str = ""
    scheme: str = ""
    host: str = ""


def _claims(headers: MultiMapping[str]) -> Iterator[_Claim]:
    """Give what proxies wrote, the nearest first; `Forwarded` only where none of the older headers is."""
    if any(name in headers for name in _X_FORWARDED):
        columns = (reversed(listed(headers, name)) for name in _X_FORWARDED)
        yield from starmap(_Claim, zip_longest(*columns, fillvalue=""))
        return
    for element in reversed(listed(headers, "Forwarded")):
        parameters = _parameters(element)
        if parameters is None:
            return
        yield _Claim(parameters.get("for", ""), parameters.get("proto", ""), parameters.get("host", ""))


def _parameters(element: str) -> dict[str, str] | None:
    """Read one element of `Forwarded`, None where it is malformed."""
    found: dict[str, str] = {}
    at = 0
    while at < len(element):
        match = _PARAMETER.match(element, at)
        if match is None:
            return None
        at = match.end()
        if match[1] is None:
            continue
        name, value = match[1].lower(), match[2] if match[3] is None else re.sub(r"\\(.)", r"\1", match[3])
        if name in found:
            return None
        found[name] = value
    return found


def _parse_node(text: str) -> _Address | None:
    match = _NODE.fullmatch(text)
    return _parse_address((match[1] or match[2]) if match else text)


# --- addresses -------------------------------------------------------------------------------------------


def _parse_authority(text: str) -> _Authority | None:
    # Lower-casing turns some letters outside ASCII (the Kelvin sign) into letters inside it.
    match = _AUTHORITY.fullmatch(text.lower()) if text.isascii() else None
    if match is None:
        return None
    host, port = match[1], int(match[2]) if match[2] else None
    if port is not None and not 0 < port <= 65535:
        return None
    if not host.startswith("["):
        host = host.removesuffix(".")  # the root, which a name may be spelled with
        return _Authority(host, port) if all(host.split(".")) else None
    address = _parse_address(host[1:-1])
    return None if address is None else _Authority(_normal_host(host), port)


def _is_name(host: str) -> bool:
    """Tell a name from an address and the end of one, as browsers do: by its last part."""
    return bool(host) and ":" not in host and not host.rpartition(".")[2].isdigit()


def _normal_host(host: str) -> str:
    """Spell a host as `_parse_authority` does, a pattern as `_matches` takes it.

    Lower case, without the last dot, an IPv6 address in brackets and shortest form.
    """
    address = _parse_address(host.removeprefix("[").removesuffix("]"))
    if address is None:
        return host.lower().removesuffix(".").removeprefix("*")
    return f"[{address}]" if address.version == 6 else str(address)


def _parse_address(text: str) -> _Address | None:
    """Parse an IP address; one that is mapped into IPv6 is its IPv4 self, a zone index is dropped."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _parse_network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _networks(trusted: tuple[str, ...]) -> tuple[_Network, ...]:
    # An entry that does not parse trusts nobody; the configuration refuses it beforehand.
    return tuple(network for entry in trusted if (network := _parse_network(entry)) is not None)


def _is_in(address: _Address | None, networks: tuple[_Network, ...]) -> bool:
    return address is not None and any(address in network for network in networks)
