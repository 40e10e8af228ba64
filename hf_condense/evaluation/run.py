"""Scoring: a grid of sets x students x label regimes x seeds, each cell trained once and kept as a file of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hf_condense.config import LabelSettings, check
from hf_condense.data.formation import decode_set
from hf_condense.data.pixels import image_digest
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.evaluation.looks import validation_images
from hf_condense.evaluation.probe import Probed, shows_whole_images
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.report import ScoreTable
from hf_condense.evaluation.students import StudentResult, train_student
from hf_condense.files import atomic_path, fingerprint, read_json, write_json
from hf_condense.labels.formats import store_format
from hf_condense.labels.store import LabelStore, write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.linear_probe import is_probe, short_name
from hf_condense.models.training import evaluate_top1
from hf_condense.processes import Processes
from hf_condense.progress import Progress

if TYPE_CHECKING:
    from hf_condense.data.whitening import Whitening
    from hf_condense.models.image_model import ImageModel

# raised by hand when equal cells no longer give equal scores; 3: fused blocks of ConvNets; 4: whose sums go over several rows
VERSION = 4
LOOKS = 8  # points of the accuracy curve of a row's first student


@dataclass
class ImageSet:
    """One row of the table: images that students are trained on.

    Args:
        images: uint8, or float unit pixels, [N, C, S, S], as published; `labels` int64 [N].
        formation_factor: f, where each image holds f x f training images (`data.formation`): students see those.
        store: labels of its views, for the regime "stored"; made in the scores folder where there is none.
        regimes: those it is scored in; None: all that are asked for.
        train_as_if_images: train as long as on a set of this many images; None: as long as its own size says.
        bytes: of the images as published; defaults to those of the raw pixels.
        digest: stands for the images in fingerprints; defaults to a computed one (give it for large sets).
        note: shown under the table.
        stages: int64 [N], the stage in which each image was made; students are then trained in stages.
        rates: learning rates learned with the set, one a stage.
        as_class_means: instead of students the nearest class mean of these images is scored, for each student that is a
            probe and with hard labels; `bytes` are then those of the means.
        soft: probabilities [N, K], one row per image: the regime "stored" of protocols with labels per image. Made by the
            teacher where there are none; without a teacher such rows are scored in the other regimes alone.
    """

    images: Tensor
    labels: Tensor
    store: LabelStore | None = None
    regimes: tuple[str, ...] | None = None
    train_as_if_images: int | None = None
    bytes: int | None = None
    digest: str | None = None
    note: str = ""
    formation_factor: int = 1
    stages: Tensor | None = None
    rates: tuple[float, ...] | None = None
    soft: Tensor | None = None
    as_class_means: bool = False

    def __post_init__(self) -> None:
        self.labels = torch.as_tensor(self.labels)
        for name in ("stages", "soft"):
            rows = getattr(self, name)
            fits = rows is None or len(rows) == len(self.labels)
            check(
                fits,
                name,
                None if rows is None else len(rows),
                f"one row per image, of which there are {len(self.labels)}",
            )
        if self.soft is not None:
            self.soft = self.soft.half()  # as it is published
        if self.digest is None:
            more = [self.formation_factor] if self.formation_factor > 1 else []
            more += [image_digest(self.stages)] if self.stages is not None else []
            more += [list(self.rates)] if self.rates else []
            self.digest = fingerprint([image_digest(self.images), image_digest(self.labels), *more])
        if self.bytes is None:
            self.bytes = self.images.numel() * self.images.element_size()


@dataclass(frozen=True)
class Cell:
    """One student to train: which row, which of the row's sets, student, regime and seed."""

    row: str
    set: int
    student: str
    regime: str
    seed: int


