"""A results repository becomes columns: statistics from counts, standings, and files that do not fit left out by name."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hf_condense.data.randomness import Key
from hf_condense.files import canonical_json
from hf_condense.leaderboard.board import Task
from hf_condense.leaderboard.collect import collect
from hf_condense.leaderboard.entries import write_file
from hf_condense.leaderboard.judging import accuracies
from hf_condense.leaderboard.overview import overview
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.result import FORMAT, Submitted
from hf_condense.leaderboard.statements import Withdrawal
from hf_condense.leaderboard.statistics import ABOVE, BELOW, SAME
from hf_condense.leaderboard.worth import Ladder, inverse
from tests.leaderboard.synthetic import Maker, make_board, write_large_board

TASK = Task("digits", 10, "hard", "convnet")


@pytest.fixture
def maker(tmp_path) -> Maker:
    """A board with its bank in `tmp_path`."""
    made = Maker(make_board(ipc=(1, 10)))
    for result in made.baselines():
        write_file(tmp_path, result)
    return made


def read(maker: Maker, folder):
    return collect(Place(folder, maker.board))


def row_of(collected, id: str, task: Task = TASK):
    return next(row for row in collected.rows[task] if row.result.id == id)


def test_verdicts_and_intervals_are_those_of_scipy(maker, tmp_path):
    result = maker.result("edc", ipc=10, points=4.0)
    write_file(tmp_path, result)
    found = read(maker, tmp_path)
    row, bank = row_of(found, result.id), next(r for r in found.rows[TASK] if r.is_random)
    x, r = accuracies(row.column), accuracies(bank.column)
    test = stats.ttest_ind(x, r, equal_var=False)
    assert row.judged.delta == pytest.approx(x.mean() - r.mean(), abs=1e-12)
    assert [row.judged.low, row.judged.high] == pytest.approx(list(test.confidence_interval(0.95)), abs=1e-10)
    columns = found.by_result[result.id]
    raw = [
        stats.ttest_ind(accuracies(c.column), accuracies(bank_of(found, c)), equal_var=False).pvalue for c in columns
    ]
    order = np.argsort(raw)
    holm = np.maximum.accumulate(np.minimum(1, np.array(raw)[order] * np.arange(len(raw), 0, -1)))
    assert [columns[i].judged.p for i in order] == pytest.approx(list(holm), abs=1e-10)
    assert row.judged.verdict == ABOVE and bank.judged is None


def bank_of(found, row):
    task = replace(TASK, regime=row.column.regime, student=row.column.student)
    return next(r.column for r in found.rows[task] if r.is_random)


def test_random_draws_submitted_as_one_set_are_not_above_random(maker, tmp_path):
    """A set 1.7 spreads above the mean of the bank: one lucky draw. Welch's test would call it above random."""
    made = maker.result("lucky", ipc=10, scope="set", n=10)
    bank = {
        (r.column.regime, r.column.student): r
        for r in flat(read(maker, tmp_path))
        if r.is_random and task_ipc(r) == 10
    }
    columns = []
    for column in made.content.columns:
        draws = bank[column.regime, column.student]
        level = round((draws.mean + 1.7 * draws.sd) * column.tested)
        columns.append(replace(column, correct=tuple(level + d for d in (-9, 9) * 5)))
    result = type(made).of(replace(made.content, columns=tuple(columns)), made.submitted)
    write_file(tmp_path, result)
    row = row_of(read(maker, tmp_path), result.id)
    assert row.judged.verdict == SAME
    draws = accuracies(bank["hard", "convnet"].column)
    assert stats.ttest_ind(accuracies(row.column), draws, equal_var=False).pvalue < 0.05 / 6


def flat(collected):
    return [row for rows in collected.rows.values() for row in rows]


def task_ipc(row) -> int:
    return row.result.content.ipc


