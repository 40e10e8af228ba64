"""Pictures of numbers as inline SVG: a difference on an axis that a table shares, and Pareto plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hf_condense.leaderboard.figures import CLASSES, duration, points, size
from hf_condense.leaderboard.judging import Judged
from hf_condense.leaderboard.rows import Row
from hf_condense.leaderboard.statistics import pareto_front

BAR_WIDTH, BAR_HEIGHT = 176, 18
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 340, 52, 12, 14, 48  # of a plot
ZERO = 44  # room for costs of zero, left of the logarithmic scale
LABELS = 12  # names at most beside the points of a plot


def axis_limit(rows: Iterable[Row]) -> float:
    """Half the width of a table's axis: a round number that holds the intervals of submissions (else of all rows)."""
    rows = [row for row in rows if row.judged]
    chosen = [row for row in rows if row.result.content.kind == "submission"] or rows
    largest = max((max(abs(row.judged.low), abs(row.judged.high)) for row in chosen), default=0.01)
    scale = 10.0 ** math.floor(math.log10(max(largest, 1e-4)))
    return next(scale * step for step in (1, 2, 5, 10) if largest <= scale * step * (1 + 1e-9))


def bar(judged: Judged, limit: float) -> Markup:
    """The interval as a line, the difference as a dot; what leaves the axis ends in an arrow."""
    middle, half = BAR_WIDTH / 2, BAR_WIDTH / 2 - 4

    def x(value: float) -> float:
        return middle + half * min(1.0, max(-1.0, value / limit))

    low, high, y = x(judged.low), x(judged.high), BAR_HEIGHT / 2
    parts = [f'<line class="interval" x1="{low:.1f}" y1="{y:g}" x2="{max(high, low + 1):.1f}" y2="{y:g}"/>']
    if abs(judged.delta) <= limit:
        parts.append(f'<circle class="mean" cx="{x(judged.delta):.1f}" cy="{y:g}" r="4"/>')
    else:
        edge, back = (BAR_WIDTH, BAR_WIDTH - 8) if judged.delta > 0 else (0, 8)
        parts.append(f'<polygon class="mean" points="{edge},{y:g} {back},{y - 4:g} {back},{y + 4:g}"/>')
    return Markup(
        f'<svg class="bar {CLASSES[judged.verdict]}" viewBox="0 0 {BAR_WIDTH} {BAR_HEIGHT}" aria-hidden="true">'
        f'<line class="zero" x1="{middle:g}" y1="0" x2="{middle:g}" y2="{BAR_HEIGHT}"/>{"".join(parts)}</svg>'
    )


def axis(limit: float) -> Markup:
    """Head of a column of bars: the ends and the zero."""
    places = ((2, "start", -limit), (BAR_WIDTH / 2, "middle", 0.0), (BAR_WIDTH - 2, "end", limit))
    texts = "".join(
        f'<text class="axis" x="{x:g}" y="13" text-anchor="{anchor}">{_short(value)}</text>'
        for x, anchor, value in places
    )
    return Markup(f'<svg class="bar" viewBox="0 0 {BAR_WIDTH} {BAR_HEIGHT}" aria-hidden="true">{texts}</svg>')


def _short(value: float) -> str:
    return points(value).removesuffix(".0")


def share_bar(above: int, same: int, below: int) -> Markup:
    """Counts of verdicts as parts of one line."""
    total, x, parts = max(1, above + same + below), 0.0, []
    for name, count in (("above", above), ("same", same), ("below", below)):
        width = 1000 * count / total
        if count:
            parts.append(f'<rect class="{name}" x="{x:.1f}" width="{max(width - 3, 1):.1f}" height="12"/>')
        x += width
    return Markup(
        f'<svg class="share" viewBox="0 0 1000 12" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class Point:
    """A row of a plot and of the table below it."""

    row: Row
    cost: float
    on_front: bool


def pareto_points(rows: Sequence[Row], cost: str) -> list[Point]:
    """Rows with their cost, cheapest first.

    Args:
        cost: "bytes" or "seconds".
    """
    costs = [float(getattr(row, cost)) for row in rows]
    front = pareto_front(costs, [row.mean for row in rows])
    found = [Point(row, value, bool(on)) for row, value, on in zip(rows, costs, front)]
    return sorted(found, key=lambda p: (p.cost, -p.row.mean, p.row.result.id))


def pareto_plot(found: Sequence[Point], cost: str, random: float | None, link) -> Markup:
    """Accuracy over cost on a logarithmic scale, with the front and the level of random draws.

    Args:
        random: mean accuracy of random draws. link: row -> address.
    """
    ticks = _cost_ticks([p.cost for p in found], cost)
    start = LEFT + (ZERO if any(p.cost <= 0 for p in found) else 0)  # zero has no place on a logarithmic scale
    left, right = math.log10(ticks[0]), math.log10(ticks[-1])
    bottom, top = _linear_range([p.row.mean for p in found] + ([random] if random is not None else []))

    def x(value: float) -> float:
        if value <= 0:
            return LEFT
        return start + (WIDTH - start - RIGHT) * (math.log10(max(value, ticks[0])) - left) / (right - left)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / (top - bottom)

    costs = [0.0] * (start > LEFT) + ticks
    parts = [*_frame(costs, _ticks(bottom, top), x, y, cost)]
    if random is not None:
        parts.append(
            Markup('<line class="level" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>').format(
                LEFT, y(random), WIDTH - RIGHT, y(random)
            )
        )
    front = [p for p in found if p.on_front]
    steps = [f"{'L' if i else 'M'}{x(p.cost):.1f} {y(p.row.mean):.1f}" for i, p in enumerate(_corners(front))]
    parts.append(Markup('<path class="front" d="{}"/>').format(" ".join(steps)))
    for point in sorted(found, key=lambda p: p.on_front):
        parts.append(_dot(point, x(point.cost), y(point.row.mean), cost, link(point.row)))
    parts += _names(front, found, x, y)
    title = f"Top-1 accuracy in percent over {'bytes' if cost == 'bytes' else 'seconds of synthesis'}"
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )


