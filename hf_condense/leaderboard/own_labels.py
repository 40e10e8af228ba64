"""The column `own`: students under the labels that sets were published with, beside random images that their teacher labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from hf_condense.config import check
from hf_condense.errors import CondensationError
from hf_condense.evaluation.protocol import Protocol
from hf_condense.hub.load_teacher import load_teacher
from hf_condense.labels.teacher import Ensemble
from hf_condense.leaderboard.board import OWN
from hf_condense.leaderboard.column import Column
from hf_condense.leaderboard.scoring import BoardScorer, Run, columns_of
from hf_condense.leaderboard.sets import CondensedSet

log = logging.getLogger(__name__)


def own_columns(
    scorer: BoardScorer, sets: Sequence[CondensedSet], ipc: int, count: int
) -> tuple[list[Column], list[Run]]:
    """The columns under the sets' own labels, one a student of the board, and the runs on the sets.

    The control is the board's random draws 0 .. count-1, labelled by the sets' own teacher. Without one (labels that were
    learned or imported, a teacher that was not published) there is none, and the column gets no verdict.

    Raises:
        ConfigError: a set was published without soft labels.
    """
    for found in sets:
        published = found.data.store is not None or found.data.soft_labels is not None
        check(published, "own_labels", True, "sets that were published with soft labels", "leave --own_labels out")
    per_image = sets[0].data.store is None
    protocol = replace(scorer.protocol, label_per="image") if per_image else scorer.protocol
    own = [
        replace(found.image_set(), soft=found.data.probabilities())
        if per_image
        else replace(found.image_set(), store=found.data.store)
        for found in sets
    ]
    name = f"{sets[0].method_name}-own"
    runs = scorer.score_each(own, ipc, range(count), name, regimes=("stored",), protocol=protocol)
    runs = [replace(run, regime=OWN) for run in runs]
    return columns_of(runs, len(scorer.test), 0, _control(scorer, sets, ipc, count, protocol)), runs


def _control(
    scorer: BoardScorer, sets: Sequence[CondensedSet], ipc: int, count: int, protocol: Protocol
) -> list[Run] | None:
    teachers = _teachers(scorer, sets)
    if teachers is None:
        return None
    runs = []
    for number in range(count):
        teacher = teachers[number % len(teachers)]
        asked = {"regimes": ("stored",), "protocol": protocol, "teacher": teacher}
        runs += scorer.score_each([scorer.draw(ipc, number)], ipc, [number], f"random-{ipc}-own-{number}", **asked)
    return [replace(run, regime=OWN) for run in runs]


def _teachers(scorer: BoardScorer, sets: Sequence[CondensedSet]) -> list[Ensemble] | None:
    """The teacher of each set, on the scorer's device; None where one of them cannot be had."""
    try:
        return [load_teacher(found.data).to(scorer.device) for found in sets]
    except CondensationError as error:
        log.warning("the column 'own' gets no control and no verdict: %s", error)
        return None