def test_a_further_submission_changes_no_other_number_of_a_row(maker, tmp_path):
    result = maker.result("edc", ipc=10, points=2.0)
    write_file(tmp_path, result)
    alone = row_of(read(maker, tmp_path), result.id)
    for i in range(20):
        write_file(tmp_path, maker.result("dm", ipc=10, points=float(i - 10), by=f"person{i}"))
    together = row_of(read(maker, tmp_path), result.id)
    assert (alone.judged, alone.worth, alone.mean, alone.sd) == (
        together.judged,
        together.worth,
        together.mean,
        together.sd,
    )


def test_worth_of_random_is_about_one_and_intervals_are_those_of_each_curve(maker, tmp_path):
    result = maker.result("edc", ipc=10, points=3.0)
    write_file(tmp_path, result)
    found = read(maker, tmp_path)
    bank = next(r for r in found.rows[TASK] if r.is_random)
    assert bank.worth.value == pytest.approx(1, abs=1e-9) and bank.worth.low <= 1 <= bank.worth.high
    rungs = {
        task.ipc: accuracies(row.column)
        for task, rows in found.rows.items() if (task.regime, task.student) == ("hard", "convnet")
        for row in rows if row.is_random
    }  # fmt: skip
    assert sorted(rungs) == [1, 2, 5, 10, 20, 50, 100, 200]
    ladder = Ladder(rungs, Key(0, maker.board.fingerprint) / "digits" / "hard" / "convnet")
    runs = accuracies(result.content.columns[0])
    places = (ladder.key / "runs" / len(runs)).numpy().integers(len(runs), size=(ladder.resamples, len(runs)))
    drawn, _ = inverse(ladder.log_ipc, ladder.fits, runs[places].mean(1))
    low, high = np.exp(np.quantile(drawn, [0.025, 0.975])) / 10
    row = row_of(found, result.id)
    assert [row.worth.low, row.worth.high] == pytest.approx([low, high], rel=1e-4)


def test_withdrawn_and_superseded_rows_keep_their_numbers_and_are_not_counted(maker, tmp_path):
    old, other = maker.result("edc", ipc=10), maker.result("dm", ipc=10, by="grace")
    newer = maker.result("edc", ipc=10, n=10, supersedes=old.id)
    stolen = maker.result("dm", ipc=10, n=10, by="eve", supersedes=other.id)
    for result in (old, other, newer, stolen):
        write_file(tmp_path, result)
    before = row_of(read(maker, tmp_path), other.id)
    write_file(tmp_path, Withdrawal(FORMAT, other.id, "claim", "grace", "2026-11-26"))
    found = read(maker, tmp_path)
    assert {r.id for r in found.submissions} == {newer.id, stolen.id}
    assert found.standings[old.id].gone == "superseded" and found.standings[other.id].gone == "withdrawn (claim)"
    assert row_of(found, other.id).judged == before.judged
    assert row_of(found, other.id).ranks == {} and before.ranks
    assert sum(found.verdicts(found.rows[TASK]).values()) == 2
    assert found.standings[stolen.id].superseded_by is None


def test_levels_follow_from_what_others_found(maker, tmp_path):
    results = [maker.result("edc", ipc=10, by="ada", points=float(i)) for i in range(5)]
    for result in results:
        write_file(tmp_path, result)
    for result, by, points, remade in (
        (results[0], "ada", 0.0, None), (results[1], "grace", 0.0, None), (results[1], "emmy", 0.0, None),
        (results[2], "grace", 0.0, True), (results[3], "grace", -12.0, None),
    ):  # fmt: skip
        write_file(tmp_path, maker.verification(result, by, points, remade))
    found = read(maker, tmp_path)
    assert [found.standings[r.id].level for r in results] == [
        "claimed",
        "re-scored 2×",
        "remade",
        "disputed",
        "claimed",
    ]


