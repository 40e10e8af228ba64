"""The cells of a score table: each a student that is trained once and kept as a file of its own."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_condense.config import LabelSettings, check
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.looks import validation_images
from hf_condense.evaluation.probe import Probed, shows_whole_images
from hf_condense.evaluation.students import StudentResult, StudentScorer
from hf_condense.files import atomic_path, fingerprint, read_json, write_json
from hf_condense.labels.formats import store_format
from hf_condense.labels.store import LabelStore, write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.linear_probe import is_probe
from hf_condense.models.training import evaluate_top1
from hf_condense.processes import Processes
from hf_condense.progress import Progress

# raised by hand when equal cells no longer give equal scores; 3: fused blocks of ConvNets; 4: whose sums go over several rows
VERSION = 4
LOOKS = 8  # points of the accuracy curve of a row's first student


@dataclass(frozen=True)
class Cell:
    """One student to train: which row, which of the row's sets, student, regime and seed."""

    row: str
    set: int
    student: str
    regime: str
    seed: int


@dataclass
class Grid:
    """What the cells of one table share, and where each is kept.

    Args:
        sets: row -> its sets.
        students: short name -> student.
        teacher: of the regimes "stored" and "online".
        key: of the students' draws.
        folder: of the scores.
        test_digest: stands for the test images in fingerprints.
        settings: those of the scorer that stand in fingerprints.
        accelerator: its processes share the cells.
        whole: longer work whose units these students are.
    """

    sets: dict[str, list[ImageSet]]
    students: dict[str, str]
    scorer: StudentScorer
    teacher: Ensemble | None
    key: Key
    folder: Path
    test_digest: str
    settings: dict[str, Any]
    accelerator: Any
    whole: Progress | None

    def __post_init__(self) -> None:
        self.protocol, self.processes = self.scorer.protocol, Processes(self.accelerator)
        self.facts = self.teacher.describe() if self.teacher else None
        self.shared = [VERSION, list(self.key.parts), self.settings, self.test_digest]
        self.shared += [self.scorer.whitening.facts] if self.scorer.whitening is not None else []
        images = next(iter(self.sets.values()))[0].images
        probes = {name: student for name, student in self.students.items() if is_probe(student)}
        self.probed = {name: Probed.load(student, images, self.scorer) for name, student in probes.items()}
        self.weights = {name: probed.backbone.sha256() for name, probed in self.probed.items()}

    def label(self, cells: list[Cell], asked: LabelSettings) -> None:
        """Labels the sets that cells of the regime "stored" lack, once a set for all its students and seeds."""
        stored = [c for c in cells if c.regime == "stored"]
        for row, number in dict.fromkeys((c.row, c.set) for c in stored):
            found = self.sets[row][number]
            self.protocol.check_regime("stored", found.stages is not None)
            if found.has_labels(self.protocol):
                continue
            if self.teacher is None:
                raise ConfigError(
                    "regimes", "stored", "a teacher, or labels of their own for all rows", "give one, or drop stored"
                )
            if self.protocol.label_per == "image":
                found.soft = self.teacher.soft_labels(found.images, self.scorer.device)
            else:  # a store cannot follow each student: batch and views are those of the first
                found.store = self._stored_views(row, found, self.teacher, stored[0].student, asked)

    def _stored_views(
        self, row: str, found: ImageSet, teacher: Ensemble, student: str, asked: LabelSettings
    ) -> LabelStore:
        """Labels of the views that this student's training shows."""
        check(asked.store != "none", "store", "none", "labels to score the regime stored with", "drop one of them")
        images = len(found.images) * found.formation_factor**2
        protocol = self.protocol.resolve(student, max(1, images // self.scorer.spec.num_classes))
        epochs, limit = protocol.soft_epochs(images), protocol.duration(images)[1]
        policy = protocol.policy(self.scorer.spec.image_size, self.scorer.flip)
        form = store_format(asked, protocol.softening, protocol.label_parts)
        epochs = asked.label_epochs or epochs
        name = fingerprint([found.digest, protocol, epochs, form, self.facts, policy, str(self.key)])
        return write_store(
            self.folder / "stores" / f"{row}-{name}",
            found.images,
            found.labels,
            teacher,
            policy,
            self.key / "labels",
            epochs,
            protocol.batch_size(images),
            self.scorer.device,
            form=form,
            limit=limit,
            accelerator=self.accelerator,
            formation_factor=found.formation_factor,
        )

    def path(self, cell: Cell) -> Path:
        """The file of a cell: a readable name, with a fingerprint of all that changes the score."""
        found = self.sets[cell.row][cell.set]
        # before, hard labels took several batches a step, and a teacher of batch statistics labelled whole ones
        cut = self.protocol.accumulation > 1 if cell.regime == "hard" else self.protocol.label_parts > 1
        identity = fingerprint(
            [
                cell,
                found.digest,
                found.train_as_if_images,
                self.protocol,
                found.label_identity(cell.regime, self.protocol, self.facts),
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

    def _state(self, cell: Cell) -> Path:
        """Where its unfinished training is kept."""
        return self.folder / "states" / self.path(cell).stem

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
                        title = f"student {number + 1} of {count}, epochs ({what})" if self.processes.main else None
                        self._train(cell, title, LOOKS if cell.seed == cells[0].seed else 0)
                    shutil.rmtree(self._state(cell), ignore_errors=True)  # also what a kill just after it has left
                progress.advance()
                if number + 1 < count:
                    progress.stop_if_asked()
        self.processes.wait()

    def _train(self, cell: Cell, title: str | None, looks: int) -> None:
        found, path = self.sets[cell.row][cell.set], self.path(cell)
        result, size = self._student(cell, title, looks)
        costs = {"image_bytes": size, "label_bytes": found.label_bytes(cell.regime, self.protocol, self.teacher)}
        facts = asdict(result)
        predictions = facts.pop("predictions")
        with atomic_path(self.predictions_path(cell)) as temporary, open(temporary, "wb") as file:
            np.save(file, predictions)
        # last: it says that all is there
        write_json(path, asdict(cell) | facts | costs | {"images": len(found.images)})

    def _student(self, cell: Cell, title: str | None, looks: int) -> tuple[StudentResult, int | None]:
        """What is trained, or looked up, for a cell; and the bytes of what it was trained on."""
        key, row = self.key / "student" / cell.student / cell.seed, self.sets[cell.row][cell.set]
        found, probed = row.training_set(cell.regime, self.teacher), self.probed.get(cell.student)
        if row.as_class_means:
            return probed.class_means(found.images, found.labels)
        # labels of views are for the views in which a store has them
        of_images = cell.regime != "stored" or found.labels_images(self.protocol)
        if probed and shows_whole_images(self.protocol) and found.stages is None and of_images:
            return probed.train(found, self.protocol, key, self.scorer.keep), row.bytes
        result = self.scorer.train(
            self.students[cell.student],
            found,
            key,
            title=title,
            work=f"{cell.row}/{cell.student}/{cell.regime}/{cell.seed}",
            looks=looks,
            state_folder=self._state(cell),
        )
        return result, row.bytes

    def teacher_top1(self) -> float | None:
        """The teacher's accuracy on the test images, kept like a cell."""
        if self.teacher is None:
            return None
        name, scorer = fingerprint([self.facts, self.protocol.val_resize, self.shared]), self.scorer
        path = self.folder / "cells" / f"teacher-{name}.json"
        if self.processes.main and not path.exists():
            size = scorer.spec.image_size
            shown = validation_images(scorer.test_images, size, self.protocol.val_resize)
            write_json(
                path, {"top1": evaluate_top1(self.teacher, shown, scorer.test_labels, scorer.device, size=size)}
            )
        self.processes.wait()
        found = read_json(path)["top1"]
        Progress("teacher", 1, show=False).log({"top1": found})
        return found
