"""Submissions to a folder: one set and several, what is refused, and that nothing is half written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hf_condense.errors import CondensationError
from hf_condense.leaderboard.board_file import read_board, write_board
from hf_condense.leaderboard.check import check_folder
from hf_condense.leaderboard.place import open_place
from hf_condense.leaderboard.predictions import read_predictions
from hf_condense.leaderboard.result import Result
from hf_condense.leaderboard.submit import submit


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_bank(board):
    place = open_place(board)
    rows = {(r.content.method.name, r.content.ipc): r.content for r in place.entries(Result)}
    assert {name for name, ipc in rows if ipc == 1} == {
        "random", "luckiest", "herding", "k_center", "k_medoids", "noise", "full",
    }  # fmt: skip
    assert [len(rows["random", k].sets) for k in (1, 2, 5)] == [4, 4, 2]
    random, lucky = rows["random", 2], rows["luckiest", 2]
    totals = np.sum([c.correct for c in random.columns], axis=0)
    assert lucky.sets[0].pixels_hash == random.sets[int(totals.argmax())].pixels_hash
    assert {c.regime for c in rows["full", 1].columns} == {"hard"}
    assert rows["full", 1].sets[0].images == 1438
    assert place.board.sources[0].ceiling.keys() == {"convnet_w32"}
    online = next(c for c in random.columns if c.regime == "online")
    assert online.teacher_bytes > 0 and online.label_bytes == 0


def test_one_set(board, work, make_set):
    done = submit([str(make_set(1))], board, work=work, by="ada", tuned_on="held-out", tuning_trials=3)
    c = done.result.content
    assert (c.scope, c.kind, c.ipc, c.source) == ("set", "submission", 2, "digits")
    assert [x.seeds for x in c.columns] == [(0, 1, 2)] * 3 and {x.regime for x in c.columns} == {
        "hard",
        "stored",
        "online",
    }
    assert c.columns[0].steps == 3 and c.columns[0].tested == 359
    assert c.method.name == "dm" and c.method.paper.startswith("https://arxiv.org/abs/")
    assert c.cost.synthesis_seconds == (2.5,) and c.cost.tuning_trials == 3
    assert (board / done.result.place).is_file() and (board / c.sets[0].repo / "data").is_dir()
    seen = read_predictions((board / done.result.predictions_place).read_bytes(), c.columns)
    assert len(seen) == 9
    # the control is the bank's own draws, so on one machine it is equal
    place = open_place(board)
    bank = next(r.content for r in place.entries(Result) if (r.content.method.name, r.content.ipc) == ("random", 2))
    assert c.columns[0].control.correct == bank.columns[0].correct[:3]
    assert "prediction form" in done.verdicts and "4 random draws" in done.verdicts
    reports = check_folder(place)
    assert not any(report.refused for report in reports), "\n".join(r.text() for r in reports)


def test_several_sets_are_the_method(board, work, make_set):
    sets = [str(make_set(seed)) for seed in (1, 2, 3)]
    done = submit(sets, board, work=work, by="ada")
    c = done.result.content
    assert (c.scope, len(c.sets)) == ("method", 3)
    assert all(x.set_index == (0, 1, 2) and x.seeds == (0, 1, 2) for x in c.columns)
    assert "Welch" in done.verdicts
    before = files(board)
    again = submit(sets, board, work=work, by="ada")
    assert again.result == done.result and "already there" in again.where
    assert files(board) == before


def test_a_dry_run_changes_nothing(board, work, make_set):
    before = files(board)
    done = submit([str(make_set(1))], board, work=work, dry_run=True)
    assert done.where is None and "random" in done.verdicts
    assert files(board) == before


def test_own_labels_are_an_extra_column(board, work, make_set):
    done = submit([str(make_set(1, soft=True))], board, work=work, by="ada", own_labels=True)
    own = [c for c in done.result.content.columns if c.regime == "own"]
    assert len(own) == 1 and own[0].control is None and own[0].label_bytes > 0
    assert not any(r.refused for r in check_folder(open_place(board)))


def test_an_imported_set(board, work, digits, tmp_path):
    """Parquet with `image` and `class_id`, as others publish sets."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hf_condense.hub.artefact import encode_png
    from hf_condense.hub.importing import import_set

    rows = [int(r) for c in range(10) for r in digits.train.rows_of(c)[:2]]
    pictures = [{"bytes": encode_png(image.numpy())} for image in digits.train.images(rows)]
    pq.write_table(pa.table({"image": pictures, "class_id": digits.train.labels[rows]}), tmp_path / "theirs.parquet")
    taken = import_set("parquet", tmp_path / "theirs.parquet", tmp_path / "taken", "digits")
    c = submit([str(taken)], board, work=work, by="ada").result.content
    assert c.method.name == "imported" and c.scope == "set"
    assert not any(r.refused for r in check_folder(open_place(board)))


