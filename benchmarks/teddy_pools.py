"""What a pool of weak models does to images: a small network on small images, IPC 10, hard labels.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.teddy_pools --dataset fashion_mnist|cifar10|digits

500 training images a class at 16 px, ConvNet with BatchNorm of widths 24, 48, 96, trained for 15 epochs ("converged" is its copy after 14). All arms are scored by
the runner of `study.py`; they have the same first images, 300 steps on all 100 images, Adam 0.1, crops of half the area and more,
and recalibrated statistics. `held-out` is what a network of another initialisation, after 3 of 4 epochs, sees under crops:
cross-entropy, and distance of its norm statistics. On CIFAR-10 the claims are gates (exit code 1 where one fails).
"""

from __future__ import annotations

import statistics as st
from dataclasses import replace
from pathlib import Path

import torch

import benchmarks.convnet_bn  # noqa: F401  (its import registers the network)
from benchmarks import record
from benchmarks.sets import Row, Study, condensed, real_sets, trainer
from benchmarks.study import conduct
from hf_condense import create_method
from hf_condense.data.pixels import to_unit

VIEWS = 20
SHARED = {
    "image_size": 16, "max_per_class": 500, "max_test": 2000, "base_model": "convnet_bn", "squeeze_epochs": 15,
    "squeeze_schedule": "cosine", "squeeze_pad": 2, "shard_size": 100, "crop_min": 0.5, "roll": 0, "init": "real",
    "match_weight": 1.0, "lr": 0.1, "iterations": 300, "top1_floor": 0.0, "top1_ceiling": 9.0,
}  # fmt: skip
RECIPE = {
    "steps": 800, "batch": 50, "lr": 2e-3, "crop": (0.3, 1.0), "mix": "none", "schedule": "cosine", "schedule_params": {},
    "ema": None,
}  # fmt: skip


def prior(*epochs: int, **settings) -> Row:
    """Copies of the base after these epochs of its training."""
    pool = {"pool_kind": "prior", "pool_size": len(epochs), "prior_epochs": ",".join(map(str, epochs))}
    return Row("teddy", {**pool, **settings})


ARMS = {
    "random real": Row("random"), "K=1 converged": prior(14), "K=1 weak": prior(4),
    "K=4 prior spread": prior(2, 4, 7, 10), "K=4 prior late": prior(6, 8, 10, 12),
    "K=4 post": Row("teddy", {"pool_kind": "post", "pool_size": 4, "prune_ratios": "0.3,0.4,0.5,0.6"}),
    "K=4 prior spread, weight 0.1": prior(2, 4, 7, 10, match_weight=0.1),
    "K=4 prior spread, weight 0.1, not recalibrated": prior(2, 4, 7, 10, match_weight=0.1, recalibrate=False),
}  # fmt: skip


def judged(study: Study, folder: Path, forced: dict) -> dict[str, dict[str, list[float]]]:
    """Arm -> held-out cross-entropy and statistic distance (each layer with weight 1), a value a seed."""
    found: dict[str, dict[str, list[float]]] = {arm: {"ce": [], "bn": []} for arm in study.rows}
    base, sets = trainer(study, folder, "random", {}, forced), {}
    for arm, row in study.rows.items():
        if row.method == "random":
            sets[arm] = real_sets(base, "random", study.ipc, study.sets)
        else:
            sets[arm] = condensed(trainer(study, folder, row.method, row.settings, forced), study, study.sets)[0]
    method = create_method("teddy", crop_min=0.5, roll=0, first_layer_weight=1.0)
    for seed in range(study.sets):
        other = {**forced, **prior(3).settings, "squeeze_epochs": 4, "seed": 100 + seed}
        judge = trainer(study, folder, "teddy", other, {})
        objective, key = method.objective(judge.prepare()), judge.key / "judged"
        for arm, made in sets.items():
            unit, labels = to_unit(made[seed].images).to(judge.device), made[seed].labels.to(judge.device)
            objective.start(None, unit, labels, key)
            with torch.no_grad():
                terms = [next(iter(objective.terms(unit, labels, view, key / view))) for view in range(VIEWS)]
            for name, log in (("ce", "ce"), ("bn", "matching")):
                found[arm][name].append(st.mean(float(term.logs[log]) for term in terms))
    return found


def claims(found: dict[str, dict[str, list[float]]]) -> dict[str, dict]:
    """What is expected of the arms: whether it holds, and by how much in every seed. Top-1 in points."""
    table: dict[str, dict] = {}

    def points(arm: str, other: str) -> list[float]:
        return [round(100 * (a - b), 2) for a, b in zip(found[arm]["top1"], found[other]["top1"], strict=True)]

    def ratio(arm: str, other: str, name: str) -> list[float]:
        return [round(a / b, 4) for a, b in zip(found[arm][name], found[other][name], strict=True)]

    def claim(name: str, values: list[float], holds: bool) -> None:
        table[name] = {"holds": bool(holds), "per_seed": values}

    spread, one, weak = "K=4 prior spread", "K=1 converged", "K=1 weak"
    for arm in (spread, "K=4 prior late", "K=4 post"):
        gain, share, margin = points(arm, "random real"), ratio(arm, one, "ce"), points(arm, one)
        claim(f"{arm}: 5 points above random real in every seed", gain, min(gain) >= 5)
        claim(f"{arm}: held-out ce at most 0.9 of {one} in every seed", share, max(share) <= 0.9)
        claim(f"{arm}: at most 1 point below {one} on average", margin, st.mean(margin) >= -1)
    below, average, above = ratio(spread, weak, "bn"), ratio(spread, one, "bn"), points(spread, weak)
    claim(f"{spread}: held-out bn below {weak} in every seed", below, max(below) < 1)
    claim(f"{spread}: held-out bn below {one} on average", average, st.mean(average) < 1)
    claim(f"{spread} above {weak} on average", above, st.mean(above) > 0)
    margin = points(f"{spread}, weight 0.1", f"{spread}, weight 0.1, not recalibrated")
    claim("recalibrated not below not recalibrated on average", margin, st.mean(margin) >= 0)
    return table


def parser():
    found = record.parser(__doc__)
    found.add_argument("--dataset", default="fashion_mnist")
    found.add_argument("--seeds", type=int, default=4)
    found.add_argument("--steps", type=int, default=800, help="optimiser steps of a student")
    found.add_argument("--folder", type=Path, default=Path("runs/study/teddy"), help="where sets and scores are kept")
    found.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of all runs")
    return found


def main() -> None:
    options = record.options(parser())
    shared = {k: v for k, v in SHARED.items() if k != "image_size" or options.dataset != "digits"}
    study = Study(options.dataset, ARMS, shared, recipe=RECIPE | {"steps": options.steps}, sets=options.seeds)
    study = replace(study, students=("convnet_bn",))
    forced = dict(pair.split("=", 1) for pair in options.set)
    result = conduct(study, options.folder / options.dataset, forced)
    found = judged(study, options.folder / options.dataset, forced)
    for row in result["rows"]:
        found[row["row"]]["top1"] = row["top1"]
    table = claims(found)
    for name, row in table.items():
        print(f"{'holds' if row['holds'] else 'FAILS':6} {name}: {row['per_seed']}")
    record.write(f"teddy_pools_{options.dataset}", options, {"arms": found, "claims": table, **result}, show=False)
    if options.dataset == "cifar10" and not all(row["holds"] for row in table.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
