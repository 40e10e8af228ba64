"""fp32 and bf16 beside each other: the images that they make, and the accuracy of students on them.

    HF_CONDENSE_DATA=<folder with fashion_mnist/ and cifar10/> python -m benchmarks.precision fashion_mnist

Sets of EDC with the frozen networks in either precision, from equal keys; students of one seed differ by the set alone.
`students`: the same random real images, with the students themselves trained in either precision. Real images are
reduced to 16 px and 500 a class, so that it takes minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from benchmarks import record
from benchmarks.sets import Row, Study, as_set, condensed, real_sets, squeezed, trainer
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import score
from hf_condense.evaluation.scores import paired_difference

POOL = {"base_model": "convnet_bn_w32,cifar_wrn16_2", "teachers": "convnet_bn_w32", "squeeze_epochs": 4}
SHARED = {
    "image_size": 16, "max_per_class": 500, "max_test": 2000, "squeeze_schedule": "cosine", "squeeze_lr": 0.05,
    "squeeze_batch": 64, "shard_size": 100, "patch": 4, "crop_min": 0.5, **POOL,
}  # fmt: skip
METHODS = {
    "edc": {"iterations": 75, "match_weight": 0.01},
    "sre2l": {"iterations": 100, "observers": "convnet_bn_w32"},
}
KINDS = ("fp32", "bf16")


def images_apart(sets: dict[str, list]) -> dict[str, float]:
    """Root mean square differences of pixels in [0, 1], as means over sets: between precisions, sets, and from the start."""
    now = {kind: [one.images.float() / 255 for one in made] for kind, made in sets.items()}
    first = [one.initial.float() / 255 for one in sets["fp32"]]

    def apart(one: list, other: list) -> float:
        return float(torch.stack([(a - b).square().mean().sqrt() for a, b in zip(one, other)]).mean())

    equal = [(a == b).flatten(1).all(1).float().mean() for a, b in zip(*now.values())]
    pixels = torch.stack([(a - b).abs().max() for a, b in zip(*now.values())])
    return {
        "share of equal images": float(torch.stack(equal).mean()), "fp32 to bf16": apart(*now.values()), "largest pixel": float(pixels.max()),
        "fp32 to its start": apart(now["fp32"], first), "fp32 to another seed": apart(now["fp32"], now["fp32"][::-1][:1]),
    }  # fmt: skip


def scored(base, rows: dict, regimes, students, seeds: int, precision: str = "fp32") -> dict[tuple, list[float]]:
    """(row, student, regime) -> accuracy of each seed."""
    test, train = base.splits.test, base.train
    cells = score(
        rows, protocol=get_protocol("small"), students=students, regimes=regimes, seeds=seeds, ipc=10,
        teacher=base.teacher(), test_images=test.decoded(), test_labels=torch.from_numpy(test.labels),
        spec=train.plain_spec, flip=base.flip, key=base.key / "students", device=base.device,
        scores_folder=base.folder / "rows", precision=precision,
    ).cells  # fmt: skip
    found: dict[tuple, list[float]] = {}
    for cell in sorted(cells, key=lambda cell: cell["seed"]):
        found.setdefault((cell["row"], cell["student"], cell["regime"]), []).append(cell["top1"])
    return found


def compared(one: list[float], other: list[float]) -> dict:
    """Accuracies, and the difference of the second to the first in points, paired by seed."""
    apart = paired_difference(other, one)
    return {"fp32": one, "bf16": other, "difference": [100 * x for x in (apart.mean, apart.low, apart.high)]}


def parser():
    found = record.parser(__doc__)
    found.add_argument("data", choices=("fashion_mnist", "cifar10", "digits"))
    found.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=sorted(METHODS))
    found.add_argument("--students", nargs="+", default=["convnet_w32"])
    found.add_argument("--sets", type=int, default=3)
    found.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of all runs")
    found.add_argument("--folder", type=Path, default=Path("runs/precision"))
    return found


def main() -> None:
    options = record.options(parser())
    forced = dict(pair.split("=", 1) for pair in options.set)
    study = Study(options.data, {"random": Row("random")}, SHARED, sets=options.sets)
    folder, found = options.folder / options.data, {}
    base = trainer(study, folder, "random", {"regimes": ("hard", "online")}, forced)
    found["pool"], cache = squeezed(base)["top1"], os.environ["HF_CONDENSE_CACHE"]
    rows, real = {"random": real_sets(base, "random", 10, options.sets)}, {}
    for name in options.methods:
        made = {}
        for kind in KINDS:
            run = trainer(study, folder, name, METHODS[name] | {"precision": kind}, forced)
            os.environ["HF_CONDENSE_CACHE"] = cache  # one pool for all
            made[kind], costs = condensed(run, study, options.sets)
            rows[f"{name} {kind}"] = [as_set(one, "images", 1) for one in made[kind]]
            found.setdefault("seconds", {})[f"{name} {kind}"] = [cost["seconds"] for cost in costs]
        found[f"{name} images"] = images_apart(made)
        print(name, found[f"{name} images"], flush=True)
    top1 = scored(base, rows, ("hard", "online"), options.students, options.sets)
    for (row, student, regime), values in top1.items():
        print(row, student, regime, values, flush=True)
        if row.endswith("fp32"):
            other = top1[(row.replace("fp32", "bf16"), student, regime)]
            found[f"{row.split()[0]}, {student}, {regime}"] = compared(values, other)
    real = scored(base, {"random": rows["random"]}, ("hard", "online"), options.students, options.sets, "bf16")
    for (_, student, regime), values in real.items():
        found[f"students, {student}, {regime}"] = compared(top1[("random", student, regime)], values)
    record.write(f"precision_{options.data}", options, {"results": found})


if __name__ == "__main__":
    main()
