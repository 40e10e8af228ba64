"""Figures for papers and cards, as PNG and PDF: images by class beside each other, curves, accuracy for bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hf_condense.files import atomic_path
from hf_condense.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.9  # inches: the text of a paper with two columns
DPI = 300
COLUMNS = 10  # images of a row
MOST_LINES = 8  # of a panel: more colours cannot be distinguished
BAND = 4  # curves of one kind from here on are drawn as mean and range
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")  # Okabe and Ito
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,  # text stays text
}

Line = Mapping[int, float]  # step -> value


@dataclass
class Panel:
    """Curves that share their axes.

    Args:
        kinds: legend -> curves of that kind; many of one kind are drawn as mean and range.
        unit: of the steps; percent: whether values are accuracies (fractions, shown in percent) and not losses.
    """

    title: str
    unit: str
    percent: bool = False
    kinds: dict[str, list[Line]] = field(default_factory=dict)


def _styled(draw: Callable[..., None]) -> Callable[..., None]:
    """The function, drawing in the style of this file."""

    @wraps(draw)
    def styled(*args: Any, **given: Any) -> None:
        from matplotlib import rc_context

        logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every letter of a PDF
        with rc_context(STYLE):
            draw(*args, **given)

    return styled


@_styled
def comparison(path: Path | str, rows: Mapping[str, Tensor], labels: Tensor, class_names: Sequence[str]) -> None:
    """Rows of images, a class a column, under the names of the classes.

    Args:
        path: of the PNG; a PDF of the same name is written beside it.
        rows: name -> uint8 [n, C, H, W], with n at most `COLUMNS`.
        labels: int64 [n] of the columns; columns of one class stand side by side.
    """
    count, left, head, gap = len(labels), 0.95, 0.3, 0.04
    side = min(0.85, (WIDTH - left) / COLUMNS if count > 6 else 0.85)
    width, height = left + count * side, head + len(rows) * side
    figure = _figure(width, height)
    runs = _runs(labels.tolist())
    longest = max(3, int(side / 0.062))  # characters over one image
    for start, length, label in runs:
        name = _shortened(printable(class_names[label]), longest * length)
        x = (left + (start + length / 2) * side) / width
        figure.text(x, 1 - (head - 0.07) / height, name, ha="center", va="bottom")
    for r, (name, images) in enumerate(rows.items()):
        top = head + r * side
        figure.text((left - 0.1) / width, 1 - (top + side / 2) / height, _wrapped(name), ha="right", va="center")
        for c, image in enumerate(images[:count]):
            inner = side - gap
            axes = figure.add_axes(
                ((left + c * side) / width, 1 - (top + inner) / height, inner / width, inner / height)
            )
            axes.axis("off")
            pixels = image.cpu().permute(1, 2, 0).numpy()
            grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if pixels.shape[2] == 1 else {}
            axes.imshow(pixels[..., 0] if grey else pixels, interpolation="none", **grey)
    _save(figure, path)


@_styled
def curves(path: Path | str, lines: Sequence[Sequence[Panel]]) -> None:
    """Panels of curves, line by line."""
    columns = max(len(line) for line in lines)
    # fixed margins in inches: laying out by the text takes longer than drawing
    width, height, inner, depth = max(columns, 2) * WIDTH / 3, 2.1 * len(lines), WIDTH / 3 - 0.65, 2.1 - 0.7
    figure = _figure(width, height)
    edges = {"left": 0.57 / width, "right": 1 - 0.08 / width, "bottom": 0.42 / height, "top": 1 - 0.28 / height}
    space = {"wspace": 0.65 / inner, "hspace": 0.7 / depth}
    grid = figure.subplots(len(lines), columns, squeeze=False, gridspec_kw={**edges, **space})
    for row, line in zip(grid, lines):
        names = list(dict.fromkeys(name for panel in line for name in panel.kinds))  # of one colour in the whole line
        for axes, panel in zip(row, line):
            _draw_panel(axes, panel, names)
            if panel.percent:
                axes.sharey(row[0])
        for axes in row[len(line) :]:
            axes.remove()
    _save(figure, path)


@_styled
def accuracy_for_bytes(path: Path | str, table: Sequence[Mapping[str, Any]], own: str) -> None:
    """Top-1 against the bytes that a student needs: images, and labels where they are stored or made by a teacher.

    Args:
        table: lines of the score table (`ScoreTable.summary`). The row "full" is a horizontal line.
        own: name of the condensed set's row, drawn full; the other rows are drawn hollow.
    """
    figure = _figure(WIDTH * 0.7, 2.8)
    axes = figure.add_axes((0.1, 0.16, 0.64, 0.8))
    students = list(dict.fromkeys(line["student"] for line in table))
    regimes = list(dict.fromkeys(line["regime"] for line in table))
    shapes = dict(zip(regimes, "os^D"))
    rows = [row for row in dict.fromkeys(line["row"] for line in table) if row != "full"]
    for line in table:
        mean, spread = 100 * line["top1"]["mean"], 100 * (line["top1"]["std"] or 0.0)
        several = f" ({line['student']})" if len(students) > 1 else ""
        if line["row"] == "full":
            axes.axhline(mean, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
            axes.annotate(
                f"all real images{several}", (1, mean), (-2, 2), ("axes fraction", "data"), "offset points", ha="right",
                fontsize=7, color="#555555",
            )  # fmt: skip
            continue
        colour = COLOURS[rows.index(line["row"]) % len(COLOURS)]
        size = (line["image_bytes"] or 0) + (line["label_bytes"] or 0)
        size *= 1.05 ** (rows.index(line["row"]) - (len(rows) - 1) / 2)  # else bars of one size hide each other
        axes.errorbar(
            size, mean, spread or None, fmt=shapes.get(line["regime"], "o"), color=colour, markersize=5, capsize=2,
            elinewidth=0.8, markerfacecolor=colour if line["row"] == own else "white",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.1)
    low, high = axes.get_ylim()
    axes.set_ylim(max(0, low), min(100, high))
    axes.xaxis.set_major_formatter(lambda value, _: _bytes(value))
    narrow = axes.get_xlim()[1] < 30 * axes.get_xlim()[0]  # few powers of ten, or none
    axes.xaxis.set_minor_formatter(lambda value, _: _bytes(value) if narrow and f"{value:e}"[0] in "25" else "")
    axes.set_xlabel("bytes for a student: pixels, labels, teacher")
    axes.set_ylabel("top-1 %")
    handles = [_mark(COLOURS[i % len(COLOURS)], "o", row, full=row == own) for i, row in enumerate(rows)]
    handles += [_mark("#555555", shapes[regime], f"{regime} labels") for regime in regimes]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(figure, path)


def _draw_panel(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    shown = list(panel.kinds.items())[:MOST_LINES]
    for name, found in shown:
        colour = COLOURS[names.index(name) % len(COLOURS)]
        _draw(axes, found, printable(name), colour, 100 if panel.percent else 1)
    left_out = f" ({len(shown)} of {len(panel.kinds)})" if len(shown) < len(panel.kinds) else ""
    axes.set_title(panel.title + left_out, loc="left", fontsize=8)
    axes.set_xlabel(panel.unit)
    axes.set_ylabel("top-1 %" if panel.percent else "loss")
    values = [value for _, found in shown for line in found for value in line.values()]
    if not panel.percent and min(values) > 0 and max(values) > 30 * min(values):  # small ones would lie on the axis
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="best", handlelength=1.2, labelspacing=0.25, borderpad=0.2)


def _draw(axes: Axes, found: Sequence[Line], name: str, colour: str, scale: float) -> None:
    """One curve, few, or the mean and range of many over the steps that all of them have."""
    if len(found) < BAND:
        for number, line in enumerate(found):
            x, y = list(line), scale * np.array(list(line.values()))
            dots = {"marker": ".", "markersize": 4} if len(x) < 12 else {}
            axes.plot(x, y, color=colour, label=name if not number else None, **dots)
        return
    steps = sorted(set.intersection(*(set(line) for line in found)))
    values = scale * np.array([[line[step] for step in steps] for line in found])
    axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
    axes.plot(steps, values.mean(0), color=colour, label=f"{name} (mean and range of {len(found)})")


def _figure(width: float, height: float) -> Figure:
    # not pyplot, which keeps figures and may look for a screen
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=DPI)


def _save(figure: Figure, path: Path | str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".pdf"):
        # without a date, so that equal runs give equal files
        metadata = {"CreationDate": None} if suffix == ".pdf" else None
        with atomic_path(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)


def _mark(colour: str, shape: str, label: str, full: bool = False) -> Any:
    from matplotlib.lines import Line2D

    face = colour if full else "white"
    return Line2D(
        [], [], linestyle="", marker=shape, color=colour, markerfacecolor=face, markersize=5, label=printable(label)
    )


def _runs(labels: list[int]) -> list[tuple[int, int, int]]:
    """(start, length, label) of each run of equal labels."""
    found: list[tuple[int, int, int]] = []
    for place, label in enumerate(labels):
        if found and found[-1][2] == label:
            found[-1] = (found[-1][0], found[-1][1] + 1, label)
        else:
            found.append((place, 1, label))
    return found


def _shortened(name: str, limit: int) -> str:
    name = name.split(",")[0]  # ImageNet's names list synonyms
    return name if len(name) <= limit else name[: limit - 1].rstrip() + "…"


def _wrapped(name: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(printable(name), 14)[:3])


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
