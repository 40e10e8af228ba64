"""The picture of the first page: a real image of each class, the noise that synthesis starts from, and what it becomes.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.picture

DC on Fashion-MNIST at one image a class, as `python -m benchmarks.study dc --ipc 1` makes its sets.
"""

from __future__ import annotations

import os
from pathlib import Path

from datasets import load_dataset

from benchmarks import record
from hf_condense import CondensationTrainer
from hf_condense.data.randomness import Key
from hf_condense.hub.figures import comparison
from hf_condense.selection.real import random_real


def parser():
    found = record.parser(__doc__)
    found.add_argument("--iterations", type=int, default=150)
    found.add_argument("--output", type=Path, default=Path("docs/condensed.png"))
    return found


if __name__ == "__main__":
    options = record.options(parser())
    run = CondensationTrainer(
        "dc", load_dataset(os.path.join(os.environ["HF_CONDENSE_DATA"], "fashion_mnist")), "convnet_w32", ipc=1,
        iterations=options.iterations, real_batch=64, regimes="hard", protocol="dc", precision="fp32",
        threads=options.threads, output_dir=f"runs/picture-{options.iterations}",
    )  # fmt: skip
    made = run.condense()
    real, _ = random_real(run.train, tuple(made.labels.tolist()), run.train.image_size, Key(0, "picture"))
    options.output.parent.mkdir(exist_ok=True)
    rows = {"real": real, "first": made.initial, "condensed": made.images}
    comparison(options.output, rows, made.labels, run.train.class_names)
    print(f"written: {options.output}, {options.output.stat().st_size / 1e3:.0f} kB")