def _corners(front: Sequence[Point]) -> list[Point]:
    """The front as a staircase: what is reached at a cost holds until the next point."""
    found: list[Point] = []
    for point in front:
        if found:
            found.append(Point(found[-1].row, point.cost, True))
        found.append(point)
    return found


def _dot(point: Point, x: float, y: float, cost: str, address: str | None) -> Markup:
    content = point.row.result.content
    value = (size if cost == "bytes" else duration)(point.cost)
    said = f"{content.method.title}: {100 * point.row.mean:.1f} %, {value}"
    shape = Markup('<circle class="dot{}" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle>').format(
        " on" if point.on_front else "", x, y, said
    )
    return shape if address is None else Markup('<a href="{}">{}</a>').format(address, shape)


def _names(front: Sequence[Point], found: Sequence[Point], x, y) -> list[Markup]:
    """Names of points of the front, to the right or left of them, where they cover no other name and no point."""
    parts: list[Markup] = []
    boxes = [(x(p.cost) - 5, y(p.row.mean) - 5, x(p.cost) + 5, y(p.row.mean) + 5) for p in found]
    for point in sorted(front, key=lambda p: -p.row.mean)[: 2 * LABELS]:
        name = point.row.result.content.method.title
        name = name if len(name) <= 18 else name[:17] + "…"
        at_x, at_y, width = x(point.cost), y(point.row.mean), 8 * len(name)
        for anchor, side, start in (("start", 9, at_x + 9), ("end", -9, at_x - width - 9)):
            box = (start, at_y - 16, start + width, at_y + 4)
            inside = box[0] >= LEFT and box[2] <= WIDTH - RIGHT
            if len(parts) < LABELS and inside and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                text = Markup('<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
                parts.append(text.format(at_x + side, max(at_y - 5, TOP + 8), anchor, name))
                break
    return parts


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _frame(costs: Sequence[float], levels: Sequence[float], x, y, cost: str) -> Iterable[Markup]:
    line = Markup('<line class="frame" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    for value in levels:
        yield line.format(LEFT, y(value), WIDTH - RIGHT, y(value))
        yield text.format(LEFT - 8, y(value) + 5, "end", f"{100 * value:g}")
    for i, value in enumerate(costs):
        yield line.format(x(value), TOP, x(value), HEIGHT - BOTTOM)
        anchor = "end" if i == len(costs) - 1 else "middle"
        yield text.format(x(value), HEIGHT - BOTTOM + 18, anchor, _round_unit(value, cost))
    label = "images, labels and teacher" if cost == "bytes" else "networks and synthesis"
    yield text.format(WIDTH - RIGHT, HEIGHT - 8, "end", label)
    yield text.format(4, TOP - 3, "start", "%")


def _round_unit(value: float, cost: str) -> str:
    """A round number with its unit: "20 kB", "5 min"."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0, "bytes")) if cost == "bytes" else _CLOCK
    size, name = next((size, name) for size, name in units if value >= size)
    return f"{value / (size or 1):g} {name}"


_CLOCK = ((86400, "d"), (3600, "h"), (60, "min"), (0, "s"))
_STEPS = {
    "bytes": [digit * 10.0**power for power in range(13) for digit in (1, 2, 5)],
    "seconds": [0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18000, 43200, 86400, 432000, 10**7],
}


def _cost_ticks(costs: Sequence[float], cost: str) -> list[float]:
    """Round numbers around all positive costs, two to seven of them."""
    positive, steps = [c for c in costs if c > 0] or [1.0], _STEPS[cost]
    low, high = min(positive), max(positive)
    if cost == "bytes" and high < 1.5 * low:  # sets of one size: between two round numbers of a logarithmic scale
        step = next(s for s in steps if (high - low) / s <= 4 and s >= low / 50)
        start = math.floor(low / step)
        return [step * i for i in range(start, max(math.ceil(high / step), start + 1) + 1)]
    first = max((i for i, step in enumerate(steps) if step <= low), default=0)
    last = min((i for i, step in enumerate(steps) if step >= high), default=len(steps) - 1)
    last = max(last, first + 1)
    stride = -(-(last - first) // 6)
    return [float(steps[min(i, len(steps) - 1)]) for i in range(first, last + stride, stride)]


def _linear_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max(0.02, 0.08 * (high - low))
    return max(0.0, low - room), min(1.0, high + room)


def _ticks(low: float, high: float) -> list[float]:
    step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 7)
    return [round(i * step, 4) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
