"""Which row of a head is which class."""

import pytest
import torch
from torch import nn

from hf_condense.errors import ModelError
from hf_condense.models.heads import class_rows, keep_rows, replace

IMAGENET = [
    ("n01440764", "tench, Tinca tinca"),
    ("n02012849", "crane"),
    ("n03126707", "crane"),
    ("n03425413", "gas pump, petrol pump"),
]


@pytest.mark.parametrize(
    "classes, rows",
    [
        (["tench, Tinca tinca", "crane", "crane", "gas pump, petrol pump"], [0, 1, 2, 3]),  # doubles by position
        (["gas_pump", "Tench"], [3, 0]),  # synonyms, spelling, a subset in another order
        (["n03126707", "n02012849"], [2, 1]),
        (["crane", "tench"], None),  # which crane?
        (["tench", "Tinca tinca"], None),  # two classes, one row
        (["tench", "shark"], None),
        (["tench"] * 5, None),
    ],
)
def test_class_rows(classes, rows):
    assert class_rows(IMAGENET, classes) == rows


def test_names_that_are_not_known_do_not_map():
    assert class_rows(None, ["a"]) is None and class_rows([("a",)], None) is None


def test_whole_names_go_before_synonyms():
    assert class_rows([("maillot",), ("maillot, tank suit",)], ["maillot, tank suit", "maillot"]) == [1, 0]


@pytest.mark.parametrize("last", [nn.Linear(6, 4), nn.Conv2d(6, 4, 1)])
def test_rows_are_put_in_order(last):
    body = nn.Sequential(nn.Linear(4, 4), last)
    kept = last.weight.detach().clone(), last.bias.detach().clone()
    keep_rows(body, [3, 1], 4, "net")
    assert torch.equal(last.weight, kept[0][[3, 1]]) and torch.equal(last.bias, kept[1][[3, 1]])
    assert 2 in (getattr(last, "out_features", 0), getattr(last, "out_channels", 0))


def test_new_head_and_no_head():
    body = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4))
    replace(body, 9, 4, "net")
    assert body(torch.rand(2, 4)).shape == (2, 9) and body[0].out_features == 3
    with pytest.raises(ModelError, match="last layer is linear with 5 outputs"):
        replace(body, 2, 5, "net")
