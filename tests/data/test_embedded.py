import numpy as np

from hf_condense.config import DataSettings
from hf_condense.data.embedded import generated_classes
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source


def test_digits_are_eight_pixels_grey_and_split_by_class():
    found = open_source(DataSettings(), Key(0))
    assert found.train.shape == (1438, 1, 8, 8)
    assert np.abs(np.bincount(found.test.labels) / np.bincount(found.train.labels) - 0.25).max() < 0.01
    assert found.info.license == "cc-by-4.0"
    assert found.info.class_names == tuple("0123456789")
    assert not found.info.held_out
    assert found.train.decoded().max() == 255
    # the split is the same for every seed of a run
    assert found.info.fingerprint == open_source(DataSettings(), Key(1)).info.fingerprint


def test_generated_classes_are_keyed_and_can_be_told_apart():
    splits = generated_classes(200, per_class=4, size=16, key=Key(0))
    again = generated_classes(200, per_class=4, size=16, key=Key(0))
    assert (len(splits["train"]), len(splits["test"])) == (800, 200)
    assert splits["train"][7]["image"].tobytes() == again["train"][7]["image"].tobytes()
    assert splits["train"][7]["image"].tobytes() != generated_classes(8, 4, 16, Key(1))["train"][7]["image"].tobytes()
    found = open_source(DataSettings(), Key(0), dataset=splits)
    images, labels = found.train.decoded().flatten(1).double(), found.train.labels
    means = np.stack([images[labels == c].mean(0) for c in range(200)])
    near = ((found.test.decoded().flatten(1).double().numpy()[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (near == found.test.labels).mean() > 20 / 200
