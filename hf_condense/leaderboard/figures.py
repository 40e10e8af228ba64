"""Numbers as a reader sees them: rounded, with their units, and a true minus sign."""

from __future__ import annotations

from hf_condense.hub.card import readable_bytes, readable_seconds
from hf_condense.leaderboard.rows import WorthCell
from hf_condense.leaderboard.statistics import ABOVE, BELOW, SAME
from hf_condense.leaderboard.worth import MeanWorth

SIGNS = {ABOVE: "▲", SAME: "=", BELOW: "▼"}
CLASSES = {ABOVE: "above", SAME: "same", BELOW: "below"}  # of the style sheet, and of the filter


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """Percentage points with their sign: "+4.1", "−0.3", "0.0"."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def probability(p: float) -> str:
    """Three decimals; smaller than that is no matter of size."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float, high: float) -> str:
    return f"[{points(low)}, {points(high)}]"


def size(count: float) -> str:
    return readable_bytes(count)


def duration(seconds: float) -> str:
    return readable_seconds(seconds) if seconds else "0 s"


def size_range(low: float, high: float) -> str:
    """One size, or the smallest and the largest."""
    return _range(readable_bytes(low), readable_bytes(high))


def duration_range(low: float, high: float) -> str:
    return _range(duration(low), duration(high))


def _range(low: str, high: str) -> str:
    if low == high:
        return low
    (number, unit), (other, same) = low.split(" "), high.split(" ")
    return f"{number}–{other} {unit}" if unit == same else f"{low} – {high}"


def factor(value: float) -> str:
    """Two significant digits, one decimal at most above 1: "0.45", "2.0", "12"."""
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}" if value < 0.995 else f"{value:.{value < 9.95:d}f}"


def worth(cell: WorthCell) -> str:
    """ "1.8", "20 or more" at the ladder's end, or "flat"."""
    if cell.flat:
        return "flat"
    return factor(cell.value) + ("", " or more", " or less")[cell.censored]


def worth_interval(cell: WorthCell | MeanWorth) -> str:
    return f"[{factor(cell.low)}, {factor(cell.high)}]"


FILTERS = {f.__name__: f for f in (percent, points, size, duration, factor, worth, worth_interval)} | {
    "sign": SIGNS.__getitem__,
    "verdict_class": CLASSES.__getitem__,
}
