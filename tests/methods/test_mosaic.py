"""Mosaic: CIM's images, which students see as several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_condense import CondensationTrainer, DistilledDataset, create_method
from hf_condense.data.formation import decode
from hf_condense.errors import ConfigError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    trainer = CondensationTrainer(
        "mosaic", "digits", output_dir=str(tmp_path_factory.mktemp("mosaic")), ipc=2, max_per_class=40, max_test=60,
        base_model="convnet_d1", squeeze_epochs=4, squeeze_lr=0.05, threads=1, precision="fp32", iterations=20,
        candidates=30, students="convnet_d1", student_epochs=2, student_seeds=1, regimes="hard", baselines="random",
        store="none",
    )  # fmt: skip
    trainer.run()
    return trainer


def test_students_are_trained_on_every_tile_at_the_whole_size(run):
    data = DistilledDataset.load(run.folder)
    batches = list(data.training_batches("hard", epoch=0))
    assert sum(len(batch.images) for batch in batches) == 4 * len(data) == 80
    assert all(batch.images.shape[1:] == (1, 8, 8) for batch in batches)
    assert data.content["training"]["decode"]["formation"]["factor"] == 2
    cells = [row for row in run.evaluate().cells if row["row"] != "random"]
    assert {row["images"] for row in cells} == {20}  # as they are stored


def test_tiles_are_whole_real_images_of_their_class_with_small_changes(run):
    data, train = DistilledDataset.load(run.folder), run.splits.train
    place = {
        row: i for i, row in enumerate(train.rows.tolist())
    }  # of a row of the split among the images that are used
    rows = np.array([[place[row] for row in each] for each in data.content["source_rows"]["rows"]])
    assert rows.shape == (20, 4) and (train.labels[rows] == data.labels.numpy()[:, None]).all()
    tiles = decode(data.images / 255, 2)
    real = train.images(rows.T.ravel()) / 255
    small = F.interpolate(real, (4, 4), mode="bilinear", antialias=True)
    seen = F.interpolate(small, (8, 8), mode="bilinear", align_corners=False)
    assert float((tiles - seen).abs().mean()) < 0.25 and not torch.allclose(tiles, seen, atol=0.05)


def test_the_factor_divides_the_side(run):
    method = create_method("mosaic", tile_factor=3)
    with pytest.raises(ConfigError, match="tile_factor=3: expected a divisor of 8"):
        method.check(replace(run.prepare(), ipc=1))
    assert create_method("mosaic").protocol("cifar10") == "small"
