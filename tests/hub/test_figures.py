"""Figures show what they are given: pixels as they are, every row and class, every curve, as PNG and as PDF."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hf_condense.hub.figures import DPI, WIDTH, Panel, accuracy_for_bytes, comparison, curves


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    found, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (found.append(self), save(self, *a, **k)))
    return found


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_a_comparison_has_a_row_for_each_set_under_the_names_of_the_classes(tmp_path, drawn):
    labels = torch.tensor([0, 0, 1, 1, 2])
    colours = [(250, 40 * k, 0) for k in range(4)]
    sets = {
        f"row {k}": torch.tensor([c], dtype=torch.uint8)[:, :, None, None].expand(5, 3, 8, 8)
        for k, c in enumerate(colours)
    }
    names = ["emu", "a name that is far too long for two images of this size", "tench, Tinca tinca"]
    comparison(tmp_path / "all.png", sets, labels, names)
    pixels = np.asarray(Image.open(tmp_path / "all.png").convert("RGB"))
    shown = [np.argwhere((pixels == np.array(c)).all(-1)) for c in colours]
    areas, tops = [len(found) for found in shown], [found.min(0)[0] for found in shown]
    assert min(areas) > 5 * (0.7 * DPI) ** 2 and max(areas) < 1.05 * min(areas) and tops == sorted(tops)
    said = words(drawn[0])
    assert {"emu", "tench", "row 0", "row 3"} <= set(said) and any(w.endswith("…") for w in said)
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")


def test_ten_images_fill_the_width_of_a_page(tmp_path):
    images = torch.zeros(10, 1, 32, 32, dtype=torch.uint8)
    comparison(tmp_path / "ten.png", {"real images": images, "DM": images}, torch.arange(10), [*"abcdefghij"])
    assert Image.open(tmp_path / "ten.png").size[0] == round(WIDTH * DPI)


def test_curves_are_those_that_are_given_and_many_become_a_range(tmp_path, drawn):
    one, many = {1: 3.0, 2: 2.0, 3: 1.0}, [{1: 1.0 + k, 2: 2.0 + k} for k in range(6)]
    accuracy = Panel("accuracy, hard labels", "epoch", True, {"dm": [{1: 0.25, 2: 0.5}]})
    curves(tmp_path / "c.png", [[Panel("synthesis", "step", False, {"ce": [one], "match": many})], [accuracy]])
    losses, top1 = drawn[0].axes
    assert losses.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.0]
    assert losses.lines[1].get_ydata().tolist() == [3.5, 4.5], "the mean"
    assert top1.lines[0].get_ydata().tolist() == [25.0, 50.0] and top1.get_ylabel() == "top-1 %"
    assert "match (mean and range of 6)" in words(drawn[0])


def test_accuracy_for_bytes_counts_images_and_labels(tmp_path, drawn):
    def line(row: str, regime: str, mean: float, labels: int) -> dict:
        return {"row": row, "student": "convnet", "regime": regime, "top1": {"mean": mean, "std": 0.01},
                "image_bytes": 1000, "label_bytes": labels}  # fmt: skip

    table = [line("full", "hard", 0.9, 0), line("random", "hard", 0.4, 0), line("dm", "stored", 0.6, 9000)]
    accuracy_for_bytes(tmp_path / "a.png", table, "dm")
    places = {(round(bars[0].get_xdata()[0], -2), bars[0].get_ydata()[0]) for bars in drawn[0].axes[0].containers}
    assert places == {(1000, 40.0), (10200, 60.0)}
    assert {"all real images", "random", "dm", "stored labels"} <= set(words(drawn[0]))
