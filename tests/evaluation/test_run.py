import itertools
import json
import logging
import re
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_condense import progress
from hf_condense.data.augmentation import draw_views
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.report import ScoreTable
from hf_condense.evaluation.run import score
from hf_condense.labels import views
from hf_condense.labels.teacher import Ensemble

STUDENT = "convnet_w32"


@pytest.fixture
def run(data, device, quick, model, spec, tmp_path):
    teacher = Ensemble([model(7)])
    x, y = data(90, 1)
    tx, ty = data(60, 2)

    def go(folder="scores", regimes=("hard", "stored", "online"), seeds=2, protocol=None, rows=None, **more):
        rows = rows or {
            "full": ImageSet(x, y),
            "random": ImageSet(x[:15], y[:15]),
            "ours": ImageSet(x[15:30], y[15:30]),
        }
        return score(
            rows, protocol=protocol or quick(steps=6), students=[STUDENT], regimes=regimes, seeds=seeds, ipc=5,
            device=device, scores_folder=tmp_path / folder,
            **{"teacher": teacher, "key": Key(1), "spec": spec, "test_images": tx, "test_labels": ty} | more,
        )  # fmt: skip

    go.data, go.test_labels = (x, y), ty
    go.folder = tmp_path
    return go


def test_the_grid(run):
    table = run()
    assert table.groups() == [
        ("full", STUDENT, "hard"),
        *((row, STUDENT, regime) for row in ("random", "ours") for regime in ("hard", "stored", "online")),
    ]
    assert len(table.cells) == 14 and len({c["steps"] for c in table.cells}) == 1
    text, markdown = table.text(), table.markdown()
    for word in ("top-1 %", "vs random", "full", "ours", "stored", "small (", "Teacher:", "2 student seeds", "± "):
        assert word in text and word in markdown
    online = next(c for c in table.cells if c["regime"] == "online")
    assert online["label_bytes"] > 4 * 10000 and online["image_bytes"] == 15 * 64
    stored = next(c for c in table.cells if c["regime"] == "stored")
    assert 0 < stored["label_bytes"] < online["label_bytes"]


def test_done_cells_are_kept_and_a_broken_run_goes_on(run):
    table = run(regimes=("hard", "online"))
    cells = run.folder / "scores" / "cells"
    before = {p: p.stat().st_mtime_ns for p in cells.iterdir()}
    lost = next(p for p in before if p.name.startswith("ours"))
    lost.unlink()
    again = run(regimes=("hard", "online"))
    assert {p for p in cells.iterdir() if p.stat().st_mtime_ns != before.get(p)} == {lost}
    assert again.without_cost() == table.without_cost()


def test_equal_runs_write_equal_scores_and_other_settings_other_cells(run, quick):
    a, b = run("a", ("stored",)), run("b", ("stored",))
    assert a.without_cost() == b.without_cost()
    saved = json.loads((run.folder / "a" / "scores.json").read_text())
    assert saved["content"] == json.loads(json.dumps(a.without_cost()))
    assert "seconds" not in json.dumps(saved["content"]) and len(saved["record"]) == len(a.cells)
    c = run("a", ("stored",), protocol=quick(steps=9))
    assert {cell["steps"] for cell in c.cells} != {cell["steps"] for cell in a.cells}


def test_students_of_one_seed_share_their_views(run, monkeypatch):
    """Two rows and two seeds of 6 views a student, and room for 6 views: rows of a seed come one after another."""
    asked = []

    def counted(*what):
        asked.append(what)
        return draw_views(*what)

    monkeypatch.setattr(views, "_drawn", lru_cache(maxsize=6)(counted))
    x, y = run.data
    rows = {"random": ImageSet(x[:15], y[:15]), "ours": ImageSet(x[15:30], y[15:30])}
    table = run(rows=rows, regimes=("hard",))
    assert len(asked) == len(set(asked)) == 12
    assert [(cell["row"], cell["seed"]) for cell in table.cells] == [(row, seed) for row in rows for seed in (0, 1)]


def test_the_column_of_looks_says_where_none_were_taken(run, quick):
    looked, unseen = (
        run(regimes=("hard",), seeds=1, protocol=quick(steps=6, best_every=1), best_seen=seen)
        for seen in (True, False)
    )
    assert "best seen" in unseen.text() and unseen.text().count("not looked at") == 3
    assert "not looked at" not in looked.text() and "best seen" not in run(regimes=("hard",), seeds=1).text()


