"""Scoring: a grid of sets x students x label regimes x seeds, each cell trained once and kept as a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_condense.config import LabelSettings, check
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.pixels import image_digest
from hf_condense.data.randomness import Key
from hf_condense.evaluation.grid import Cell, Grid
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.report import ScoreTable
from hf_condense.evaluation.students import StudentScorer
from hf_condense.files import fingerprint, read_json
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.linear_probe import is_probe, short_name
from hf_condense.progress import Progress

if TYPE_CHECKING:
    from hf_condense.data.whitening import Whitening
    from hf_condense.models.image_model import ImageModel


def score(
    rows: Mapping[str, ImageSet | Sequence[ImageSet]],
    *,
    protocol: Protocol,
    students: Sequence[str],
    regimes: Sequence[str],
    seeds: int | Sequence[int],
    ipc: int,
    spec: ImageSpec,
    test_images: Tensor,
    test_labels: Tensor,
    key: Key,
    device: torch.device,
    scores_folder: Path | str,
    teacher: Ensemble | None = None,
    baseline: str = "random",
    label_settings: LabelSettings | None = None,
    test_digest: str | None = None,
    accelerator=None,
    whole: Progress | None = None,
    whitening: Whitening | None = None,
    backbones: Mapping[str, ImageModel] | None = None,
    keep: Callable[[ImageModel], None] | None = None,
    **student_settings: Any,
) -> ScoreTable:
    """Trains and scores every student of the grid that is not already in `scores_folder`, and writes the table there.

    Seed i draws the same initial weights and views in every row and regime, so that rows are compared in pairs.

    Args:
        rows: name -> a set, or several sets of which seed i takes number i modulo their count (several random draws,
            so that the interval covers the draw). The row "full" is the real training set: hard labels only, and as
            many student steps as the others.
        seeds: how many, or which.
        ipc: training images per class of the sets.
        spec, test_images, test_labels, whitening, backbones, keep: as of `StudentScorer`.
        scores_folder: gets `scores.json`, `scores.md`, `cells/` (a file a student), `predictions/`, `stores/` and unfinished
            `states/`.
        teacher: makes the labels of the regimes "stored" and "online"; its accuracy is reported.
        baseline: the row that differences are taken to, where it exists.
        label_settings: of stores that have to be made; defaults to full ones of the training's epochs.
        test_digest: stands for the test images in fingerprints, as `ImageSet.digest`.
        accelerator: an `accelerate.Accelerator`; its processes share the cells, and all of them get the table.
        whole: longer work whose units these students are, and whose bar shows them.
        student_settings: flip, precision and best_seen of `StudentScorer`.

    Raises:
        ConfigError: no rows, a regime that is unknown or not for this protocol, or one without its teacher.
    """
    check(len(rows) > 0, "rows", [], "one or more sets")
    sets = _sets(rows, protocol, regimes, ipc * spec.num_classes, teacher)
    names = _short_names(students)
    cells = _cells(sets, names, regimes, range(seeds) if isinstance(seeds, int) else seeds)
    check(
        len(cells) > 0, "regimes", list(regimes), "a teacher, or labels of their own for some rows", "--regimes hard"
    )
    test_labels = torch.as_tensor(test_labels)
    test = test_digest or fingerprint([image_digest(test_images), image_digest(test_labels)])
    shared: dict[str, Any] = {"whitening": whitening, "backbones": backbones, "keep": keep, **student_settings}
    scorer = StudentScorer(protocol, spec, test_images, test_labels, device, **shared)
    # as they have always been named in the fingerprints of cells
    settings = {"image_size": spec.image_size, "mean": spec.mean, "std": spec.std, **student_settings}
    grid = Grid(sets, names, scorer, teacher, key, Path(scores_folder), test, settings, accelerator, whole)
    grid.label(cells, label_settings or LabelSettings())
    grid.train(cells)
    table = _table(grid, cells, baseline if baseline in sets else None)
    if grid.processes.main:
        table.save(scores_folder)
    return table


def _table(grid: Grid, cells: Sequence[Cell], baseline: str | None) -> ScoreTable:
    """The scores of finished cells."""
    notes = {name: row[0].note for name, row in grid.sets.items() if row[0].note}
    scored = [read_json(grid.path(cell)) for cell in cells]
    files = [grid.predictions_path(cell) for cell in cells]
    return ScoreTable(scored, asdict(grid.protocol), baseline, grid.teacher_top1(), notes, files)


def _short_names(students: Sequence[str]) -> dict[str, str]:
    """Name in the table -> student, in their order."""
    names = [short_name(student) for student in students]
    check(len({*names}) == len(names), "students", names, "names that differ without the folders above them")
    return dict(zip(names, students))


def _sets(
    rows: Mapping[str, ImageSet | Sequence[ImageSet]],
    protocol: Protocol,
    regimes: Sequence[str],
    images: int,
    teacher: Ensemble | None,
) -> dict[str, list[ImageSet]]:
    """The sets of each row, with the regimes that it has; `images`: of the rows beside "full"."""
    for regime in regimes:
        protocol.check_regime(regime)
    sets = {name: [row] if isinstance(row, ImageSet) else list(row) for name, row in rows.items()}
    if "full" in sets:
        sets["full"] = [_full(found, images) for found in sets["full"]]
    if teacher is None and protocol.label_per == "image":
        sets = {name: [_as_labelled(found, regimes) for found in row] for name, row in sets.items()}
    return sets


def _full(found: ImageSet, images: int) -> ImageSet:
    """The real training set as the reference row, with hard labels and the other rows' number of steps."""
    note = found.note or "the real training set, with hard labels and as many student steps as the other rows"
    return replace(found, regimes=("hard",), train_as_if_images=found.train_as_if_images or images, note=note)


def _as_labelled(found: ImageSet, regimes: Sequence[str]) -> ImageSet:
    """The row without the regime "stored" where its images have no labels and there is no teacher."""
    if found.soft is not None:
        return found
    return replace(found, regimes=tuple(r for r in found.regimes or regimes if r != "stored"))


def _cells(
    sets: dict[str, list[ImageSet]], students: Iterable[str], regimes: Sequence[str], seeds: Sequence[int]
) -> list[Cell]:
    """The students of the grid. Class means stand for those of probes with hard labels."""
    return [
        Cell(row, i % len(found), student, regime, seed)
        for row, found in sets.items()
        for student in students
        for regime in regimes
        if found[0].regimes is None or regime in found[0].regimes
        if not found[0].as_class_means or (is_probe(student) and regime == "hard")
        for i, seed in enumerate(seeds)
    ]
