"""`--quick` takes about a minute whatever the preset, and what a person gives is checked beside what it shortens."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from datasets.features import ClassLabel

from hf_condense.errors import ConfigError
from hf_condense.methods import list_methods
from hf_condense.run.counted import Counted, flops
from hf_condense.run.counted_probe import CountedProbe
from hf_condense.run.resolve import load_preset, preset_names, resolve
from hf_condense.trainer import CondensationTrainer

RATE = 2e10  # floating-point operations a second: less than one core gives
LARGEST = ("imagenet-1k", "imagenet-10", "imagenette", "tiny-imagenet", "cifar100", "digits")
PRESETS = [(m, {}, m) for m in list_methods() if m != "pdd"] + [
    ("pdd", {"base_method": base}, f"pdd-{base}") for base in ("idc", "mtt")
]


def expected(trainer: CondensationTrainer) -> float:
    """Seconds by the number of operations: measured ones differ from moment to moment."""
    run = trainer.pipeline.run
    counted = CountedProbe(run, lambda work, precision: flops(work, precision) / RATE, "fp32", Counted())
    return sum(stage.cost(run, counted).seconds for stage in trainer.pipeline.stages.values())


def pretended(name: str, classes: int, side: int, channels: int) -> Dataset:
    """Noise with the name of a dataset, whose preset it therefore gets; 60 images of 12 classes at most."""
    rng, classes, side = np.random.default_rng(0), min(classes, 12), min(side, 32)
    shape = (side, side, 3) if channels == 3 else (side, side)
    images = [rng.integers(0, 255, shape, dtype=np.uint8) for _ in range(classes)]
    features = Features({"image": Image(), "label": ClassLabel(names=[f"c{i}" for i in range(classes)])})
    data = Dataset.from_dict({"image": images * 75, "label": [*range(classes)] * 75}, features=features)
    data.info.dataset_name = name
    return data


@pytest.mark.parametrize(("method", "more", "family"), PRESETS)
def test_any_preset_takes_about_a_minute(method, more, family, tmp_path):
    name = next((n for n in LARGEST if n in preset_names(family)), None)
    preset = load_preset(family if name else "edc", name or "imagenet-1k", 10, "paper")
    data = pretended(name or "imagenet-1k", preset.classes, preset.image_size, 3)
    trainer = CondensationTrainer(method, data, quick=True, threads=1, output_dir=str(tmp_path), **more)
    assert 0 < expected(trainer) < 90
    assert trainer.train.num_classes <= 10 and trainer.train.image_size <= 32


def test_the_smallest_preset_becomes_no_longer(tmp_path):
    own = {"method": "edc", "dataset": "digits", "variant": "official"}
    facts = None
    whole, quick = resolve(own, facts), resolve({**own, "quick": True}, facts)
    assert quick.method.iterations == 20 < whole.method.iterations == 75
    for section, values in whole.sections().items():
        for name, value in values.items():
            shortened = quick.sections()[section][name]
            if quick.came_from[name] == "quick" and type(value) is int:
                assert shortened <= value, name


@pytest.mark.parametrize(
    "given",
    [
        {"method": "mtt", "expert_epochs": 5},
        {"method": "mtt", "first_epochs": 10},
        {"method": "mtt", "span": 7},
        {"method": "idc", "formation_factor": 3},
        {"method": "edc", "base_model": "convnet_w32", "teachers": "convnet_w32"},
        {"method": "coreset", "selection": "el2n_hard"},
        {"method": "teddy", "pool_size": 4, "prune_ratios": "0.3"},
    ],
)
def test_what_a_person_gives_is_checked_beside_what_quick_shortens(given):
    quick = resolve({"dataset": "cifar10", "quick": True, **given}, None)
    assert all(quick.came_from[name] == "flag" for name in given)


def test_what_quick_shortens_does_not_hide_what_cannot_be():
    with pytest.raises(ConfigError, match="expert_epochs=2.*4 or more"):
        resolve({"method": "mtt", "dataset": "cifar10", "quick": True, "expert_epochs": 2}, None)


def test_quick_keeps_the_networks_and_classes_that_a_person_names():
    given = {
        "method": "edc",
        "dataset": "cifar100",
        "base_model": "resnet18",
        "classes": "apple,bear",
        "image_size": 24,
    }
    quick = resolve({**given, "quick": True, "students": "convnet_w64"}, None)
    assert (quick.squeeze.base_model, quick.evaluation.students) == (("resnet18",), ("convnet_w64",))
    assert (quick.data.classes, quick.data.image_size, quick.squeeze.teachers) == (("apple", "bear"), 24, None)
