"""The median student of each column as a model repository, with its entry for the board."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_condense.config import check
from hf_condense.errors import ArtefactError
from hf_condense.hub.student import BoardEntry, push_student
from hf_condense.leaderboard.board import OWN, Task
from hf_condense.leaderboard.column import Column
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.result import Result
from hf_condense.leaderboard.scoring import BoardScorer
from hf_condense.leaderboard.sets import CondensedSet
from hf_condense.leaderboard.training_length import protocol_epochs


def check_pushing(place: Place, sets: Sequence[CondensedSet]) -> None:
    """Refuses what cannot be named by a model repository: a board or sets that are folders."""
    published = place.repo is not None and all(found.repo is not None for found in sets)
    check(published, "push_students", True, "a board and sets on the Hub", "push both first, or leave it out")


def publish_students(scorer: BoardScorer, place: Place, result: Result, sets: Sequence[CondensedSet]) -> list[str]:
    """Trains the median-seed student of each column again and publishes it; the same call resumes.

    Returns:
        The repositories, `<submitter>/<board>-<source>-ipc<k>-<method>-<regime>-<student>`.

    Raises:
        ArtefactError: a student gets other test images right than the one that was scored.
        HubError: the Hub refuses, or cannot be reached.
    """
    content, pushed = result.content, []
    for column in content.columns:
        if column.regime == OWN:
            continue
        run = median_run(column)
        found, ref = sets[column.set_index[run]], content.sets[column.set_index[run]]
        name = f"{content.board.name}-{content.source}-ipc{content.ipc}-{content.method.name}"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{name}-{column.regime}-{column.student}")[:96].rstrip("-.")
        image_set = found.image_set()
        model, correct = scorer.student(image_set, content.ipc, column.regime, column.student, column.seeds[run])
        if correct != column.correct[run]:
            allowed = f"{column.correct[run]}, as scored with seed {column.seeds[run]}"
            step = "submit from the machine and versions that scored it, or leave --push_students out"
            raise ArtefactError(f"student of {column.regime} {column.student}", correct, allowed, step)
        task = Task(content.source, content.ipc, column.regime, column.student)
        done = push_student(
            model,
            f"{result.submitted.by}/{name}",
            found.data,
            ref.repo,
            top1=correct / column.tested,
            regime=column.regime,
            epochs=protocol_epochs(scorer.protocol, column.student, image_set, content.ipc),
            protocol=scorer.protocol.name,
            dataset_revision=ref.revision,
            board=BoardEntry(place.repo, task.id, place.commit, result.id),
        )
        pushed.append(done.repo_id)
    return pushed


def median_run(column: Column) -> int:
    """Place of the run with the median count of right answers; of an even number the lower one."""
    order = sorted(range(len(column.correct)), key=lambda i: (column.correct[i], column.seeds[i]))
    return order[(len(order) - 1) // 2]
