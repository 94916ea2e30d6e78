"""Line charts as inline SVG, with intervals: text that a page carries, coloured by the page's style sheet.

A chart names its colours by class only (`series-1` to `series-6`, `axis`, `grid`), so that it follows the page from
light to dark. Series differ in their dashes too, since colour alone does not reach every reader.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

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


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values to places, straight: `start` lies at `at`, `stop` at `to`."""

    start: float
    stop: float
    at: float
    to: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.at + (value - self.start) / (self.stop - self.start) * (self.to - self.at)


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> str:
    """Draw series over one another.

    Args:
        series: at least one; the first `COLOURS` have colours of their own. title: what a screen reader says first.
        x_label, y_label: beside the axes, with units.

    Returns:
        An ``<svg>`` element. Its y axis starts at zero unless values are negative.

    Raises:
        ValueError: no series.
    """
    if not series:
        raise ValueError("a chart needs at least 1 series; give one")
    x_ticks = ticks(min(min(s.x) for s in series), max(max(s.x) for s in series))
    values = [value for s in series for value in (*s.y, *s.low, *s.high)]
    y_ticks = ticks(min(0.0, *values), max(values))
    xs = [value for s in series for value in s.x]
    across = widened(min(xs), max(xs))
    x = Scale(start=across[0], stop=across[1], at=LEFT, to=WIDTH - RIGHT)
    y = Scale(start=y_ticks[0], stop=y_ticks[-1], at=HEIGHT - BOTTOM, to=TOP)
    parts = [
        *axes(x, y, [tick for tick in x_ticks if across[0] <= tick <= across[1]], y_ticks),
        label(x_label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8),
        label(y_label, 18, (TOP + HEIGHT - BOTTOM) / 2, turned=True),
        *(part for index, s in enumerate(series) for part in drawn(s, index, x, y)),
    ]
    head = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described(title, series))}">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>"])


def legend(series: Sequence[Series]) -> str:
    """The series' names beside their lines, as an HTML list that wraps; empty of a single series."""
    if len(series) < 2:
        return ""
    items = (
        f'<li><svg viewBox="0 0 28 10" width="28" height="10" aria-hidden="true"><path class="line {colour(index)}" '
        f'd="M0 5H28"{dashes(index)}/></svg>{escape(s.name)}</li>'
        for index, s in enumerate(series)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


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


def axes(x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Iterator[str]:
    """Lines across at the values of y, and the numbers at both axes."""
    for tick in y_ticks:
        kind = "axis" if tick == y.start else "grid"
        yield f'<path class="{kind}" d="M{x.at:.1f} {y(tick):.1f}H{x.to:.1f}"/>'
        yield f'<text class="tick" x="{x.at - 8:.1f}" y="{y(tick) + 5:.1f}" text-anchor="end">{tick:g}</text>'
    for tick in x_ticks:
        yield f'<path class="axis" d="M{x(tick):.1f} {y.at:.1f}v5"/>'
        yield f'<text class="tick" x="{x(tick):.1f}" y="{y.at + 23:.1f}" text-anchor="middle">{tick:g}</text>'


def label(text: str, x: float, y: float, turned: bool = False) -> str:
    """An axis's name, centred at a place."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="middle"{turn}>{escape(text)}</text>'


def drawn(series: Series, index: int, x: Scale, y: Scale) -> Iterator[str]:
    """A series' band, line and points; a point says its numbers when it is pointed at."""
    places = [(x(a), y(b)) for a, b in zip(series.x, series.y, strict=True)]
    if series.low:
        ends = [*zip(series.x, series.high, strict=True), *reversed([*zip(series.x, series.low, strict=True)])]
        yield f'<path class="band {colour(index)}" d="{path((x(a), y(b)) for a, b in ends)}Z"/>'
    yield f'<path class="line {colour(index)}" d="{path(places)}"{dashes(index)}/>'
    for k, (across, down) in enumerate(places):
        said = escape(f"{series.name}: {series.y[k]:.4g} at {series.x[k]:g}{interval(series, k)}")
        place = f'cx="{across:.1f}" cy="{down:.1f}" r="3"'
        yield f'<circle class="point {colour(index)}" {place}><title>{said}</title></circle>'


def interval(series: Series, k: int) -> str:
    """The k-th interval in brackets, where there is one."""
    return f" ({series.low[k]:.4g} to {series.high[k]:.4g})" if series.low else ""


def path(places: Iterator[Point] | Sequence[Point]) -> str:
    """Straight lines through places."""
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)


def colour(index: int) -> str:
    """The class that a series is coloured by."""
    return f"series-{index % COLOURS + 1}"


def dashes(index: int) -> str:
    """The attribute that dashes a series' line; empty of the first."""
    pattern = DASHES[index % len(DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def described(title: str, series: Sequence[Series]) -> str:
    """A chart in words: how every series begins, ends, and what it spans."""
    lines = (
        f"{s.name}: from {s.y[0]:.3g} at {s.x[0]:g} to {s.y[-1]:.3g} at {s.x[-1]:g}, "
        f"between {min(s.y):.3g} and {max(s.y):.3g}"
        for s in series
    )
    return f"{title}. {'. '.join(lines)}."
