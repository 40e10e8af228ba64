"""EDC on Fashion-MNIST at 32 px, IPC 10, beside random real images under the same labels and protocol.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.fashion_edc select|ladder|why|final

`select` compares iterations T and matching weight r on a fifth of the training images, never on the test set.
`ladder` adds EDC's choices one by one (rows B to G of its Fig. 1). `why` asks what many iterations do to images.
`final` scores the chosen setting on the test images. A row takes three condensed sets (or draws), one for each seed.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks import fashion
from benchmarks.fashion import SEEDS, pool, random_sets, scored
from benchmarks.record import write
from hf_condense import CondensationTrainer, create_method
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import ImageSet
from hf_condense.methods.base import Context
from hf_condense.plan import Synthetic

GRID = [(25, 0.1), (75, 0.01), (75, 0.1), (75, 1.0), (200, 0.1), (500, 0.01), (500, 0.1)]
CHOSEN = {"iterations": 75, "match_weight": 0.01}  # what `select` found
# every row changes one thing in the row above it: method settings, then protocol settings
PLAIN = {"alpha": 1.0, "flatness_weight": 0.0, "crop_min": 0.08}
LATE = {"schedule_params": {"zeta": 1.0}, "batch": 100, "ema": None, "crop": (0.08, 1.0)}
LADDER = {
    "B real images, G-VBSM matching": (PLAIN, LATE),
    "C smoothing rate": ({}, {"schedule_params": {"zeta": 2.0}}),
    "D flatness": ({"flatness_weight": 0.25}, {}),
    "E small batch": ({}, {"batch": 25}),
    "F class-aware matching": ({"alpha": 0.5}, {}),
    "G weak crops, averaged weights": ({"crop_min": 0.5}, {"crop": (0.5, 1.0), "ema": 0.99}),
}


def trainer(part: str, **settings) -> CondensationTrainer:
    """`select` and `why` see the training images only."""
    return fashion.trainer(
        "edc", f"{part}-crop{settings.get('crop_min', 0.5)}", held_out=part in ("select", "why"), ipc=10,
        base_model="convnet_d1,convnet_w32,cifar_wrn16_2", teachers="convnet_d1,convnet_w32", squeeze_epochs=3,
        squeeze_schedule="cosine", protocol="small", shard_size=100, patch=4, students="convnet_w32", **settings,
    )  # fmt: skip


def synthesise(base: CondensationTrainer, context: Context, seed: int, **settings) -> Synthetic:
    """One condensed set, made with the settings of `base` and these."""
    name = "-".join(f"{k}={v}" for k, v in sorted(settings.items())) or "base"
    method = create_method("edc", **{**asdict(base.config.method), **settings})
    return fashion.synthesise(base, context, seed, name, method)


def sets(base, context, **settings) -> list[ImageSet]:
    made = [synthesise(base, context, seed, **settings) for seed in range(SEEDS)]
    return [ImageSet(m.images, m.labels) for m in made]


def select() -> dict:
    base = trainer("select")
    context = base.prepare()
    rows = {"random": random_sets(base)}
    seconds = {}
    for steps, weight in GRID:
        started = time.perf_counter()
        made = sets(base, context, iterations=steps, match_weight=weight)
        rows[f"T={steps} r={weight}"] = made
        seconds[f"T={steps} r={weight}"] = (time.perf_counter() - started) / SEEDS
    return {"rows": scored(base, rows, get_protocol("small")), "seconds_per_set": seconds, "pool": pool(base)}


def ladder() -> dict:
    found, method, recipe = {}, dict(CHOSEN), {}
    bases = {crop: trainer("ladder", crop_min=crop) for crop in (0.08, 0.5)}
    contexts = {crop: base.prepare() for crop, base in bases.items()}
    for name, (method_change, recipe_change) in LADDER.items():
        method |= method_change
        recipe |= recipe_change
        crop = method["crop_min"]
        rows = {"random": random_sets(bases[crop]), name: sets(bases[crop], contexts[crop], **method)}
        found[name] = scored(bases[crop], rows, get_protocol("small", **recipe))
    return {"rows": found, "chosen": CHOSEN}


@torch.no_grad()
def looks(made: Synthetic) -> dict[str, float]:
    """What optimisation did to the images: how far they went, how alike a class became, how rough and clipped they are."""
    now, first = made.images.float() / 255, made.initial.float() / 255
    by_class = now.flatten(1).view(10, -1, now[0].numel())
    step = (now[..., 1:] - now[..., :-1]).square().mean().sqrt()
    return {
        "moved": float((now - first).square().mean().sqrt()),
        "class_spread": float(by_class.var(1).mean().sqrt()),
        "roughness": float(step),
        "clipped": float(((made.images == 0) | (made.images == 255)).float().mean()),
        "clipped_first": float(((made.initial == 0) | (made.initial == 255)).float().mean()),
    }


def why() -> dict:
    """What more iterations do to images. T = 500 with the step length cut so that it travels as far as T = 75 tells
    whether it is the way that costs accuracy, or the number of steps."""
    base = trainer("select")
    context = base.prepare()
    short = {"iterations": 500, "match_weight": 0.1, "lr": 0.05 * 75 / 500}
    tries = {f"T={t} r={r}": {"iterations": t, "match_weight": r} for t, r in GRID} | {
        "T=500 r=0.1 short steps": short
    }
    rows, facts = {"random": random_sets(base)}, {}
    for name, change in tries.items():
        made = [synthesise(base, context, seed, **change) for seed in range(SEEDS)]
        rows[name] = [ImageSet(m.images, m.labels) for m in made]
        facts[name] = {k: sum(looks(m)[k] for m in made) / SEEDS for k in looks(made[0])}
        facts[name]["unseen_top1"] = unseen(base, rows[name])
        print(name, facts[name], flush=True)
    return {"rows": scored(base, rows, get_protocol("small")), "images": facts}


def unseen(base, made: list[ImageSet]) -> float:
    """Top-1 on the images of a network that took no part in making them."""
    from hf_condense.models.pool import squeeze

    settings = replace(base.config.squeeze, base_model=("convnet_w64",), teachers=None)
    judge = squeeze(
        settings, base.train, base.splits.test, image_size=32, key=base.key / "judge", device=base.device,
        cache_folder=Path(os.environ.get("HF_CONDENSE_CACHE", "runs/cache")), progress=False,
    )[0].model  # fmt: skip
    with torch.no_grad():
        right = [(judge(s.images.float() / 255).argmax(1) == s.labels).float().mean() for s in made]
    return float(sum(right) / len(right))


def final() -> dict:
    base = trainer("final")
    context = base.prepare()
    made = [synthesise(base, context, seed, **CHOSEN) for seed in range(SEEDS)]
    rows = {
        "full": ImageSet(base.train.decoded(), torch.from_numpy(base.train.labels)),
        "random": random_sets(base),
        "initial": [ImageSet(m.initial, m.labels) for m in made],
        "edc": [ImageSet(m.images, m.labels) for m in made],
    }
    students = ("convnet_w32", "test_byobnet")
    found = scored(base, rows, get_protocol("small"), students, ("hard", "stored", "online"))
    return {"rows": found, "pool": pool(base), "chosen": CHOSEN}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("select", "ladder", "why", "final"))
    part = parser.parse_args().part
    started = time.perf_counter()
    result = {"select": select, "ladder": ladder, "why": why, "final": final}[part]()
    result["seconds"] = round(time.perf_counter() - started)
    write(f"fashion_edc_{part}", f"python -m benchmarks.fashion_edc {part}", torch.device("cpu"), result)