def test_a_student_that_takes_long_says_how_far_it_is(run, quick, monkeypatch, caplog, capsys):
    """A clock that is 40 s on whenever it is asked, and no terminal: a line about every minute, inside a student too."""
    clock = itertools.count(0.0, 40.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with caplog.at_level(logging.INFO, "hf_condense"):
        run(regimes=("hard",), seeds=1, protocol=quick(steps=10))
    lines = [line for line in caplog.messages if line.startswith("student 2 of 3, epochs (random, ")]
    assert lines and all(re.search(r"\(random, convnet_w32, hard\): \d of 5, about \S+ left$", line) for line in lines)
    assert sum("students: 1 of 3" in line for line in caplog.messages) <= 1
    caplog.clear()
    next((run.folder / "scores" / "cells").glob("random-*")).unlink()
    none = {"wait_for_everyone": lambda: None, "log": lambda *_, **__: None}
    second = SimpleNamespace(process_index=1, num_processes=2, **none)
    with caplog.at_level(logging.INFO, "hf_condense"):
        run(regimes=("hard",), seeds=1, protocol=quick(steps=10), accelerator=second)
    assert not [line for line in caplog.messages if line.startswith("student")], "one process speaks"


def test_whatever_changes_a_score_makes_another_cell(run, quick, model, spec, data):
    """Of one row name, student, regime and seed: a second table is not read from the first one's files."""
    x, y = data(18, 1)
    stages, turned = torch.arange(18) // 9 + 1, y.flip(0)

    def cells(found: ImageSet, **changes) -> set[str]:
        run(rows={"ours": found}, **{"regimes": ("hard",), "seeds": 1} | changes)
        return {p.name for p in (run.folder / "scores" / "cells").glob("ours-*")}

    tests = {"test_images": x[:9], "test_labels": y[:9]}
    changes = [
        (ImageSet(x.flip(0), y), {}), (ImageSet(x, turned), {}), (ImageSet(x, y, train_as_if_images=9), {}),
        (ImageSet(x, y, stages=stages), {}), (ImageSet(x, y, stages=3 - stages), {}),
        (ImageSet(x, y, stages=stages, rates=(0.1, 0.2)), {}), (ImageSet(x, y, stages=stages, rates=(0.1, 0.3)), {}),
        (ImageSet(x, y, formation_factor=2), {}), (ImageSet(x, y), {"protocol": quick(steps=6, crop=(0.5, 1.0))}),
        (ImageSet(x, y), {"seeds": [1]}), (ImageSet(x, y), {"key": Key(2)}), (ImageSet(x, y), tests),
        (ImageSet(x, y), {"spec": replace(spec, mean=(0.4,))}), (ImageSet(x, y), {"spec": replace(spec, std=(0.3,))}),
        (ImageSet(x, y), {"flip": False}),
        (ImageSet(x, y), {"regimes": ("online",)}),
        (ImageSet(x, y), {"regimes": ("online",), "teacher": Ensemble([model(8)])}),
        (ImageSet(x, y), {"regimes": ("stored",)}),
        (ImageSet(x, y), {"regimes": ("stored",), "teacher": Ensemble([model(8)])}),
    ]  # fmt: skip
    there = cells(ImageSet(x, y))
    assert cells(ImageSet(x.clone(), y.clone())) == there
    for number, (found, settings) in enumerate(changes):
        now = cells(found, **settings)
        assert len(now) == len(there) + 1, f"change {number}: {settings}"
        there = now


def test_rows_are_paired_by_seed(run):
    x, y = run.data
    twin = {"random": ImageSet(x[:15], y[:15]), "same": ImageSet(x[:15].clone(), y[:15])}
    table = run(regimes=("hard", "online"), rows=twin)
    for regime in ("hard", "online"):
        difference = table.difference("same", STUDENT, regime)
        assert (difference.mean, difference.std, difference.n) == (0, 0, 2)
        assert table.difference("random", STUDENT, regime) is None


def test_a_row_can_be_several_draws(run):
    x, y = run.data
    draws = {"random": [ImageSet(x[i : i + 15], y[i : i + 15]) for i in (0, 15)]}
    table = run(regimes=("hard",), rows=draws | {"ours": ImageSet(x[30:45], y[30:45])}, seeds=4)
    assert [c["set"] for c in table.cells if c["row"] == "random"] == [0, 1, 0, 1]
    assert table.difference("ours", STUDENT, "hard").test == "prediction"
    for text in (table.text(), table.markdown()):
        assert "what a fresh draw of random would reach" in text and "paired" not in text


def test_robustness_scores_of_a_table():
    def cells(row, regime, values):
        costs = {
            "set": 0,
            "steps": 1,
            "images": 1,
            "image_bytes": 1,
            "label_bytes": 0,
            "seconds": 1.0,
            "peak_memory": 1,
        }
        return [
            {"row": row, "student": "s", "regime": regime, "seed": i, "top1": v, "best_top1": None, **costs}
            for i, v in enumerate(values)
        ]

    rows = (
        cells("full", "hard", [0.935, 0.935])
        + cells("dc", "hard", [0.823, 0.823])
        + cells("random", "hard", [0.738, 0.738])
    )
    table = ScoreTable(rows, {"name": "small"}, "random")
    found = table.robustness("dc", "s", "hard")
    assert found["hlr"]["mean"] == pytest.approx(0.112) and found["ior"]["mean"] == pytest.approx(0.085)
    assert 100 * found["lrs"]["mean"] == pytest.approx(26.3, abs=0.1)
    with pytest.raises(ConfigError, match="syn_any"):
        table.robustness("dc", "s", "stored")
    assert "+8.5 [+8.5, +8.5]" in table.text()


def test_what_is_missing_is_said(run):
    with pytest.raises(ConfigError, match="one or more sets"):
        score({}, protocol=None, students=[], regimes=[], seeds=1, ipc=1, test_images=None, test_labels=None, spec=None,
              key=Key(0), device=None, scores_folder=run.folder)  # fmt: skip
    with pytest.raises(ConfigError, match="hard, stored, online"):
        run(regimes=("soft",))
    with pytest.raises(ConfigError, match="teacher"):
        run(regimes=("stored",), teacher=None)
    assert torch.is_tensor(ImageSet(run.data[0][:3], [0, 1, 2]).labels)


def test_predictions_are_kept_beside_the_scores(run):
    table = run(regimes=("hard",), seeds=1)
    labels = run.test_labels.numpy()
    assert len(table.predictions) == len(table.cells)
    for cell, path in zip(table.cells, table.predictions):
        predicted = np.load(path, allow_pickle=False)
        assert predicted.dtype == np.uint8 and predicted.shape == labels.shape
        assert (predicted == labels).mean() == cell["top1"]