def test_own_labels_are_neither_ranked_nor_in_the_family_of_the_board(maker, tmp_path):
    plain = maker.result("edc", ipc=10, points=1.0)
    own = maker.column("digits", 10, "own", "convnet", 30.0, 5, 5)
    both = type(plain).of(replace(plain.content, columns=(*plain.content.columns, own)), plain.submitted)
    write_file(tmp_path, both)
    found = read(maker, tmp_path)
    with_own = [row.judged for row in found.by_result[both.id]]
    (tmp_path / both.place).unlink()
    write_file(tmp_path, plain)
    assert [row.judged for row in read(maker, tmp_path).by_result[plain.id]] == with_own[:6]
    assert with_own[6].verdict == ABOVE
    (own_row,) = found.rows[replace(TASK, regime="own")]
    assert own_row.ranks == {} and own_row.worth is None


def test_files_that_do_not_fit_are_named_and_the_rest_is_read(maker, tmp_path):
    good, stray = maker.result("edc", ipc=10), maker.result("dm", ipc=10)
    write_file(tmp_path, good)
    foreign = Maker(make_board("other", ipc=(1, 10), precision="bf16")).result("edc", ipc=10)
    write_file(tmp_path, foreign)
    folder = (tmp_path / good.place).parent
    (folder / "notes.json").write_text("{", encoding="utf-8")
    (folder / f"{stray.id}.json").write_text(canonical_json(stray), encoding="utf-8")  # of another folder
    forged = json.loads(canonical_json(good))
    forged["content"]["columns"][0]["correct"][0] += 1
    (folder / "forged.json").write_text(json.dumps(forged), encoding="utf-8")
    found = read(maker, tmp_path)
    assert good.id in found.results and foreign.id not in found.results and stray.id not in found.results
    reasons = {entry.path.rsplit("/", 1)[-1]: entry.reason for entry in found.refused}
    assert "board.fingerprint" in reasons[f"{foreign.id}.json"]
    assert (
        "JSON" in reasons["notes.json"]
        and "place" in reasons[f"{stray.id}.json"]
        and "sha256" in reasons["forged.json"]
    )
    assert len(found.refused) == 4


def test_overview_groups_by_method_and_submitter_and_takes_the_mean_over_tasks(maker, tmp_path):
    for by, points in (("ada", 6.0), ("eve", -6.0)):
        for ipc in (1, 10):
            write_file(tmp_path, maker.result("edc", ipc=ipc, by=by, points=points))
    found = read(maker, tmp_path)
    groups = {(g.name, g.by): g for g in overview(found)}
    ada, eve, random = groups["edc", "ada"], groups["edc", "eve"], groups["random", ""]
    assert (ada.tasks, ada.worth.tasks, random.is_random) == (12, 12, True)
    assert ada.worth.low > 1 > eve.worth.high and random.worth.value == pytest.approx(1, abs=0.05)
    logs = [np.log(row.worth.value) for r in ada.results for row in found.by_result[r.id]]
    assert ada.worth.value == pytest.approx(np.exp(np.mean(logs)))
    assert ada.verdicts[ABOVE] == 12 and eve.verdicts[BELOW] + eve.verdicts[SAME] == 12
    names = [g.name for g in overview(found)]
    assert "full" not in names and "luckiest" not in names and names.index("edc") < names.index("random")


def test_submitters_of_one_day_have_one_digest(maker, tmp_path):
    result = maker.result("edc", ipc=10)
    write_file(tmp_path, result)
    digest = read(maker, tmp_path).digest
    later = type(result).of(result.content, Submitted("ada", "2026-12-24"))
    (tmp_path / result.place).write_text(canonical_json(later), encoding="utf-8")
    assert read(maker, tmp_path).digest == digest  # of ids alone
    write_file(tmp_path, maker.result("dm", ipc=10))
    assert read(maker, tmp_path).digest != digest


def test_a_thousand_results_take_a_tenth_of_what_ten_thousand_may(tmp_path):
    """Five seconds for ten thousand on two idle cores. Processor time is counted, with room for a busy machine."""
    board = write_large_board(tmp_path, 1000, sources=1)
    started = sum(os.times()[:4])  # with processes that have ended
    found = collect(Place(tmp_path, board))
    own = sum(os.times()[:4]) - started
    assert sum(map(len, found.rows.values())) > 6_000 and not found.refused
    assert own < 3
