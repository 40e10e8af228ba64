import json

import numpy as np
import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.evaluation.report import ScoreTable
from hf_condense.evaluation.run import ImageSet, score
from hf_condense.labels.teacher import Ensemble

STUDENT = "convnet_w32"


@pytest.fixture
def run(data, device, quick, model, tmp_path):
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
            test_images=tx, test_labels=ty, num_classes=3, key=Key(1), device=device, scores_folder=tmp_path / folder,
            **{"teacher": teacher} | more,
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
        score({}, protocol=None, students=[], regimes=[], seeds=1, ipc=1, test_images=None, test_labels=None, num_classes=1,
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
