"""Pictures of a run: images on their way, rows to compare, curves, accuracy for bytes; in `pictures/` of its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_condense.callbacks import Callback, Control, State
from hf_condense.data.images import ImageSource
from hf_condense.data.randomness import Key
from hf_condense.hub import figures
from hf_condense.hub.preview import image_grid
from hf_condense.run.history import Curves, read_history
from hf_condense.selection.real import random_real

if TYPE_CHECKING:
    from torch import Tensor

COMPARISON = "comparison"  # name of the picture of rows


class PictureCallback(Callback):
    """Draws what the events of a run bring.

    Args:
        run_folder: of the run, whose history holds the curves.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder, self.folder = run_folder, run_folder / "pictures"

    def on_images(
        self,
        config: Any,
        state: State,
        control: Control,
        images: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
        name: str = "",
        **kwargs: Any,
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if name == COMPARISON:
            figures.comparison(self.folder / "comparison.png", images, labels, class_names)
        else:
            for found in images.values():
                image_grid(found, labels, class_names, self.folder / f"{name}.png")

    def on_run_end(self, config: Any, state: State, control: Control, table: Any = None, **kwargs: Any) -> None:
        if not state.is_main_process:
            return
        draw_curves(self.folder / "curves.png", read_history(self.run_folder))
        if table is not None:
            figures.accuracy_for_bytes(self.folder / "accuracy_for_bytes.png", table.summary(), config.run.method)


def columns(labels: Tensor, num_classes: int) -> list[int]:
    """Rows of a set for the columns of a comparison: ten classes spread over all, several images of each where fewer."""
    classes = sorted({round(i * (num_classes - 1) / max(1, figures.COLUMNS - 1)) for i in range(figures.COLUMNS)})
    classes = classes if num_classes > figures.COLUMNS else list(range(num_classes))
    each = figures.COLUMNS // len(classes)
    return [row for c in classes for row in torch.where(labels == c)[0][:each].tolist()]


def real_rows(train: ImageSource, labels: Tensor, key: Key, baseline: bool) -> dict[str, Tensor]:
    """Rows of real images of these classes: others than the baseline's, and the first ones of the baseline's own draw."""
    wanted = tuple(labels.tolist())
    rows = {"real images": random_real(train, wanted, train.image_size, key / "picture")[0]}
    if baseline:  # the images of a class that are drawn first do not depend on how many follow
        rows["random"] = random_real(train, wanted, train.image_size, key / "baseline" / 0)[0]
    return rows


def draw_curves(path: Path, history: Curves) -> bool:
    """Draws losses and accuracies: networks and synthesis, then students by label regime. False where nothing was logged."""
    lines: list[dict[str, figures.Panel]] = [{}, {}, {}]
    students = {work.split("/")[1] for stage, work, _ in history if stage == "evaluate" and work.count("/") >= 3}
    for (stage, work, name), line in history.items():
        place = None
        if stage == "squeeze" and name == "loss":
            place = 0, "squeeze", work, "epoch"
        elif stage == "condense" and (stage, work, "lr") in history:  # a network that synthesis trains itself
            place = (0, "networks in synthesis", "networks", "epoch") if name == "loss" else None
        elif stage == "condense":
            place = 0, "synthesis", name, "step"
        elif stage == "evaluate" and name in ("loss", "accuracy") and work.count("/") >= 3:
            row, *architecture, regime, _ = work.split("/")
            kind = f"{row}, {'/'.join(architecture)}" if len(students) > 1 else row
            title = f"{'students' if name == 'loss' else 'accuracy'}, {regime} labels"
            place = 1 + (name == "accuracy"), title, kind, "epoch"
            line = {**line, **history.get((stage, work, "top1"), {})} if name == "accuracy" else line
        if place and len(line) > 1:
            row, title, kind, unit = place
            panel = lines[row].setdefault(title, figures.Panel(title, unit, percent=row == 2))
            panel.kinds.setdefault(kind, []).append(line)
    shown = [list(line.values()) for line in lines if line]
    if shown:
        figures.curves(path, shown)
    return bool(shown)
