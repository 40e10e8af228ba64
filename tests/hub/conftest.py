"""A small artefact, made anew for each test that changes it."""

from dataclasses import dataclass, replace

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.data.source import SourceInfo
from hf_condense.hub import provenance
from hf_condense.hub.artefact import Artefact
from hf_condense.methods import method_info


@dataclass
class Member:
    """The fields of `models.pool.PoolMember` that provenance reads."""

    name: str = "convnet_w32"
    top1: float = 0.71
    sha256: str = "ab" * 32
    epochs: int = 3
    parameters: int = 12_345
    source: dict = None
    is_weak: bool = False
    processes: int | None = None


def draw(channels: int = 3, ipc: int = 4, side: int = 8, classes: int = 3):
    """uint8 images [classes * ipc, channels, side, side], labels and soft labels."""
    random = Key(7, "images", channels).numpy()
    n = classes * ipc
    images = torch.from_numpy(random.integers(0, 256, (n, channels, side, side), dtype="uint8"))
    labels = torch.arange(classes).repeat_interleave(ipc)
    soft = torch.from_numpy(random.normal(size=(n, classes))).softmax(1).half()
    return images, labels, soft


SOURCE = SourceInfo(
    id="uoft-cs/cifar10", revision="0b2714987fa478483af9968de7c934580d0bb9a2", train_split="train", test_split="test",
    license="mit", fingerprint="0123456789abcdef", class_names=("plane", "car", "bird"), held_out=False, skipped=0,
)  # fmt: skip


def make_content(source: dict | None = None, **changes):
    origin = {"id": None, "revision": None, "pretrained": False}
    asked = {
        "method": method_info("edc"),
        "config": {"run": {"ipc": 4, "seed": 0, "output_dir": "/tmp/elsewhere"}, "data": {"dataset": "cifar10"}},
        "source": replace(SOURCE, **(source or {})),
        "models": [provenance.describe_model(Member(source=origin), ["observer", "teacher"])],
        "regimes": ["hard", "online"],
        "training": provenance.training_block("small", None, 6, 2),
    }
    return provenance.gather_content(**{**asked, **changes})


def make_record(**changes):
    stages = {
        "squeeze": {"seconds": 61.5, "peak_bytes": 5 * 10**8},
        "condense": {"seconds": 130.0, "peak_bytes": 10**9},
    }
    return provenance.gather_record(stages, torch.device("cpu"), **changes)


def make_artefact(channels: int = 3, **changes) -> Artefact:
    images, labels, soft = draw(channels)
    asked = {
        "images": images,
        "labels": labels,
        "class_names": ["plane", "car", "bird"],
        "content": make_content(),
        "record": make_record(scores_table="| row | hard |\n| --- | --- |\n| edc | 51.2 ± 0.4 |"),
        "soft_labels": soft,
        "soft_label_kind": {"kind": "probabilities", "temperature": 1.0, "ensemble": "logits"},
    }
    return Artefact(**{**asked, **changes})


@pytest.fixture
def artefact():
    return make_artefact


@pytest.fixture
def content_of():
    return make_content


@pytest.fixture
def record_of():
    return make_record
