"""What a pool of weak models does to images: a small network on small images, IPC 10, hard labels.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.teddy_pools --dataset fashion_mnist|cifar10|digits

500 training images a class at 16 px, ConvNet with BatchNorm of widths 24, 48, 96, trained for 15 epochs. All arms have
the same first images, 300 steps on all 100 images, Adam 0.1, crops of half the area and more, and statistics that were
measured anew on real images without augmentation. A seed draws first images, views and students. `held-out` is what a
network of another initialisation, trained for 3 epochs, sees under crops: cross-entropy, and distance of its norm
statistics. On CIFAR-10 the signs are gates (the exit code tells), elsewhere they are only printed.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics as st
import time
from dataclasses import replace
from pathlib import Path

import torch
from datasets import load_dataset

import benchmarks.convnet_bn  # noqa: F401  (its import registers the network)
from benchmarks.record import write
from hf_condense import CondensationTrainer, create_method
from hf_condense.config import WeakPoolSettings
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.cache import cache_folder
from hf_condense.data.pixels import to_unit
from hf_condense.engine import Engine
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.students import train_student
from hf_condense.methods.base import Context
from hf_condense.models.members import ModelPool, PoolMember
from hf_condense.models.pool import train_member
from hf_condense.models.recalibration import recalibrate
from hf_condense.models.statistics import running_statistics
from hf_condense.models.weak import weak_pool
from hf_condense.selection.real import random_real

NET, IPC, VIEWS = "convnet_bn", 10, 20
EPOCHS = {"weak": (4,), "spread": (2, 4, 7, 10), "late": (6, 8, 10, 12)}
RATIOS = (0.3, 0.4, 0.5, 0.6)
ARMS = (
    "random real", "K=1 converged", "K=1 weak", "K=4 prior spread", "K=4 prior late", "K=4 post",
    "K=4 prior spread, weight 0.1", "K=4 prior spread, weight 0.1, not recalibrated",
)  # fmt: skip


def trainer(arguments: argparse.Namespace) -> CondensationTrainer:
    given, name = None, arguments.dataset
    folder = os.environ.get("HF_CONDENSE_DATA")
    if folder and (Path(folder) / name).is_dir():
        given = load_dataset(os.path.join(folder, name))
    small = {"image_size": 16} if name != "digits" else {}
    return CondensationTrainer(
        "teddy", given or name, max_per_class=500, max_test=2000, ipc=IPC, threads=1, precision="fp32", base_model=NET,
        squeeze_epochs=15, squeeze_schedule="cosine", squeeze_pad=2, pool_kind="none", shard_size=100, crop_min=0.5,
        roll=0, init="real", match_weight=1.0, lr=0.1, iterations=arguments.iterations,
        output_dir=f"{arguments.folder}/{name}", **small,
    )  # fmt: skip


def pools(base: CondensationTrainer) -> dict[str, list[PoolMember]]:
    """The networks of each arm; recalibrated where the arm does not say otherwise."""
    plain = ViewPolicy(base.train.image_size, flip=0.0)
    every = tuple(sorted({e for epochs in EPOCHS.values() for e in epochs}))
    free = {"top1_floor": 0.0, "top1_ceiling": 9.0, "recalibration_images": len(base.train)}
    prior = WeakPoolSettings(pool_kind="prior", pool_size=len(every), prior_epochs=every, **free)
    post = WeakPoolSettings(pool_kind="post", pool_size=len(RATIOS), prune_ratios=RATIOS, **free)
    made = {}
    for name, weak in {"prior": prior, "stale": replace(prior, recalibrate=False), "post": post}.items():
        options = {
            "policy": plain, "image_size": base.train.image_size, "key": base.key / "squeeze", "device": base.device,
            "cache_folder": cache_folder(), "flip": base.flip, "progress": False,
        }  # fmt: skip
        made[name] = list(weak_pool(base.config.squeeze, weak, base.train, base.splits.test, **options))
    for members in made.values():
        for member in members:
            print(f"  {member.name:28} top-1 {100 * member.top1:.1f} %", flush=True)
    at = {member.epoch: member for member in made["prior"][1:]}
    stale = {member.epoch: member for member in made["stale"][1:]}
    converged = anew(made["prior"][0], base, plain)
    return {
        "K=1 converged": [converged],
        "K=1 weak": [at[e] for e in EPOCHS["weak"]],
        "K=4 prior spread": [at[e] for e in EPOCHS["spread"]],
        "K=4 prior late": [at[e] for e in EPOCHS["late"]],
        "K=4 post": made["post"][1:],
        "K=4 prior spread, weight 0.1": [at[e] for e in EPOCHS["spread"]],
        "K=4 prior spread, weight 0.1, not recalibrated": [stale[e] for e in EPOCHS["spread"]],
    }


def anew(member: PoolMember, base: CondensationTrainer, policy: ViewPolicy) -> PoolMember:
    """A copy whose norm statistics are measured anew."""
    model = copy.deepcopy(member.model)
    recalibrate(model, base.train, policy, base.key / "recalibration", base.device, len(base.train))
    return replace(member, model=model.freeze(), sha256=model.sha256())


def seen_through(members: list[PoolMember], base: CondensationTrainer) -> Context:
    """The context of a synthesis that looks through these networks."""
    size = base.train.image_size
    probe, classes = torch.zeros(2, base.train.channels, size, size, device=base.device), base.train.num_classes
    found = [running_statistics(member.model.to(base.device), probe, classes) for member in members]
    return replace(base.context, observers=ModelPool(members), statistics=found)


def synthesise(base: CondensationTrainer, members: list[PoolMember], arm: str, seed: int) -> torch.Tensor:
    """uint8 images, class by class."""
    context = replace(seen_through(members, base), key=base.key / "set" / seed)
    settings = replace(base.config.method, match_weight=0.1 if "weight 0.1" in arm else 1.0)
    folder = base.folder / "sets" / f"{settings.iterations}-{arm.replace(' ', '_')}-{seed}"
    return Engine(base.accelerator, folder, 10**9).run(type(base.method)(settings), context).images


def held_out(base: CondensationTrainer, seed: int) -> PoolMember:
    """A network that took no part: other first weights, 3 epochs, statistics measured anew."""
    member = train_member(
        NET, replace(base.config.squeeze, squeeze_epochs=3), base.train, base.splits.test,
        image_size=base.train.image_size, key=base.key / "held out" / seed, device=base.device,
        cache_folder=cache_folder(), flip=base.flip, progress=False,
    )  # fmt: skip
    return anew(member, base, ViewPolicy(base.train.image_size, flip=0.0))


def judged(base: CondensationTrainer, judge: PoolMember, images: torch.Tensor, labels: torch.Tensor) -> dict:
    """Mean cross-entropy and statistic distance (each layer with weight 1) over views that synthesis did not draw."""
    method = create_method("teddy", crop_min=0.5, roll=0, first_layer_weight=1.0)
    objective = method.objective(seen_through([judge], base))
    unit, key, found = to_unit(images).to(base.device), base.key / "judged", {"ce": [], "matching": []}
    labels = labels.to(base.device)
    objective.start(None, unit, labels, key)
    for view in range(VIEWS):
        with torch.no_grad():
            (term,) = objective.terms(unit, labels, view, key / view)
        for name, values in found.items():
            values.append(float(term.logs[name]))
    return {"ce": st.mean(found["ce"]), "bn": st.mean(found["matching"])}


def student(base: CondensationTrainer, images: torch.Tensor, labels: torch.Tensor, seed: int, steps: int) -> float:
    recipe = Protocol("pools", "", steps=steps, batch=50, lr=2e-3, crop=(0.3, 1.0), mix="none", regime="hard")
    test = base.splits.test
    return train_student(
        NET, images, labels, "hard", protocol=recipe, test_images=test.decoded(),
        test_labels=torch.from_numpy(test.labels), num_classes=base.train.num_classes, key=base.key / "student" / seed,
        device=base.device, image_size=base.train.image_size, mean=base.train.mean, std=base.train.std, flip=base.flip,
    ).top1  # fmt: skip


def measure(base: CondensationTrainer, arguments: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Arm -> top1, ce, bn -> a value a seed."""
    networks = pools(base)
    labels = torch.tensor([c for c in range(base.train.num_classes) for _ in range(IPC)])
    found: dict[str, dict[str, list[float]]] = {arm: {"top1": [], "ce": [], "bn": []} for arm in ARMS}
    for seed in range(arguments.seeds):
        judge = held_out(base, seed)
        for arm, values in found.items():
            if arm == "random real":
                key = base.key / "random" / seed
                images = random_real(base.train, tuple(labels.tolist()), base.train.image_size, key)[0]
            else:
                images = synthesise(base, networks[arm], arm, seed)
            row = {"top1": student(base, images, labels, seed, arguments.steps), **judged(base, judge, images, labels)}
            for name, value in row.items():
                values[name].append(value)
            print(f"seed {seed}  {arm:48} top-1 {100 * row['top1']:5.1f} %  held-out ce {row['ce']:.3f}"
                  f"  bn {row['bn']:.3f}", flush=True)  # fmt: skip
    return found


