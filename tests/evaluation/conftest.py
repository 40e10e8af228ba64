import pytest
import torch

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.students import StudentScorer
from hf_condense.models.loading import load_model

torch.set_num_threads(1)


def stripes(n: int, seed: int, classes: int = 3, noise: float = 60.0):
    """Images whose class is the position of a bright stripe, under noise: easy for any network, not for chance."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    images = torch.rand(n, 1, 8, 8, generator=generator) * noise
    for c in range(classes):
        images[labels == c, :, 2 * c : 2 * c + 2] += 150  # rows: flips leave them where they are
    return images.to(torch.uint8), labels


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu")


@pytest.fixture
def data():
    return stripes


@pytest.fixture
def model(spec):
    def make(seed: int, name: str = "convnet_w32"):
        return load_model(name, spec, key=Key(seed, "model"))

    return make


@pytest.fixture
def spec() -> ImageSpec:
    return ImageSpec(num_classes=3, image_size=8, channels=1, mean=(0.5,), std=(0.25,))


@pytest.fixture
def scorer(device, spec):
    """Trains students and scores them on given images."""

    def make(protocol, test_images, test_labels, spec=spec, **more):
        return StudentScorer(protocol, spec, test_images, test_labels, device, **more)

    return make


@pytest.fixture
def quick():
    """The protocol `small`, shorter; without crops and mixing, which would cut stripes off."""

    def make(**changes):
        return get_protocol("small", **{"steps": 40, "batch": 10, "crop": None, "mix": "none", "ema": None} | changes)

    return make
