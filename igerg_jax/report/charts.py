"""Line charts as inline SVG: they take the page's colours, grow with it and need no library.

The page's style sheet gives the classes `axis`, `grid`, `raw`, `line`, `dot`, `mark` and
`cursor` their colours; its script reads `data-points` to show the value under the pointer.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]  # (x, y); x ascending; a non-finite y is left out

WIDTH, HEIGHT = 360, 190  # user units, about a pixel each at the width of a phone
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 24
MAX_POINTS = 400  # more do not show at this size


def smooth(points: Points, span: float) -> list[tuple[float, float]]:
    """Exponential moving average over about `span` points; non-finite values are left out.

    Weights are normalised, so that the first value is the first point rather than near 0.
    """
    decay = 1 - 2 / (span + 1)
    weighted, weight, averaged = 0.0, 0.0, []
    for x, y in points:
        if math.isfinite(y):
            weighted, weight = decay * weighted + y, decay * weight + 1
            averaged.append((x, weighted / weight))
    return averaged


def thin(points: Points, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most about `limit` points: of each run of neighbours its lowest and its highest."""
    points = [p for p in points if math.isfinite(p[1])]
    if len(points) <= limit:
        return points
    size = math.ceil(2 * len(points) / limit)
    kept = [points[0]]
    for start in range(0, len(points), size):
        run = points[start : start + size]
        kept += sorted({min(run, key=lambda p: p[1]), max(run, key=lambda p: p[1])})
    return [x for x, _ in itertools.groupby([*kept, points[-1]])]


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number in at most about five characters: 0.01, 2.5, 300, 20k, 1.5M, 3e-4."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def line_chart(
    points: Points, label: str, span: float = 0, mark: float | None = None, from_zero: bool = False
) -> str:
    """A chart of y over x as an SVG element.

    Args:
      points: (x, y) in order of x; a non-finite y is left out.
      label: what the chart shows, for readers who do not see it.
      span: points that the smoothed line averages over; 0 draws the points joined, with dots.
      mark: an x that gets a dashed line (a resumed run), if it lies within the chart.
      from_zero: whether the y axis starts at 0.

    Returns:
      The element, or a sentence in a <p> when no y is finite.
    """
    raw = thin(points)
    if not raw:
        return '<p class="missing">No finite value was logged.</p>'
    line = thin(smooth(points, span)) if span else raw
    frame = _Frame(raw, line, from_zero)
    body = frame.axes()
    if mark is not None and frame.x0 < mark < frame.x1:
        body += f'<path class="mark" d="M{frame.x(mark)},{TOP}V{HEIGHT - BOTTOM}"/>'
    if span:
        body += f'<path class="raw" d="{frame.path(raw)}"/>'
    body += f'<path class="line" d="{frame.path(line)}"/>'
    for x, y in line if not span and len(line) <= 40 else line[-1:]:
        body += f'<circle class="dot" cx="{frame.x(x)}" cy="{frame.y(y)}" r="3"/>'
    first, last = line[0], line[-1]
    spoken = f"{label}: {short(first[1])} at step {first[0]:g}, {short(last[1])} at {last[0]:g}"
    data = " ".join(f"{x:g},{y:.5g},{frame.x(x)},{frame.y(y)}" for x, y in line)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(spoken)}" data-points="{data}">{body}</svg>'
    )


class _Frame:
    """The mapping from values to the drawing's units, and the axes that show it."""

    def __init__(self, raw: Points, line: Points, from_zero: bool):
        self.x0, self.x1 = raw[0][0], raw[-1][0]
        if self.x1 == self.x0:
            self.x0, self.x1 = self.x0 - 1, self.x1 + 1
        # A spike must not press the curve flat: 96 % of the points and the line's two ends decide
        # the range, and what is outside is drawn at the border.
        ys = sorted(y for _, y in raw)
        edge = len(ys) // 50
        low = min(ys[edge], line[0][1], line[-1][1])
        high = max(ys[-1 - edge], line[0][1], line[-1][1])
        low = min(low, 0.0) if from_zero else low
        room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        self.y0, self.y1 = low - (0 if from_zero and low == 0 else room), high + room

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (min(max(value, self.y0), self.y1) - self.y0) / (self.y1 - self.y0)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def path(self, points: Points) -> str:
        return "M" + "L".join(f"{self.x(x)},{self.y(y)}" for x, y in points)

    def axes(self) -> str:
        right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for value in ticks(self.y0, self.y1, 4):
            at = self.y(value)
            parts.append(f'<path class="grid" d="M{LEFT},{at}H{right}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{at + 3.5}" class="y">{short(value)}</text>')
        for value in ticks(self.x0, self.x1, 4):
            at = self.x(value)
            anchor = " end" if at > right - 14 else ""
            parts.append(f'<path class="axis" d="M{at},{floor}v4"/>')
            at = right if anchor else at
            parts.append(f'<text x="{at}" y="{floor + 16}" class="x{anchor}">{short(value)}</text>')
        parts.append(f'<path class="axis" d="M{LEFT},{floor}H{right}"/>')
        return f'<g class="axes">{"".join(parts)}</g>'
