"""An IPC above the size of a class is refused before any work, with the smallest class named; one below it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.errors import DataError
from hf_condense.methods import create_method, list_methods
from hf_condense.methods.base import Context
from tests.data.small_images import image_dataset

# settings -> real images that an image begins with
CASES = [
    ("random", {}, 1), ("coreset", {"selection": "random"}, 1), ("coreset", {"selection": "pca_tiles"}, 4),
    ("coreset", {"selection": "herding"}, 1), ("rded", {}, 1), ("rded", {"rded_factor": 2}, 4), ("edc", {}, 1),
    ("edc", {"init": "rded", "rded_factor": 2}, 4), ("edc", {"init": "noise"}, 0), ("sre2l", {"init": "noise"}, 0),
    ("cda", {"init": "real"}, 1), ("sre2lpp", {"rded_factor": 2}, 4), ("cvdd", {}, 1), ("delt", {}, 1), ("delt", {"init": "noise"}, 0), ("dwa", {}, 1), ("dwa", {"init": "noise"}, 0), ("fadrm", {}, 1), ("fadrmplus", {"rded_factor": 2}, 4), ("wmdd", {"init": "real"}, 1), ("gvbsm", {"init": "real"}, 1),
    ("gvbsm", {"init": "noise"}, 0), ("teddy", {"init": "real"}, 1), ("dc", {}, 0), ("dc", {"init": "real"}, 1),
    ("dsa", {}, 1), ("dm", {}, 1), ("dm", {"init": "noise"}, 0), ("idc", {}, 4), ("idc", {"formation_factor": 1}, 1),
    ("idc", {"init": "noise"}, 0), ("dream", {}, 4), ("lgm", {}, 0), ("lgm", {"space": "normalised"}, 0), ("mtt", {}, 1), ("tesla", {}, 1), ("datm", {"init": "real"}, 1),
    ("ncfm", {}, 4), ("ncfm", {"formation_factor": 1}, 1),
    ("bps", {}, 1), ("ca2d", {}, 4), ("ca2d", {"rded_factor": 1}, 1), ("ccfs", {"base_method": "random"}, 1), ("cim", {}, 4), ("mosaic", {}, 4),
    ("pdd", {"base_method": "dm", "stages": 1}, 1), ("pdd", {"base_method": "idc", "stages": 1}, 4),
]  # fmt: skip
SMALLEST = 4


@pytest.fixture(scope="module")
def source():
    """Training images of three classes, of which emu has the fewest."""
    from datasets import DatasetDict

    train = image_dataset([0] * 9 + [1] * 8 + [2] * SMALLEST)
    return open_source(DataSettings(), Key(0), dataset=DatasetDict(train=train, test=image_dataset([0, 1, 2]))).train


def seen(source, ipc: int) -> Context:
    return Context(source, source.image_size, ipc, Key(0), torch.device("cpu"), "fp32")


def test_every_method_is_looked_at():
    assert {name for name, _, _ in CASES} == set(list_methods())


@pytest.mark.parametrize(("name", "settings", "each"), CASES)
def test_the_smallest_class_is_named(source, name, settings, each):
    method = create_method(name, **settings)
    assert method.real_images_each == each
    if not each:
        return method.check(seen(source, 1000))
    most = SMALLEST // each
    method.check(seen(source, most))
    with pytest.raises(
        DataError, match=rf"^invalid ipc={most + 1}.*at most {most} \(class 'emu' has 4 training images"
    ):
        method.check(seen(source, most + 1))


@pytest.mark.parametrize(
    ("name", "settings"),
    [(n, s) for n, s, _ in CASES if n not in ("bps", "ca2d", "ccfs", "cim", "mosaic", "rded", "sre2lpp", "cvdd", "delt", "fadrm", "fadrmplus", "pdd") and s.get("init") != "rded"]
)  # fmt: skip
def test_what_is_not_refused_begins(source, name, settings):
    """The check and the start agree, for methods whose start needs no network."""
    if settings.get("selection") in ("herding", "pca_tiles") or name == "dream":
        pytest.skip("needs a network")
    method = create_method(name, **settings)
    most = SMALLEST // method.real_images_each if method.real_images_each else 10
    for ipc in (most, most + 1):
        context = Context(source, source.image_size, ipc, Key(0), torch.device("cpu"), "fp32")
        shard = method.plan(3, ipc).groups[0][2]
        assert shard.labels == (2,) * ipc
        if ipc > most and method.real_images_each:
            with pytest.raises(DataError, match="class 'emu' has 4 training images"):
                method.start(shard, context)
        else:
            begun = method.start(shard, context)
            assert len(begun.images) == ipc
            assert (np.asarray(begun.origin) >= 0).all() == bool(method.real_images_each)


def test_a_run_is_refused_before_its_first_stage(tmp_path):
    from hf_condense.trainer import CondensationTrainer

    with pytest.raises(DataError, match="ipc=5.*class '0'"):
        CondensationTrainer("rded", "digits", ipc=5, max_per_class=4, output_dir=str(tmp_path / "run"))
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