def claims(found: dict[str, dict[str, list[float]]]) -> dict[str, dict]:
    """What is expected of the arms: whether it holds, and by how much in every seed. Top-1 in points."""

    def points(arm: str) -> list[float]:
        return [100 * value for value in found[arm]["top1"]]

    def apart(a: list[float], b: list[float]) -> list[float]:
        return [round(x - y, 4) for x, y in zip(a, b, strict=True)]

    def ratio(a: str, b: str, name: str) -> list[float]:
        return [round(x / y, 4) for x, y in zip(found[a][name], found[b][name], strict=True)]

    table: dict[str, dict] = {}

    def claim(name: str, values: list[float], holds: bool) -> None:
        table[name] = {"holds": bool(holds), "per_seed": values}

    spread, late, post = (f"K=4 {kind}" for kind in ("prior spread", "prior late", "post"))
    one, weak = "K=1 converged", "K=1 weak"
    for arm in (spread, late, post):
        gain = apart(points(arm), points("random real"))
        claim(f"13 {arm}: 5 points above random real in every seed", gain, min(gain) >= 5)
        fraction = ratio(arm, one, "ce")
        claim(f"14 {arm}: held-out ce at most 0.9 of {one} in every seed", fraction, max(fraction) <= 0.9)
        margin = apart(points(arm), points(one))
        claim(f"16 {arm}: at most 1 point below {one} on average", margin, st.mean(margin) >= -1)
    fraction = ratio(spread, weak, "bn")
    claim(f"15 {spread}: held-out bn below {weak} in every seed", fraction, max(fraction) < 1)
    fraction = ratio(spread, one, "bn")
    claim(f"15 {spread}: held-out bn below {one} on average", fraction, st.mean(fraction) < 1)
    margin = apart(points(spread), points(weak))
    claim(f"16 {spread} above {weak} on average", margin, st.mean(margin) > 0)
    again, stale = (f"{spread}, weight 0.1{rest}" for rest in ("", ", not recalibrated"))
    margin = apart(points(again), points(stale))
    claim("16 recalibrated not below not recalibrated on average", margin, st.mean(margin) >= 0)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps of a student")
    parser.add_argument("--folder", default="runs/teddy_pools", help="where sets are kept; a second run goes on")
    parser.add_argument("--dry", action="store_true", help="write no result file")
    arguments = parser.parse_args()
    started = time.perf_counter()
    base = trainer(arguments)
    found = measure(base, arguments)
    table = claims(found)
    print()
    for arm, row in found.items():
        spread = st.stdev(row["top1"]) if arguments.seeds > 1 else 0.0
        print(f"{arm:48} top-1 {100 * st.mean(row['top1']):.1f} ± {100 * spread:.1f}"
              f"  ce {min(row['ce']):.2f}-{max(row['ce']):.2f}  bn {min(row['bn']):.2f}-{max(row['bn']):.2f}")  # fmt: skip
    for name, row in table.items():
        print(f"{'holds' if row['holds'] else 'FAILS':6} {name}: {row['per_seed']}")
    if not arguments.dry:
        command = f"python -m benchmarks.teddy_pools --dataset {arguments.dataset} --seeds {arguments.seeds}"
        values = {"arms": found, "claims": table, "iterations": arguments.iterations, "student_steps": arguments.steps}
        values["seconds"] = round(time.perf_counter() - started)
        write(f"teddy_pools_{arguments.dataset}", command, base.device, values)
    if arguments.dataset == "cifar10" and not all(row["holds"] for row in table.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
