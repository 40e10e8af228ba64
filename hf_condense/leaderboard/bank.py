"""What a board is measured against: random draws and their ladder over IPC, coresets, noise, and the full data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hf_condense.data.crops import centre
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.hub.provenance import device_name
from hf_condense.leaderboard.board import FILE
from hf_condense.leaderboard.board_file import write_board
from hf_condense.leaderboard.entries import file_of
from hf_condense.leaderboard.place import Place, open_place
from hf_condense.leaderboard.predictions import describe_predictions, write_predictions
from hf_condense.leaderboard.result import (
    FORMAT,
    BoardRef,
    Content,
    Cost,
    MethodFacts,
    Result,
    SetRef,
    Submitted,
    settings_digest,
)
from hf_condense.leaderboard.scoring import KEY, BoardScorer, Run, columns_of, real_set
from hf_condense.leaderboard.sets import pixels_hash
from hf_condense.leaderboard.stamp import provenance, today
from hf_condense.progress import Progress
from hf_condense.selection.centres import farthest_first, medoids
from hf_condense.selection.features import features_of
from hf_condense.selection.herding import herding
from hf_condense.selection.noise import grey_noise

log = logging.getLogger(__name__)

TITLES = {
    "random": "Random real images",
    "luckiest": "Luckiest random draw, chosen on the test images",
    "herding": "Herding",
    "k_center": "K-center",
    "k_medoids": "K-medoids",
    "noise": "Noise",
    "full": "Full training data, hard labels",
}
SELECTIONS: dict[str, Callable] = {
    "herding": lambda features, count, key: herding(features, count),
    "k_center": lambda features, count, key: farthest_first(features, count),
    "k_medoids": medoids,
}


@dataclass(frozen=True)
class Job:
    """One baseline result to make: a row at an IPC."""

    name: str
    ipc: int
    draws: int = 1

    @property
    def title(self) -> str:
        return TITLES[self.name]


class Bank:
    """Makes the baselines of one source that are not there yet, one result after the other.

    Args:
        scorer: of the source; `by`: who keeps the board.
    """

    def __init__(self, place: Place, scorer: BoardScorer, by: str) -> None:
        self.place, self.scorer, self.by = place, scorer, by
        self.board, self.train = place.board, scorer.train

    def jobs(self) -> list[Job]:
        """All baselines of the source, in an order in which each finds what it needs."""
        smallest = int(np.bincount(self.train.labels).min())
        bank = self.board.bank
        jobs = [Job("random", ipc, bank.draws) for ipc in self.board.ipc]
        rungs = [ipc for ipc in self.board.ladder(smallest) if ipc not in self.board.ipc]
        jobs += [Job("random", ipc, bank.ladder_draws) for ipc in rungs]
        names = ["luckiest", *(SELECTIONS if self.scorer.teacher is not None else ()), "noise", "full"]
        return jobs + [Job(name, ipc) for ipc in self.board.ipc for name in names]

    @cached_property
    def there(self) -> dict[tuple[str, int], Result]:
        """(name, IPC) -> baseline of the source that the board has."""
        name = self.scorer.source.name
        return {
            (r.content.method.name, r.content.ipc): r
            for r in self.place.entries(Result)
            if r.content.kind == "baseline" and r.content.source == name
        }

    def missing(self) -> list[Job]:
        """What is still to make."""
        return [job for job in self.jobs() if (job.name, job.ipc) not in self.there]

    def students(self, job: Job) -> int:
        """How many students a job trains."""
        return self.scorer.students(self._seeds(job), self._regimes(job))

    def _seeds(self, job: Job) -> range:
        return range(job.draws if job.name == "random" else self.board.seeds.recommended)

    def _regimes(self, job: Job) -> tuple[str, ...]:
        return ("hard",) if job.name == "full" else self.board.regimes

    def make(self, job: Job, whole: Progress | None = None) -> tuple[Result, bytes]:
        """One baseline, and its predictions. Its students are units of `whole`."""
        sets = self._sets(job)
        name = f"random-{job.ipc}" if job.name == "random" else job.name
        seeds, regimes = self._seeds(job), self._regimes(job)
        runs = self.scorer.score_each(sets, job.ipc, seeds, name, regimes=regimes, whole=whole)
        result, predictions = self._result(job, sets, runs), write_predictions(runs)
        result = Result.of(
            Content(**{**vars(result), "predictions": describe_predictions(predictions)}), Submitted(self.by, today())
        )
        self.there[job.name, job.ipc] = result
        return result, predictions

    def _sets(self, job: Job) -> list[ImageSet]:
        if job.name == "random":
            return [self.scorer.draw(job.ipc, number) for number in range(job.draws)]
        if job.name == "luckiest":
            return [self.scorer.draw(job.ipc, self._luckiest(job.ipc))]
        size, labels = self.train.image_size, torch.arange(self.train.num_classes).repeat_interleave(job.ipc)
        if job.name == "full":
            full = real_set(centre(self.train.decoded(), size), torch.from_numpy(self.train.labels))
            full.digest = self.train.fingerprint
            return [full]
        if job.name == "noise":
            noise = grey_noise(self.train, len(labels), size, KEY / "noise" / job.ipc)
            return [real_set((noise * 255).round().to(torch.uint8), labels)]
        return [real_set(self._selected(job, size), labels)]

    def _selected(self, job: Job, size: int) -> torch.Tensor:
        """Real images chosen class by class in the features of the board's teacher."""
        teacher, picked = self.scorer.teacher.models[0], []
        for c in range(self.train.num_classes):
            rows = self.train.rows_of(c)
            features = features_of(teacher, self.train, rows, size, self.scorer.device)
            places = SELECTIONS[job.name](features, job.ipc, KEY / job.name / job.ipc / c)
            picked.append(rows[np.asarray(places)])
        return centre(self.train.images(np.concatenate(picked)), size).contiguous()

    def _luckiest(self, ipc: int) -> int:
        """The draw of the bank with the highest mean over its columns."""
        columns = self.there["random", ipc].content.columns
        totals = np.sum([column.correct for column in columns], axis=0)
        return columns[0].set_index[int(totals.argmax())]

    def _result(self, job: Job, sets: Sequence[ImageSet], runs: Sequence[Run]) -> Content:
        settings = {"draws": job.draws} if job.name == "random" else {}
        teacher = self.scorer.teacher
        return Content(
            format=FORMAT,
            board=BoardRef(self.board.name, self.board.fingerprint),
            kind="baseline",
            scope="method" if len(sets) > 1 else "set",
            method=MethodFacts(job.name, job.title, None, None, settings, settings_digest(settings)),
            sets=tuple(_baseline_ref(job.name, i, found) for i, found in enumerate(sets)),
            source=self.scorer.source.name,
            ipc=job.ipc,
            columns=tuple(columns_of(runs, len(self.scorer.test), 0 if teacher is None else teacher.bytes)),
            cost=Cost(
                (0.0,) * len(sets), 0.0, 0, device_name(self.scorer.device), torch.get_num_threads(), None, "unknown"
            ),
            provenance=provenance(),
            predictions=None,
            supersedes=None,
        )


