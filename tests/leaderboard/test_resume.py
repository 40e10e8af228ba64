"""Killed at every file replacement of `bank` and of `submit`, and started again each time: the same results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hf_condense import files
from hf_condense.leaderboard.bank import fill_bank
from hf_condense.leaderboard.keep import BoardSettings, init_board
from hf_condense.leaderboard.place import open_place
from hf_condense.leaderboard.result import Content, Result
from hf_condense.leaderboard.submit import submit
from tests.leaderboard.conftest import write_set

SETTINGS = BoardSettings(
    sources=("digits",), ipc=(1,), students=("convnet_d1",), regimes=("hard",), steps=1, seeds_min=2, seeds=2, draws=3,
    ladder=(1,),
)  # fmt: skip


class Killed(BaseException):
    """Stands for the end of the process: nothing of the library catches it."""


def until_done(call: Callable[[], object], monkeypatch) -> int:
    """Calls again and again; each time killed just before or just after the next file that was not there. Gives the kills."""
    kills, seen = 0, set()

    def kill(when: str, path: Path) -> None:
        if (when, path) not in seen:
            seen.add((when, path))
            raise Killed

    while True:
        with monkeypatch.context() as patch:
            patch.setattr(files, "on_replace", kill)
            try:
                call()
                return kills
            except Killed:
                kills += 1
        assert kills < 500


def comparable(result: Result) -> Content:
    """What does not depend on how long students took, and on a commit of the checkout in between."""
    columns = (replace(c, student_seconds=(0.0,) * len(c.seeds)) for c in result.content.columns)
    provenance = replace(result.content.provenance, commit=None)
    return replace(result.content, columns=tuple(columns), provenance=provenance)


def test_killed_everywhere(tmp_path, digits, monkeypatch):
    made = write_set(tmp_path / "set", digits, 1, ipc=1)
    found = []
    for name, run in (("whole", lambda call, patch: call()), ("broken", until_done)):
        board, work = tmp_path / name / "board", tmp_path / name / "work"
        init_board(board, "small", SETTINGS)
        banked = run(lambda b=board, w=work: fill_bank(b, by="keeper", work=w), monkeypatch)
        sent = run(lambda b=board, w=work: submit([str(made)], b, by="ada", work=w), monkeypatch)
        place = open_place(board)
        found.append({(r.content.kind, r.content.method.name): r for r in place.entries(Result)})
        assert not list(board.rglob("*.part"))
    assert banked > 20 and sent > 10  # the broken one was
    whole, broken = found
    assert whole.keys() == broken.keys() and len(whole) == 5
    for key, result in whole.items():
        assert comparable(result) == comparable(broken[key]), key