def score(
    rows: Mapping[str, ImageSet | Sequence[ImageSet]],
    *,
    protocol: Protocol,
    students: Sequence[str],
    regimes: Sequence[str],
    seeds: int | Sequence[int],
    ipc: int,
    test_images: Tensor,
    test_labels: Tensor,
    num_classes: int,
    key: Key,
    device: torch.device,
    scores_folder: Path | str,
    teacher: Ensemble | None = None,
    baseline: str = "random",
    label_settings: LabelSettings | None = None,
    test_digest: str | None = None,
    accelerator=None,
    whitening: Whitening | None = None,
    backbones: Mapping[str, ImageModel] | None = None,
    keep: Callable[[ImageModel], None] | None = None,
    whole: Progress | None = None,
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
        test_images, test_labels: uint8 [M, C, S, S] and int64 [M]; read only to score finished students.
        scores_folder: gets `scores.json`, `scores.md`, `cells/` (a file a student), `predictions/`, `stores/` and unfinished
            `states/`.
        teacher: makes the labels of the regimes "stored" and "online"; its accuracy is reported.
        baseline: the row that differences are taken to, where it exists.
        label_settings: of stores that have to be made; defaults to full ones of the training's epochs.
        test_digest: stands for the test images in fingerprints, as `ImageSet.digest`.
        accelerator: an `accelerate.Accelerator`; its processes share the cells, and all of them get the table.
        whitening: of the dataset, for protocols with `zca`.
        backbones: trained networks that students may name as `probe:<name>`.
        keep: gets each network that is trained now, as it was scored.
        whole: longer work whose units these students are, and whose bar shows them.
        student_settings: of `train_student`: image_size, mean, std, flip, precision, best_seen.

    Raises:
        ConfigError: no rows, a regime that is unknown or not for this protocol, or one without its teacher.
    """
    check(len(rows) > 0, "rows", [], "one or more sets")
    for regime in regimes:
        protocol.check_regime(regime)
    sets = {name: [row] if isinstance(row, ImageSet) else list(row) for name, row in rows.items()}
    if "full" in sets:
        sets["full"] = [_full(found, ipc * num_classes) for found in sets["full"]]
    if teacher is None and protocol.label_per == "image":
        sets = {name: [_as_labelled(found, regimes) for found in row] for name, row in sets.items()}
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    probes = {short_name(student): student for student in students if is_probe(student)}
    students = [short_name(student) for student in students]
    check(len({*students}) == len(students), "students", students, "names that differ without the folders above them")
    cells = _cells(sets, students, regimes, seeds)
    check(
        len(cells) > 0, "regimes", list(regimes), "a teacher, or labels of their own for some rows", "--regimes hard"
    )
    test_labels = torch.as_tensor(test_labels)
    test = test_digest or fingerprint([image_digest(test_images), image_digest(test_labels)])
    grid = _Grid(
        sets,
        protocol,
        teacher,
        key,
        device,
        Path(scores_folder),
        test_images,
        test_labels,
        test,
        num_classes,
        accelerator,
        student_settings,
        whitening,
        probes,
        backbones or {},
        keep,
        whole,
    )
    grid.make_stores(cells, label_settings or LabelSettings())
    grid.train(cells)
    found = baseline if baseline in sets else None
    notes = {name: row[0].note for name, row in sets.items() if row[0].note}
    students_scored = [read_json(grid.path(cell)) for cell in cells]
    files = [grid.predictions_path(cell) for cell in cells]
    table = ScoreTable(students_scored, asdict(protocol), found, grid.teacher_top1(), notes, files)
    if grid.processes.main:
        table.save(scores_folder)
    return table


def _full(found: ImageSet, images: int) -> ImageSet:
    """The real training set as the reference row, with hard labels and the other rows' number of steps."""
    note = found.note or "the real training set, with hard labels and as many student steps as the other rows"
    return replace(found, regimes=("hard",), train_as_if_images=found.train_as_if_images or images, note=note)


def _as_labelled(found: ImageSet, regimes: Sequence[str]) -> ImageSet:
    """The row without the regime "stored" where its images have no labels and there is no teacher."""
    if found.soft is not None:
        return found
    return replace(found, regimes=tuple(r for r in found.regimes or regimes if r != "stored"))


def _cells(sets: dict[str, list[ImageSet]], students, regimes, seeds) -> list[Cell]:
    return [
        Cell(row, i % len(found), student, regime, seed)
        for row, found in sets.items()
        for student in students
        for regime in regimes
        if found[0].regimes is None or regime in found[0].regimes
        if not found[0].as_class_means or (is_probe(student) and regime == "hard")
        for i, seed in enumerate(seeds)
    ]


@dataclass
class _Grid:
    """What the cells of one table share, and where each is kept."""

    sets: dict[str, list[ImageSet]]
    protocol: Protocol
    teacher: Ensemble | None
    key: Key
    device: torch.device
    folder: Path
    test_images: Tensor
    test_labels: Tensor
    test_digest: str
    num_classes: int
    accelerator: Any
    settings: dict[str, Any]
    whitening: Whitening | None = None
    probes: dict[str, str] = field(default_factory=dict)  # students by their short names
    backbones: Mapping[str, ImageModel] = field(default_factory=dict)
    keep: Callable[[ImageModel], None] | None = None
    whole: Progress | None = None

    def __post_init__(self) -> None:
        self.processes = Processes(self.accelerator)
        self.facts = self.teacher.describe() if self.teacher else None
        self.shared = [VERSION, list(self.key.parts), self.settings, self.test_digest]
        self.shared += [self.whitening.facts] if self.whitening is not None else []
        images = next(iter(self.sets.values()))[0].images
        self.probed = {
            name: Probed.load(
                student,
                images,
                self.test_images,
                self.test_labels,
                self.protocol,
                self.num_classes,
                self.device,
                self.backbones,
                **self.settings,
            )
            for name, student in self.probes.items()
        }
        self.weights = {name: probed.backbone.sha256() for name, probed in self.probed.items()}

    def make_stores(self, cells: list[Cell], asked: LabelSettings) -> None:
        """Labels the sets that cells of the regime "stored" lack, once a set for all its students and seeds."""
        stored = [c for c in cells if c.regime == "stored"]
        for row, number in dict.fromkeys((c.row, c.set) for c in stored):
            found = self.sets[row][number]
            self.protocol.check_regime("stored", found.stages is not None)
            if (found.store if self.protocol.label_per == "view" else found.soft) is not None:
                continue
            if self.teacher is None:
                raise ConfigError(
                    "regimes", "stored", "a teacher, or labels of their own for all rows", "give one, or drop stored"
                )
            if self.protocol.label_per == "image":
                found.soft = self.teacher.soft_labels(found.images, self.device)
                continue
            check(asked.store != "none", "store", "none", "labels to score the regime stored with", "drop one of them")
            images = len(found.images) * found.formation_factor**2
            # a store cannot follow each student: batch and views are those of the first
            protocol = self.protocol.resolve(stored[0].student, max(1, images // self.num_classes))
            epochs, limit = protocol.soft_epochs(images), protocol.duration(images)[1]
            size = self.settings.get("image_size") or found.images.shape[-1]
            policy = protocol.policy(size, self.settings.get("flip", True))
            form = store_format(asked, protocol.softening, protocol.label_parts)
            epochs = asked.label_epochs or epochs
            name = fingerprint([found.digest, protocol, epochs, form, self.facts, policy, str(self.key)])
            found.store = write_store(
                self.folder / "stores" / f"{row}-{name}",
                found.images,
                found.labels,
                self.teacher,
                policy,
                self.key / "labels",
                epochs,
                protocol.batch_size(images),
                self.device,
                form=form,
                limit=limit,
                accelerator=self.accelerator,
                formation_factor=found.formation_factor,
            )

    def path(self, cell: Cell) -> Path:
        """The file of a cell: a readable name, with a fingerprint of all that changes the score."""
        found = self.sets[cell.row][cell.set]
        labels = self.facts if cell.regime == "online" else None
        if cell.regime == "stored":
            labels = found.store.fingerprint if self.protocol.label_per == "view" else image_digest(found.soft)
        # before, hard labels took several batches a step, and a teacher of batch statistics labelled whole ones
        cut = self.protocol.accumulation > 1 if cell.regime == "hard" else self.protocol.label_parts > 1
        identity = fingerprint(
            [
                cell,
                found.digest,
                found.train_as_if_images,
                self.protocol,
                labels,
                self.shared,
                *["accumulation parts"] * cut,
                *["class means"] * found.as_class_means,
                *([self.weights[cell.student]] if cell.student in self.weights else []),
            ]
        )
        name = f"{cell.row}-{cell.student.rsplit('/', 1)[-1]}-{cell.regime}-{cell.seed}-{identity}.json"
        return self.folder / "cells" / name.replace(" ", "_").replace("/", "_").replace(":", "-")

    def predictions_path(self, cell: Cell) -> Path:
        """uint8 or uint16 [M], beside the score."""
        return self.folder / "predictions" / f"{self.path(cell).stem}.npy"

    def train(self, cells: list[Cell]) -> None:
        """Trains this process's share of what is not there yet."""
        # students of one seed share their views, so they are trained one after another
        pairs = dict.fromkeys((cell.student, cell.seed) for cell in cells)
        place = {pair: number for number, pair in enumerate(pairs)}
        cells = sorted(cells, key=lambda cell: place[cell.student, cell.seed])
        whole, count = self.whole, len(cells)
        with whole.part("students", count) if whole else Progress("students", count, self.processes.main) as progress:
            for number, cell in enumerate(cells):
                if number % self.processes.world == self.processes.rank:
                    if not self.path(cell).exists():
                        what = f"{cell.row}, {cell.student}, {cell.regime}"
                        title = (
                            f"student {number + 1} of {len(cells)}, epochs ({what})" if self.processes.main else None
                        )
                        self._train(cell, title, LOOKS if cell.seed == cells[0].seed else 0)
                    shutil.rmtree(self._state(cell), ignore_errors=True)  # also what a kill just after it has left
                progress.advance()
                if number + 1 < len(cells):
                    progress.stop_if_asked()
        self.processes.wait()

    def _train(self, cell: Cell, title: str | None, looks: int) -> None:
        found, path = self.sets[cell.row][cell.set], self.path(cell)
        images, labels = decode_set(found.images, found.labels, found.formation_factor)
        stages = found.stages if found.stages is None else found.stages.repeat(found.formation_factor**2)
        result, size = self._student(cell, images, labels, stages, title, looks)
        costs = {"image_bytes": size, "label_bytes": self._label_bytes(found, cell.regime)}
        facts = asdict(result)
        predictions = facts.pop("predictions")
        with atomic_path(self.predictions_path(cell)) as temporary, open(temporary, "wb") as file:
            np.save(file, predictions)
        # last: it says that all is there
        write_json(path, asdict(cell) | facts | costs | {"images": len(found.images)})

    def _student(
        self, cell: Cell, images: Tensor, labels: Tensor, stages: Tensor | None, title: str | None, looks: int
    ) -> tuple[StudentResult, int]:
        """What is trained, or looked up, for a cell; and the bytes of what it was trained on."""
        key = self.key / "student" / cell.student / cell.seed
        found = self.sets[cell.row][cell.set]
        probed, whole = self.probed.get(cell.student), shows_whole_images(self.protocol)
        # labels of views are for the views in which a store has them
        if found.as_class_means:
            return probed.class_means(images, labels)
        if probed and whole and stages is None and (cell.regime != "stored" or self.protocol.label_per == "image"):
            result = probed.train(
                images,
                labels,
                cell.regime,
                self.protocol,
                key=key,
                teacher=self.teacher,
                soft=found.soft,
                train_as_if_images=found.train_as_if_images,
                keep=self.keep,
            )
        else:
            result = train_student(
                self.probes.get(cell.student, cell.student),
                images,
                labels,
                cell.regime,
                protocol=self.protocol,
                test_images=self.test_images,
                test_labels=self.test_labels,
                num_classes=self.num_classes,
                key=key,
                device=self.device,
                teacher=self.teacher,
                store=found.store,
                train_as_if_images=found.train_as_if_images,
                title=title,
                work=f"{cell.row}/{cell.student}/{cell.regime}/{cell.seed}",
                looks=looks,
                state_folder=self._state(cell),
                stages=stages,
                rates=found.rates,
                soft=found.soft,
                whitening=self.whitening,
                backbones=self.backbones,
                keep=self.keep,
                **self.settings,
            )
        return result, found.bytes

    def _state(self, cell: Cell) -> Path:
        """Where its unfinished training is kept."""
        return self.folder / "states" / self.path(cell).stem

    def _label_bytes(self, found: ImageSet, regime: str) -> int:
        """What a student of the regime needs beside images and class numbers."""
        if regime == "hard":
            return 0
        if regime == "stored" and self.protocol.label_per == "image":
            return found.soft.numel() * found.soft.element_size()
        if regime == "online":
            return self.teacher.bytes
        return found.store.bytes + (self.teacher.bytes if found.store.virtual else 0)

    def teacher_top1(self) -> float | None:
        """The teacher's accuracy on the test images, kept like a cell."""
        if self.teacher is None:
            return None
        path = (
            self.folder / "cells" / f"teacher-{fingerprint([self.facts, self.protocol.val_resize, self.shared])}.json"
        )
        if self.processes.main and not path.exists():
            size = self.settings.get("image_size") or self.test_images.shape[-1]
            shown = validation_images(self.test_images, size, self.protocol.val_resize)
            write_json(path, {"top1": evaluate_top1(self.teacher, shown, self.test_labels, self.device, size=size)})
        self.processes.wait()
        found = read_json(path)["top1"]
        Progress("teacher", 1, show=False).log({"top1": found})
        return found
