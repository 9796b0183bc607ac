"""Charts as plain numbers, which macros of macros.html draw as inline SVG.

They use the page's colours, scale with it and need no library.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

Points = Sequence[tuple[float, float]]  # (x, y); x ascending; a non-finite y is left out

WIDTH, HEIGHT = 360, 190  # user units, about a pixel each at the width of a phone
LEFT, RIGHT, TOP, BOTTOM = 44, 348, 12, 166  # the edges of the plot within them
MAX_POINTS = 400  # more cannot be told apart at this size
MAX_DOTS = 40
MAX_LINEAR_SPAN = 20  # the largest over the least x of a trade-off whose x axis is linear


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
    """At most about `limit` points: the lowest and the highest of each run of neighbours."""
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


def log_ticks(low: float, high: float) -> list[float]:
    """Two to six round numbers within [low, high], 0 < low < high, for a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        # Over many powers of ten, only every second or third gets a tick.
        every = 1 + len(powers) // 6 if len(steps) == 1 else 1
        values = [m * 10.0**p for p in powers[::every] for m in steps]
        values = [value for value in values if low <= value <= high]
        if len(values) >= 3:
            return values
    return ticks(low, high, 4)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart of y over x, in the drawing's units; `log`: the y axis is logarithmic."""

    raw: Points  # as logged, where `line` is smoothed; otherwise empty
    line: Points
    values: Points  # those of `line`, before scaling
    dots: Points  # those of `line` that get a dot
    mark: float | None  # the x of a dashed line
    x_ticks: list[tuple[float, float]]  # (place on the axis, value)
    y_ticks: list[tuple[float, float]]
    log: bool = False


def line_chart(
    points: Points,
    span: float = 0,
    mark: float | None = None,
    from_zero: bool = False,
    log: bool = False,
) -> Chart | None:
    """Scales a curve to a chart; None if no y is finite.

    Args:
      points: (x, y) in order of x; a non-finite y is left out.
      span: points that the smoothed line averages over; 0 = the points joined, with dots.
      mark: an x that gets a dashed line (a resumed run), if it lies within the chart.
      from_zero: whether the y axis starts at 0, where it is not logarithmic.
      log: whether the y axis is logarithmic; None is returned where a y is not positive.
    """
    raw = thin(points)
    if not raw or (log and min(y for _, y in raw) <= 0):
        return None
    values = thin(smooth(points, span)) if span else raw
    scale: Callable[[float], float] = math.log10 if log else float
    x0, x1 = raw[0][0], raw[-1][0]
    if x1 == x0:
        x0, x1 = x0 - 1, x1 + 1
    scaled, scaled_values = ([(a, scale(b)) for a, b in of] for of in (raw, values))
    y0, y1 = _y_range(scaled, scaled_values, from_zero and not log)
    x, linear_y = _axis(x0, x1, LEFT, RIGHT), _axis(y0, y1, BOTTOM, TOP)

    def y(value: float) -> float:
        return linear_y(min(max(scale(value), y0), y1))

    y_values = log_ticks(10**y0, 10**y1) if log else ticks(y0, y1, 4)
    line = [(x(a), y(b)) for a, b in values]
    return Chart(
        raw=[(x(a), y(b)) for a, b in raw] if span else [],
        line=line,
        values=values,
        dots=line if not span and len(line) <= MAX_DOTS else line[-1:],
        mark=x(mark) if mark is not None and x0 < mark < x1 else None,
        x_ticks=[(x(value), value) for value in ticks(x0, x1, 4)],
        y_ticks=[(y(value), value) for value in y_values],
        log=log,
    )


@dataclasses.dataclass(frozen=True)
class Tradeoff:
    """Labelled points of several series, each joined in its order, in the drawing's units; `log`:
    the x axis is logarithmic."""

    series: dict[str, list[tuple[float, float, str]]]  # {name: (x, y, label)}
    x_ticks: list[tuple[float, float]]
    y_ticks: list[tuple[float, float]]
    log: bool


def tradeoff(series: Mapping[str, Sequence[tuple[float, float, str]]]) -> Tradeoff | None:
    """Scales {name: (x, y, label) of each point} to a chart whose y axis starts at 0.

    The x axis is logarithmic where `MAX_LINEAR_SPAN` says so and every x is positive. A point whose
    x or y is not finite is left out; None if no point is left.
    """
    series = {
        name: [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
        for name, points in series.items()
    }
    points = [point for of in series.values() for point in of]
    if not points:
        return None
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    log = 0 < MAX_LINEAR_SPAN * min(xs) < max(xs)
    scale: Callable[[float], float] = math.log10 if log else float
    xs = [scale(x) for x in xs]
    margin = 0.08 * (max(xs) - min(xs)) or 0.08 * abs(max(xs)) or 1.0
    x0, x1 = min(xs) - margin, max(xs) + margin
    y0, y1 = min(0.0, *ys), (max(0.0, *ys) or 1.0) * 1.12
    linear_x, y = _axis(x0, x1, LEFT, RIGHT), _axis(y0, y1, BOTTOM, TOP)

    def x(value: float) -> float:
        return linear_x(scale(value))

    x_values = log_ticks(10**x0, 10**x1) if log else ticks(x0, x1, 4)
    return Tradeoff(
        series={
            name: [(x(a), y(b), label) for a, b, label in of] for name, of in series.items() if of
        },
        x_ticks=[(x(value), value) for value in x_values],
        y_ticks=[(y(value), value) for value in ticks(y0, y1, 4)],
        log=log,
    )


def _axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Maps values in [low, high] linearly to the drawing's units, from `start` to `end`."""
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _y_range(raw: Points, line: Points, from_zero: bool) -> tuple[float, float]:
    """The ends of the y axis.

    A spike must not flatten the curve: 96 % of the points and the line's two ends determine the
    range, and what lies outside is drawn at the border.
    """
    ys = sorted(y for _, y in raw)
    edge = len(ys) // 50
    low, high = min(ys[edge], line[0][1], line[-1][1]), max(ys[-1 - edge], line[0][1], line[-1][1])
    if from_zero:
        low = min(low, 0.0)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - (0 if from_zero and low == 0 else margin), high + margin
