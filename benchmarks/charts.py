"""Draw curves as SVG: both axes logarithmic, so that a cost in proportion is a straight line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

__all__ = ["Points", "draw"]

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 590, 50, 385
# Told apart also by people who see fewer colours (Okabe and Ito).
_COLOURS: Final = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


class _Axis:
    """Where values are, from `low` to `high` of the drawing, over whole decades."""

    def __init__(self, values: Sequence[float], low: float, high: float) -> None:
        self._first = math.floor(math.log10(min(values)))
        self._last = max(self._first + 1, math.ceil(math.log10(max(values))))
        self._low, self._high = low, high

    def at(self, value: float) -> float:
        part = (math.log10(value) - self._first) / (self._last - self._first)
        return self._low + part * (self._high - self._low)

    @property
    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self._first, self._last + 1)]


def draw(title: str, x_name: str, y_name: str, curves: Mapping[str, Points]) -> str:
    """Return a drawing of named curves, whose values are all above 0."""
    x_axis = _Axis([x for points in curves.values() for x, _ in points], _LEFT, _RIGHT)
    y_axis = _Axis([y for points in curves.values() for _, y in points], _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 28, title, "start", 'font-size="16"'),
        *_grid(x_axis, y_axis),
        _text((_LEFT + _RIGHT) / 2, _HEIGHT - 15, x_name, "middle"),
        _text(18, (_TOP + _BOTTOM) / 2, y_name, "middle", f'transform="rotate(-90 18 {(_TOP + _BOTTOM) / 2:g})"'),
    ]
    for number, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        parts += _curve([(x_axis.at(x), y_axis.at(y)) for x, y in points], colour, thick=number == 0)
        height = _TOP + 22 * number + 6
        parts.append(f'<rect x="{_RIGHT + 16}" y="{height - 4}" width="16" height="4" fill="{colour}"/>')
        parts.append(_text(_RIGHT + 38, height + 3, name, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[str]:
    parts = []
    for tick in x_axis.ticks:
        x = x_axis.at(tick)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{_BOTTOM}" stroke="#dddddd"/>')
        parts.append(_text(x, _BOTTOM + 20, f"{tick:,g}", "middle"))
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="#dddddd"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{tick:,g}", "end"))
    return parts


def _curve(points: Points, colour: str, *, thick: bool) -> list[str]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    line = f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{3 if thick else 1.5}"/>'
    return [line, *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)]


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="#222222" {more}>{escape(text)}</text>'
