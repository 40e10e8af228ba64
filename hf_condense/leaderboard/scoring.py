"""Scores sets under a board: its source, teacher, protocol, students and label regimes. Resumes set by set, and inside."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hf_condense.data.cache import cache_folder
from hf_condense.data.pixels import image_digest
from hf_condense.data.randomness import Key
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.report import ScoreTable
from hf_condense.evaluation.run import score
from hf_condense.files import atomic_path, fingerprint, load_tensors, save_tensors
from hf_condense.hub.artefact import encode_png
from hf_condense.hub.provenance import device_name
from hf_condense.labels.teacher import Ensemble
from hf_condense.leaderboard.column import Column, Control
from hf_condense.leaderboard.origins import board_teacher, open_board_source
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.training_length import shown
from hf_condense.models.checkpoints import read_checkpoint, write_checkpoint
from hf_condense.models.image_model import ImageModel
from hf_condense.progress import Progress
from hf_condense.selection.real import random_real

KEY = Key(0, "leaderboard")
SAMPLED = 2000  # images of a large set whose encoded size stands for all


@dataclass(frozen=True)
class Run:
    """One student on one set: `correct` of the test images, and which class it saw in each ([M])."""

    student: str
    regime: str
    seed: int
    set: int
    correct: int
    steps: int
    seconds: float
    label_bytes: int
    predictions: np.ndarray


class BoardScorer:
    """Scores sets of one source of a board.

    Args:
        place: the board; `source` the name of one of its sources.
        work: where finished cells are kept; a folder of the user's cache for each board where not given.
        device: the first accelerator, or the processor, where not given.
    """

    def __init__(
        self, place: Place, source: str, work: Path | None = None, device: torch.device | None = None
    ) -> None:
        board = place.board
        self.board, self.source = board, board.source(source)
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.protocol = board.protocol.protocol()
        splits = open_board_source(self.source)
        self.train, self.test = splits.train, splits.test
        self.teacher: Ensemble | None = None
        if self.source.teacher is not None:
            model = board_teacher(place, self.source).to(self.device).freeze()
            self.teacher = Ensemble.for_protocol([model], self.protocol, board.precision)
        self.work = (work or cache_folder() / "leaderboard") / board.fingerprint / source
        self.environment = [torch.__version__, device_name(self.device), torch.get_num_threads()]

    def draw(self, ipc: int, number: int) -> ImageSet:
        """Random draw `number` of the board at an IPC: the same for everyone who has the source."""
        labels = tuple(np.repeat(np.arange(self.train.num_classes), ipc).tolist())
        images, _ = random_real(self.train, labels, self.train.image_size, KEY / "draw" / ipc / number)
        return real_set(images, torch.tensor(labels))

    def score_each(
        self,
        sets: Sequence[ImageSet],
        ipc: int,
        seeds: Sequence[int],
        name: str,
        *,
        regimes: Sequence[str] | None = None,
        protocol: Protocol | None = None,
        teacher: Ensemble | None = None,
        whole: Progress | None = None,
    ) -> list[Run]:
        """Seed i on set number i, one student each; all seeds on the set where there is one.

        Args:
            ipc: images of a class in the published sets.
            name: of the row, for files and progress.
            regimes, protocol, teacher: the board's where not given.
            whole: longer work whose students these are; they have a bar of their own without it.
        """
        grid = _Grid(ipc, tuple(regimes or self.board.regimes), protocol or self.protocol)
        bar = nullcontext(whole) if whole else Progress(f"students of {name}", self.students(seeds, grid.regimes))
        with bar as progress:
            if len(sets) == 1:
                return self._scored(sets[0], 0, seeds, name, grid, teacher, progress)
            runs = []
            for number, seed in enumerate(seeds):
                place = number % len(sets)
                runs += self._scored(sets[place], place, [seed], f"{name}-{place}", grid, teacher, progress)
        return runs

    def students(self, seeds: Sequence[int], regimes: Sequence[str]) -> int:
        """How many students `score_each` trains."""
        return len(seeds) * len(regimes) * len(self.board.students)

    def control(self, ipc: int, count: int) -> list[Run]:
        """The board's draws 0 .. count-1 on this machine; the bank's own cells where this machine made the bank."""
        return self.score_each([self.draw(ipc, i) for i in range(count)], ipc, range(count), f"random-{ipc}")

    def student(self, found: ImageSet, ipc: int, regime: str, student: str, seed: int) -> tuple[ImageModel, int]:
        """One student of a set, trained again: its network, and how many test images it gets right."""
        identity = fingerprint([found.digest, ipc, regime, student, seed, self.environment])
        folder = self.work / "students" / identity

        def keep(model: ImageModel) -> None:
            with atomic_path(folder / "model") as temporary:
                write_checkpoint(model, temporary, self.source.image_size)

        grid = _Grid(ipc, (regime,), self.protocol)
        table = self._score(found, [seed], "student", grid, folder, students=(student,), keep=keep)
        predictions = np.load(table.predictions[0], allow_pickle=False)
        return read_checkpoint(folder / "model"), int((predictions == self.test.labels).sum())

    def _scored(
        self,
        found: ImageSet,
        number: int,
        seeds: Sequence[int],
        name: str,
        grid: _Grid,
        teacher: Ensemble | None,
        progress: Progress,
    ) -> list[Run]:
        """All students of one set, in one file when they are done."""
        own = [found.store and found.store.fingerprint, found.soft is not None and image_digest(found.soft)]
        own += [] if teacher is None else [teacher.describe()]
        identity = fingerprint([found.digest, own, list(seeds), grid, self.board.students, self.environment])
        path = self.work / "sets" / f"{name}-{identity}.safetensors"
        if path.exists():
            progress.advance(self.students(seeds, grid.regimes))
        else:
            self._train(found, seeds, name, grid, teacher, path, progress)
        tensors, cells = load_tensors(path)
        predictions, labels = tensors["predictions"].numpy(), self.test.labels
        return [
            Run(set=number, correct=int((seen == labels).sum()), predictions=seen, **facts)
            for facts, seen in zip(cells, predictions)
        ]

    def _train(
        self,
        found: ImageSet,
        seeds: Sequence[int],
        name: str,
        grid: _Grid,
        teacher: Ensemble | None,
        path: Path,
        progress: Progress,
    ) -> None:
        table = self._score(found, seeds, name, grid, self.work / "scores", teacher, progress)
        kept = ("student", "regime", "seed", "steps", "label_bytes")
        facts = [{**{k: cell[k] for k in kept}, "seconds": round(cell["seconds"], 3)} for cell in table.cells]
        predictions = np.stack([np.load(file, allow_pickle=False) for file in table.predictions])
        save_tensors(path, {"predictions": torch.from_numpy(predictions)}, facts)

    def _score(
        self,
        found: ImageSet,
        seeds: Sequence[int],
        name: str,
        grid: _Grid,
        folder: Path,
        teacher: Ensemble | None = None,
        progress: Progress | None = None,
        students: Sequence[str] | None = None,
        keep: Callable[[ImageModel], None] | None = None,
    ) -> ScoreTable:
        """Trains what is not in `folder` yet; `keep` gets every network that is trained now."""
        table = score(
            {name: found},
            protocol=grid.protocol,
            students=students or self.board.students,
            regimes=grid.regimes,
            seeds=list(seeds),
            ipc=shown(found, grid.ipc),
            test_images=self.test.decoded(),
            test_labels=torch.from_numpy(self.test.labels),
            spec=self.train.plain_spec,
            key=KEY / "students",
            device=self.device,
            scores_folder=folder,
            teacher=teacher or self.teacher,
            keep=keep,
            whole=progress,
            test_digest=self.test.fingerprint,
            flip=self.source.flip,
            precision=self.board.precision,
        )
        shutil.rmtree(folder / "stores", ignore_errors=True)  # made again in less time than a student takes
        return table


@dataclass(frozen=True)
class _Grid:
    """What all students of a call share."""

    ipc: int
    regimes: tuple[str, ...]
    protocol: Protocol


def real_set(images: torch.Tensor, labels: torch.Tensor) -> ImageSet:
    """A set of real images or of noise, with the bytes that it would have as PNG files."""
    rows = np.linspace(0, len(images) - 1, min(len(images), SAMPLED)).astype(int)
    size = sum(len(encode_png(images[row].numpy())) for row in rows)
    return ImageSet(images, labels, bytes=round(size * len(images) / len(rows)))


def columns_of(
    runs: Sequence[Run], tested: int, teacher_bytes: int, control: Sequence[Run] | None = None
) -> list[Column]:
    """The columns of a result, in the order of scoring; `control` has runs of the same students and regimes."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.regime, run.student), []).append(run)
    found = []
    for (regime, student), mine in groups.items():
        beside = [c for c in control or () if (c.regime, c.student) == (regime, student)]
        found.append(
            Column(
                student=student,
                regime=regime,
                seeds=tuple(r.seed for r in mine),
                set_index=tuple(r.set for r in mine),
                correct=tuple(r.correct for r in mine),
                tested=tested,
                steps=mine[0].steps,
                student_seconds=tuple(r.seconds for r in mine),
                label_bytes=0 if regime == "online" else max(r.label_bytes for r in mine),
                teacher_bytes=teacher_bytes if regime == "online" else 0,
                control=Control(tuple(c.seed for c in beside), tuple(c.correct for c in beside)) if beside else None,
            )
        )
    return found
