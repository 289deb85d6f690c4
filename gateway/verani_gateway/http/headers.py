"""Read headers as what they are: one value, or a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verani.errors import InvalidArguments

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = ["listed", "only"]


def listed(headers: MultiMapping[str], name: str) -> list[str]:
    """Give the elements of a header that is a list: all its lines are one (RFC 9110 5.3), empty elements nothing."""
    lines = headers.getall(name, ())
    if not lines:  # as mostly
        return []
    return [bare for line in lines for element in _elements(line) if (bare := element.strip(" \t"))]


def only(headers: MultiMapping[str], name: str) -> str | None:
    """Give the value of a header that is no list, None without one; raises `InvalidArguments` for several lines."""
    lines = headers.getall(name, ())
    if not lines:
        return None
    if len(lines) > 1:
        raise InvalidArguments(f"expected one line of {name}, got {len(lines)}")
    return lines[0]


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