@pytest.mark.parametrize(
    "how, options, said",
    [
        ({"ipc": 3}, {}, r"ipc=3.*1, 2"),
        ({"source": {"fingerprint": "0" * 16}}, {}, "made from other images"),
        ({"source": {"class_names": tuple("abcdefghij")}}, {}, "classes"),
        ({}, {"seeds": 1}, "seeds=1.*3 to 4"),
        ({}, {"seeds": 99}, "seeds=99"),
        ({}, {"tuned_on": "luck"}, "tuned_on"),
        ({}, {"own_labels": True}, "own_labels"),
        ({}, {"supersedes": "0" * 20}, "result of tiny"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(board, work, make_set, digits, how, options, said):
    if "class_names" in how.get("source", {}):
        digits = replace(digits, train=_renamed(digits.train, how["source"]["class_names"]))
        from tests.leaderboard.conftest import write_set

        folder = write_set(board.parent / "other", digits, 1, **how)
    else:
        folder = make_set(1, **how)
    before = files(board)
    with pytest.raises(CondensationError, match=said) as refused:
        submit([str(folder)], board, work=work, by="ada", **options)
    assert "\n" not in str(refused.value)
    assert files(board) == before


def test_a_run_that_scored_on_fewer_test_images_made_its_set_from_the_same_training_images(tmp_path, digits):
    from hf_condense.config import DataSettings
    from hf_condense.data.randomness import Key
    from hf_condense.data.source import open_source
    from hf_condense.leaderboard.sets import open_set
    from tests.leaderboard.conftest import write_set

    fewer = open_source(DataSettings(dataset="digits", max_test=50), Key(0, "data"))
    folder = str(write_set(tmp_path / "set", fewer, 1, data={"max_test": 50}))
    assert open_set(folder, digits.train, digits.test).ipc == 2
    unsaid = str(write_set(tmp_path / "unsaid", fewer, 1))
    with pytest.raises(CondensationError, match="made from other images"):
        open_set(unsaid, digits.train, digits.test)


def _renamed(train, names):
    import copy

    other = copy.copy(train)
    other.class_names = names
    return other


def test_sets_that_do_not_belong_together(board, work, make_set):
    for sets, said in (
        ([make_set(1), make_set(2, method="mtt"), make_set(3)], "sets of one method"),
        ([make_set(1), make_set(2, ipc=1), make_set(3)], "sets of one IPC"),
        ([make_set(1), make_set(1), make_set(2)], "same images twice"),
        ([make_set(1), make_set(2)], "one, or 3 and more"),
    ):
        with pytest.raises(CondensationError, match=said):
            submit([str(s) for s in sets], board, work=work, by="ada")


def test_others_cannot_submit_the_same_set_again(board, work, make_set):
    folder = str(make_set(1))
    first = submit([folder], board, work=work, by="ada").result
    with pytest.raises(CondensationError, match=f"already there as {first.id}.*verify"):
        submit([folder], board, work=work, by="eve")
    with pytest.raises(CondensationError, match="supersedes.*result of eve"):
        submit([folder], board, work=work, by="eve", supersedes=first.id)
    more = submit([folder], board, work=work, by="ada", seeds=4, supersedes=first.id).result
    assert more.content.supersedes == first.id and (board / first.place).exists()
    assert not any(r.refused for r in check_folder(open_place(board)))


def test_boards_that_take_nothing(board, work, make_set, tmp_path):
    folder = str(make_set(1))
    write_board(board, replace(read_board(board), frozen=True))
    with pytest.raises(CondensationError, match="not frozen"):
        submit([folder], board, work=work)
    empty = tmp_path / "empty"
    empty.mkdir()
    write_board(empty, replace(read_board(board), frozen=False))
    with pytest.raises(CondensationError, match="leaderboard"):
        submit([folder], empty / "nothing", work=work)


def test_a_teacher_with_other_weights_is_refused(board, work, make_set):
    facts = board / "teachers" / "digits" / "image_model.json"
    text = json.loads(facts.read_text())
    facts.write_text(json.dumps({**text, "sha256": "0" * 64}))
    with pytest.raises(CondensationError, match="checksum"):
        submit([str(make_set(1))], board, work=work)


def test_a_pickle_as_teacher_is_refused(board, work, make_set):
    (board / "teachers" / "digits" / "model.safetensors").write_bytes(b"\x80\x04\x95\x00\x00\x00\x00.")
    with pytest.raises(CondensationError, match="safetensors"):
        submit([str(make_set(1))], board, work=work)