def _baseline_ref(name: str, number: int, found: ImageSet) -> SetRef:
    digest = pixels_hash(found.images, found.labels)
    return SetRef(f"board/{name}", None, digest, digest, number, len(found.images), found.bytes, None, None)


def fill_bank(leaderboard: str | Path, *, by: str, dry_run: bool = False, work: Path | None = None) -> tuple[int, int]:
    """Makes the baselines that a board lacks. The same call resumes: what is done is kept.

    Args:
        leaderboard: folder or repository. A folder gets each result when it is done, a repository all in one commit.
        by: who keeps the board.
        dry_run: only count.
        work: where finished students are kept.

    Returns:
        (results made, students they took).

    Raises:
        ConfigError, ArtefactError, DataError, HubError: the board, its source or its place cannot be used.
    """
    place = open_place(leaderboard)
    made, students = 0, 0
    for source in place.board.sources:
        bank = Bank(place, BoardScorer(place, source.name, work), by)
        waiting: dict[str, Path | bytes] = {}
        missing = bank.missing()
        log.info("%s: %d of %d baselines to make", source.name, len(missing), len(bank.jobs()))
        waits_for = sum(map(bank.students, missing))
        made, students = made + len(missing), students + waits_for
        if dry_run:
            continue
        with Progress(f"students of the baselines of {source.name}", waits_for) as whole:
            for job in missing:
                result, predictions = bank.make(job, whole)
                files = {
                    result.predictions_place: predictions,
                    result.place: file_of(result),
                }  # the result says it is done
                if place.repo is None:
                    place.add(files, "")
                waiting |= files
                log.info("%s at IPC %d: %s", job.title, job.ipc, result.id)
        _finish(place, bank, waiting)
        place = open_place(leaderboard) if place.repo is None else place
    return made, students


def _finish(place: Place, bank: Bank, waiting: dict[str, Path | bytes]) -> None:
    """The ceiling goes into board.yaml; a repository gets everything in one commit."""
    name = bank.scorer.source.name
    full = bank.there.get(("full", max(place.board.ipc)))
    ceiling = {c.student: round(sum(c.correct) / len(c.correct) / c.tested, 6) for c in full.content.columns}
    board = place.board.with_ceiling(name, ceiling)
    if board != place.board and place.repo is None:
        write_board(place.folder, board)
    elif place.repo is not None and (waiting or board != place.board):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            place.add({**waiting, FILE: write_board(folder, board)}, f"Baselines of {name}")
