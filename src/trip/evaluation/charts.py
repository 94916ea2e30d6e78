"""Line charts as inline SVG, with intervals: text that a page carries, coloured by the page's style sheet.

A chart names its colours by class only (`series-1` to `series-6`, `axis`, `grid`), so that it follows the page from
light to dark. Series differ in their dashes too, since colour alone does not reach every reader.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from trip.evaluation.rendering import rendered

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 14, 56
"""Margins around the plotted area, in the units of the picture's width."""

SMALLEST, LARGEST = 1e-100, 1e100
"""Magnitudes that are drawn; beyond them differences leave the range of numbers."""

COLOURS = 6
DASHES = ("", "7 4", "2 4", "9 3 2 3", "12 4", "1 3")

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart.

    Attributes:
        name: in the legend. x, y: its points, in the order of x. low, high: ends of their intervals; empty: none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y), *(len(ends) for ends in (self.low, self.high) if ends)}
        if len(lengths) > 1 or not self.x or bool(self.low) != bool(self.high):
            raise ValueError(f"series {self.name!r} has lists of unequal lengths; give x, y, low and high one length")
        values = (*self.x, *self.y, *self.low, *self.high)
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"series {self.name!r} has values that are not finite; leave those points out")
        if any(0 < abs(value) < SMALLEST or abs(value) > LARGEST for value in values):
            raise ValueError(
                f"series {self.name!r} has values outside of {SMALLEST:g} to {LARGEST:g}; leave those points out"
            )
        if any(b <= a for a, b in pairwise(self.x)):
            raise ValueError(f"series {self.name!r} has x that does not rise; sort its points by x")

    @classmethod
    def of(cls, record: Any) -> "Series":
        """From JSON: ``{"name", "x", "y"}``, with ``"low"`` and ``"high"`` where there are intervals.

        Raises:
            ValueError: keys missing or unknown, unequal lengths, values that are no finite numbers.
        """
        if not isinstance(record, dict):
            raise ValueError("a series is no object; give it name, x and y")
        unknown = set(record) - {"name", "x", "y", "low", "high"}
        missing = {"name", "x", "y"} - set(record)
        if unknown or missing:
            what = f"lacks {min(missing)!r}" if missing else f"has {min(unknown)!r}"
            raise ValueError(f"a series {what}; its keys are name, x, y, and low and high for intervals")
        try:
            lists = {key: [float(value) for value in record[key] or ()] for key in record if key != "name"}
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"series {record['name']!r} has values that are no numbers; give lists of numbers"
            ) from None
        return cls(name=str(record["name"]), **lists)


@dataclass(frozen=True)
class Chart:
    """Series drawn over one another; the y axis starts at zero unless values are negative.

    Attributes:
        series: at least one; the first `COLOURS` have colours of their own. title: what a screen reader says first.
        x_label, y_label: beside the axes, with units.

    Raises:
        ValueError: no series.
    """

    series: Sequence[Series]
    title: str
    x_label: str
    y_label: str

    def __post_init__(self) -> None:
        if not self.series:
            raise ValueError("a chart needs at least 1 series; give one")

    def __html__(self) -> str:
        """The chart as an ``<svg>`` element, which templates take in as it is."""
        xs = [value for s in self.series for value in s.x]
        left, right = widened(min(xs), max(xs))
        ys = [value for s in self.series for value in (*s.y, *s.low, *s.high)]
        y_ticks = ticks(min(0.0, *ys), max(ys))
        return rendered(
            "chart.svg",
            chart=self,
            x_ticks=[tick for tick in ticks(min(xs), max(xs)) if left <= tick <= right],
            y_ticks=y_ticks,
            x=lambda value: f"{placed(value, left, right, LEFT, WIDTH - RIGHT):.1f}",
            y=lambda value: f"{placed(value, y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP):.1f}",
            colour=colour,
            dashes=dashes,
            left=LEFT,
            right=WIDTH - RIGHT,
            bottom=HEIGHT - BOTTOM,
            top=TOP,
            width=WIDTH,
            height=HEIGHT,
        )

    def legend(self) -> Markup:
        """The series' names beside their lines, as an HTML list that wraps; empty of a single series."""
        return Markup(rendered("legend.html", series=self.series, colour=colour, dashes=dashes))


def placed(value: float, start: float, stop: float, at: float, to: float) -> float:
    """The place of a value where `start` lies at `at` and `stop` at `to`."""
    return at + (value - start) / (stop - start) * (to - at)


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers, evenly spaced, that enclose an interval.

    >>> ticks(0, 0.93)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = widened(high, high)
    rough = (high - low) / (about - 1)
    digits = -math.floor(math.log10(rough))
    power = 10.0**-digits
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, digits + 12) for k in range(first, last + 1)]


def widened(low: float, high: float) -> Point:
    """The interval itself, or a little around a single value."""
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def colour(index: int) -> str:
    """The class that a series is coloured by."""
    return f"series-{index % COLOURS + 1}"


def dashes(index: int) -> str:
    """The pattern of a series' line; empty of the first."""
    return DASHES[index % len(DASHES)]
