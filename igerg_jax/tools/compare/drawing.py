"""Coordinates of the comparison's scatter plot and overlaid curves, in the units of an SVG."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from igerg_jax.report import charts
from igerg_jax.report.templates import finite
from igerg_jax.tools.compare.table import Cell

Ticks = list[tuple[float, float]]  # (place on the axis, value)


class Box(NamedTuple):
    """A drawing's size and the edges of its plot, in user units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


SCATTER = Box(width=720, height=400, left=56, right=700, top=14, bottom=356)
LETTER_WIDTH, LINE_HEIGHT = 6.6, 14  # of the names in it, in user units
CURVES = Box(charts.WIDTH, charts.HEIGHT, charts.LEFT, charts.RIGHT, charts.TOP, charts.BOTTOM)


class Axes:
    """The scales of a plot that shows the given ranges."""

    def __init__(self, box: Box, x: tuple[float, float], y: tuple[float, float]):
        self._box, self._x, self._y = box, _wide(x), _wide(y)

    def x(self, value: float) -> float:
        (low, high), box = self._x, self._box
        return round(box.left + (value - low) / (high - low) * (box.right - box.left), 1)

    def y(self, value: float) -> float:
        (low, high), box = self._y, self._box
        value = min(max(value, low), high)
        return round(box.bottom - (value - low) / (high - low) * (box.bottom - box.top), 1)

    def x_ticks(self, count: int) -> Ticks:
        return [(self.x(value), value) for value in charts.ticks(*self._x, count)]

    def y_ticks(self, count: int) -> Ticks:
        return [(self.y(value), value) for value in charts.ticks(*self._y, count)]


class Rectangle(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Rectangle") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class Point(NamedTuple):
    """A config in the scatter plot; its bars reach one deviation to both sides, if it has one."""

    number: int  # of its line in the table
    x: float
    y: float
    x_bar: tuple[float, float]
    y_bar: tuple[float, float]
    name: Rectangle  # where its name is written


@dataclasses.dataclass(frozen=True)
class Plot:
    """Points of a scatter, or curves, with their axes."""

    box: Box
    x_ticks: Ticks
    y_ticks: Ticks
    points: Sequence[Point] = ()
    curves: Mapping[int, charts.Points] = dataclasses.field(default_factory=dict)


def scatter(cells: Mapping[int, tuple[Cell, Cell]], names: Mapping[int, str]) -> Plot | None:
    """The plot of a named point (x, y) for each line's number; None without points."""
    if not cells:
        return None
    ends = {
        n: [
            (c.mean - d, c.mean + d)
            for c in pair
            for d in [c.deviation if finite(c.deviation) else 0]
        ]
        for n, pair in cells.items()
    }
    ranges = [
        (min(e[axis][0] for e in ends.values()), max(e[axis][1] for e in ends.values()))
        for axis in (0, 1)
    ]
    axes = Axes(SCATTER, *ranges)
    places = [(axes.x(x.mean), axes.y(y.mean)) for x, y in cells.values()]
    written = dict(zip(cells, place_names(places, [names[n] for n in cells], SCATTER), strict=True))
    points = [
        Point(
            n,
            axes.x(x.mean),
            axes.y(y.mean),
            (axes.x(ends[n][0][0]), axes.x(ends[n][0][1])),
            (axes.y(ends[n][1][0]), axes.y(ends[n][1][1])),
            written[n],
        )
        for n, (x, y) in cells.items()
    ]
    return Plot(SCATTER, axes.x_ticks(8), axes.y_ticks(6), points=points)


def place_names(
    points: Sequence[tuple[float, float]], names: Sequence[str], box: Box
) -> list[Rectangle]:
    """Where the name of each point is written: near it, and inside the box, on no other name or
    point, if there is room."""
    taken = [Rectangle(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    inside = Rectangle(box.left, box.top + 8, box.right, box.bottom)  # below the axis's title
    places = []
    for point, name in zip(points, names, strict=True):
        near = list(_around(point, LETTER_WIDTH * len(name)))
        within = [r for r in near if _contains(inside, r)] or near
        free = (r for r in within if not any(r.overlaps(other) for other in taken))
        place = next(free, within[0])
        taken.append(place)
        places.append(place)
    return places


def _around(point: tuple[float, float], width: float) -> Iterator[Rectangle]:
    """Places for a line of text around a point, the nearest first."""
    for distance in range(10, max(SCATTER.width, SCATTER.height), 8):
        for direction in range(16):  # from right, upwards first
            angle = math.pi / 8 * (-1) ** direction * ((direction + 1) // 2)
            x = point[0] + math.cos(angle) * (distance + width / 2)
            y = point[1] - math.sin(angle) * distance
            half = LINE_HEIGHT / 2
            yield Rectangle(x - width / 2, y - half, x + width / 2, y + half)


def _contains(outer: Rectangle, inner: Rectangle) -> bool:
    return (
        outer.left <= inner.left
        and outer.top <= inner.top
        and inner.right <= outer.right
        and inner.bottom <= outer.bottom
    )


def overlay(curves: Mapping[int, charts.Points]) -> Plot | None:
    """The plot of smoothed curves by their lines' numbers; None without a finite point."""
    smoothed = {
        n: charts.thin(charts.smooth(points, max(1.0, len(points) / 40)))
        for n, points in curves.items()
    }
    smoothed = {n: points for n, points in smoothed.items() if points}
    if not smoothed:
        return None
    xs = [x for points in smoothed.values() for x, _ in points]
    ys = sorted(y for points in smoothed.values() for _, y in points)
    # The high losses of the first steps would flatten the rest.
    axes = Axes(CURVES, (min(xs), max(xs)), (ys[0], ys[-1 - len(ys) // 50]))
    placed = {n: [(axes.x(x), axes.y(y)) for x, y in ps] for n, ps in smoothed.items()}
    return Plot(CURVES, axes.x_ticks(4), axes.y_ticks(4), curves=placed)


def mean_curve(runs: Sequence[charts.Points]) -> list[tuple[float, float]]:
    """The mean of several runs' curves at each step that all of them have."""
    known = [{x: y for x, y in points if math.isfinite(y)} for points in runs]
    known = [points for points in known if points]
    shared = set(known[0]).intersection(*known[1:]) if known else set()
    return [(x, sum(points[x] for points in known) / len(known)) for x in sorted(shared)]


def _wide(ends: tuple[float, float]) -> tuple[float, float]:
    """A range extended by a margin on both sides."""
    low, high = ends
    margin = 0.08 * (high - low) or 0.08 * abs(high) or 1.0
    return low - margin, high + margin
