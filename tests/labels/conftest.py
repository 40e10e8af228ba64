import pytest
import torch

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.loading import load_model

torch.set_num_threads(1)
CLASSES = 3


def random_images(n: int, side: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8, generator=generator)


def tiny_model(seed: int, classes: int = CLASSES, name: str = "convnet_w32"):
    return load_model(
        name,
        ImageSpec(num_classes=classes, image_size=8, channels=1, mean=(0.5,), std=(0.25,)),
        key=Key(seed, "model"),
    )


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu")


@pytest.fixture(scope="session")
def teacher() -> Ensemble:
    return Ensemble([tiny_model(1), tiny_model(2)])


@pytest.fixture
def images():
    return random_images


@pytest.fixture
def model():
    return tiny_model
