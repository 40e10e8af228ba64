"""What the Fashion-MNIST studies share: their data, rows of random images, and scoring under one protocol."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from datasets import load_dataset

from hf_condense import CondensationTrainer
from hf_condense.engine import Engine
from hf_condense.evaluation.run import ImageSet, score
from hf_condense.methods.base import Context
from hf_condense.plan import Synthetic
from hf_condense.selection.real import random_real

ROOT = Path("runs/fashion")
SEEDS = 3
DATA = {"image_size": 32, "channels": "1", "max_per_class": 1000, "threads": 1, "precision": "fp32"}


def trainer(method: str, name: str, held_out: bool = False, **settings) -> CondensationTrainer:
    """A run on 1,000 training images a class; `held_out` sees the training images only and scores on a fifth of them."""
    data = load_dataset(os.path.join(os.environ["HF_CONDENSE_DATA"], "fashion_mnist"))
    limits = {"max_test": 2000} if held_out else {}
    return CondensationTrainer(
        method, data["train"] if held_out else data, output_dir=str(ROOT / name), **{**DATA, **limits, **settings}
    )


def synthesise(base: CondensationTrainer, context: Context, seed: int, name: str, method=None) -> Synthetic:
    """One condensed set, by `method` or that of `base`; kept in a folder of its own."""
    engine = Engine(base.accelerator, base.folder / "sets" / f"{name}-seed{seed}", 10**9)
    return engine.run(method or base.method, replace(context, key=base.key / "set" / seed))


def random_sets(base: CondensationTrainer, ipc: int = 10) -> list[ImageSet]:
    """Random real images, a draw for each seed."""
    labels = [c for c in range(base.train.num_classes) for _ in range(ipc)]
    size = base.train.image_size
    draws = (random_real(base.train, tuple(labels), size, base.key / "random" / i)[0] for i in range(SEEDS))
    return [ImageSet(images, torch.tensor(labels)) for images in draws]


def scored(
    base, rows, protocol, students=("convnet_w32",), regimes=("hard", "stored"), ipc=10, folder=""
) -> list[dict]:
    """The summary rows of the score table, printed as they come; `base` labels for all rows."""
    test = base.splits.test
    place = ROOT / "scores" / (folder or base.folder.name) / protocol.name.replace("/", "_")[:60]
    table = score(
        rows, protocol=protocol, students=students, regimes=regimes, seeds=SEEDS, ipc=ipc, teacher=base.teacher(),
        test_images=test.decoded(), test_labels=torch.from_numpy(test.labels), test_digest=test.fingerprint,
        num_classes=10, image_size=base.train.image_size, flip=True, mean=base.train.mean, std=base.train.std,
        key=base.key / "students", device=base.device, scores_folder=place,
    )  # fmt: skip
    print(table.text(), flush=True)
    return table.summary()


def pool(base: CondensationTrainer) -> dict[str, float]:
    """Top-1 of each network."""
    return {member.name: member.top1 for member in base.squeeze()}
