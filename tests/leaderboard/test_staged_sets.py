"""Sets that were made in stages: students train in them, or the board says that it cannot."""

from __future__ import annotations

import pytest

from hf_condense.errors import CondensationError
from hf_condense.leaderboard.bank import fill_bank
from hf_condense.leaderboard.check import check_folder
from hf_condense.leaderboard.keep import BoardSettings, init_board
from hf_condense.leaderboard.place import open_place
from hf_condense.leaderboard.submit import submit

HARD = BoardSettings(
    sources=("digits",), ipc=(2,), students=("convnet_d1",), regimes=("hard",), steps=5, seeds_min=2, seeds=2, draws=3,
    ladder=(2,),
)  # fmt: skip


def test_students_train_in_the_stages_of_the_set(tmp_path, make_set):
    board, work = tmp_path / "hard", tmp_path / "work"
    init_board(board, "hard", HARD)
    fill_bank(board, by="keeper", work=work)
    at_once = submit([str(make_set(1))], board, by="ada", work=work).result.content.columns[0]
    staged = submit([str(make_set(2, stages=2))], board, by="ada", work=work).result.content.columns[0]
    assert (at_once.steps, staged.steps) == (5, 4)  # two epochs of a batch in each of two stages come nearest to five
    reports = check_folder(open_place(board))
    assert not any(r.refused for r in reports), "\n".join(r.text() for r in reports)


def test_a_board_of_stored_labels_does_not_take_them(board, work, make_set):
    before = sorted(board.rglob("*"))
    with pytest.raises(CondensationError, match="made in stages.*regimes are hard and online") as refused:
        submit([str(make_set(1, stages=2))], board, by="ada", work=work)
    assert "\n" not in str(refused.value) and sorted(board.rglob("*")) == before
