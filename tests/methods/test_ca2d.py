"""CA2D: crops come from the images that CAD keeps, and small images are cut as RDED's presets cut them."""

from __future__ import annotations

import numpy as np
import pytest

from hf_condense import CondensationTrainer, create_method
from hf_condense.methods.watched import watched
from hf_condense.run.resolve import load_preset
from hf_condense.selection.scores import cad

FEW = {"rded_factor": 1, "rded_candidates": 6, "dynamics_epochs": 4, "cad_window": 2, "cad_band": 1}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return CondensationTrainer(
        "ca2d", "digits", output_dir=str(tmp_path_factory.mktemp("ca2d")), ipc=2, max_per_class=20, max_test=40, classes="0,1,2",
        base_model="convnet_d1", squeeze_epochs=2, threads=1, precision="fp32", min_top1_over_chance=0.0, **FEW,
    ).prepare()  # fmt: skip


@pytest.mark.parametrize("keep", ["high", "low"])
def test_crops_are_cut_from_the_end_of_cad_that_is_kept(context, keep):
    method = create_method("ca2d", **FEW, keep=keep)
    rows = context.train.rows_of(1)
    scores = cad(watched(method.settings, context).probability[:, rows], 2, 1).numpy()
    made = method.start(method.plan(3, 2).groups[0][1], context)
    places = np.searchsorted(rows, made.origin)
    others = np.sort(scores)[6] if keep == "low" else np.sort(scores)[-7]
    assert (scores[places] <= others).all() if keep == "low" else (scores[places] >= others).all()


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist"])
def test_small_images_have_one_crop_and_students_see_it_whole(dataset):
    found, rded = (load_preset(name, dataset, 10, "paper").values for name in ("ca2d", "rded"))
    assert found["rded_factor"] == rded["rded_factor"] == 1
    assert found["protocol"] == create_method("ca2d").protocol(dataset) == create_method("rded").protocol(dataset)
