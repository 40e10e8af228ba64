"""The three gradients of trajectory matching: their memory, time and error; and what MTT makes of digits.

    python -m benchmarks.trajectory_gradients memory|time|error|digits|plot

`memory`: peak of one gradient above the process that takes it, ConvNet of width 64, 20 images of 32 px, 4 to 50 steps;
each in a child process of its own. `time`: rounds over the three gradients, with the C library's own handling of memory
and with freed memory kept, as runs of this library have it. `error`: TESLA's Eq. 6 and the adjoint against the unroll in
float64, on segments of experts trained on digits. `digits`: MTT at IPC 1 against random images, four seeds. `plot`
draws memory and error as they were last measured.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from benchmarks.record import RESULTS, interleaved, write
from hf_condense import create_method
from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.engine import Engine
from hf_condense.files import read_json
from hf_condense.memory import keep_freed_memory, peak_bytes, reset_peak
from hf_condense.methods.base import Context
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.training import Batch as Shown
from hf_condense.models.training import FitRecipe, evaluate_top1, fit
from hf_condense.objectives.inner_loop import Batch, InnerLoop, end_distance

CPU, KEY = torch.device("cpu"), Key(0, "trajectory gradients")
KINDS = ("unroll", "adjoint", "tesla")
NETWORK = "convnet_d2_w16"
DIGITS = {  # mtt-tesla.md, section 11
    "iterations": 120, "lr": 3.0, "lr_lr": 1e-4, "student_lr": 0.05, "student_steps": 10, "span": 2, "first_epochs": 6,
    "experts": 6, "expert_lr": 0.05, "expert_batch": 64, "families": (),
}  # fmt: skip


def made_up(width: int, images: int, steps: int) -> tuple[InnerLoop, torch.Tensor, torch.Tensor]:
    """A loop on noise with a target near its start: what memory and time are measured on."""
    fresh = FreshNetworks(
        f"convnet_w{width}", num_classes=10, image_size=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, device=CPU
    )
    flat, draw = FlatNetwork(fresh(KEY)), torch.Generator().manual_seed(0)
    start, every = flat.flatten(), Batch(torch.arange(images), lambda batch: batch)
    target = start + 0.1 * torch.randn(flat.size, generator=draw)
    return (
        InnerLoop(flat, start, target, [every] * steps),
        torch.randn(images, 3, 32, 32, generator=draw),
        every.rows % 10,
    )


def gradients(loop: InnerLoop, images, labels, kind: str, rate: float = 0.01) -> dict[str, torch.Tensor]:
    images, rate = images.clone().requires_grad_(True), torch.tensor(rate, dtype=images.dtype, requires_grad=True)
    end_distance(loop, images, labels, rate, kind).backward()
    return {"images": images.grad, "rate": rate.grad}


def apart(work: Callable, *arguments):
    """What `work` gives in a child process, whose memory nothing else has touched."""
    made_up(32, 1, 1)  # the libraries, once for all children
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(work, arguments)


def peak(kind: str, steps: int) -> int:
    made = made_up(64, 20, steps)
    gradients(replace(made[0], batches=made[0].batches[:1]), *made[1:], "adjoint")  # what libraries need
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    reset_peak(CPU)
    before = peak_bytes(CPU)
    gradients(*made, kind)
    return peak_bytes(CPU) - before


def memory(args) -> dict:
    found = {kind: {n: apart(peak, kind, n) for n in (4, 8, 16, 32, 50)} for kind in KINDS}
    for kind, row in found.items():
        told = ", ".join(f"{n} steps {size / 1e6:.0f} MB" for n, size in row.items())
        print(f"{kind}: {told}; 16 over 4: {row[16] / row[4]:.2f}, 50 over 4: {row[50] / row[4]:.2f}", flush=True)
    return {"bytes": found}


def rounds(width: int, images: int, steps: int, repeats: int, kept: bool) -> dict:
    if kept:
        keep_freed_memory()
    made = made_up(width, images, steps)
    return interleaved({kind: lambda kind=kind: gradients(*made, kind) for kind in KINDS}, repeats, CPU)


def seconds(args) -> dict:
    found = {}
    for width, images, steps in ((32, 20, 8), (32, 20, 30), (128, 10, 8)):
        for kept in (False, True):
            told = apart(rounds, width, images, steps, args.repeats, kept)
            for kind in KINDS[1:]:
                told[f"{kind}_over_unroll"] = {k: round(v / told["unroll"][k], 3) for k, v in told[kind].items()}
            name = f"width {width}, {images} images, {steps} steps, " + (
                "memory kept" if kept else "memory given back"
            )
            found[name] = told
            print(f"{name}: {told}", flush=True)
    return found


def digits(seed: int, test: bool = False):
    """A context for MTT on digits, and (with `test`) what students of it are scored on."""
    splits = open_source(DataSettings("digits"), Key(0, "data"))
    source = splits.train
    fresh = FreshNetworks(
        NETWORK, num_classes=10, image_size=8, channels=1, mean=source.mean, std=source.std, device=CPU
    )
    given = Context(source, 8, 1, Key(seed), CPU, "fp32", False, fresh=fresh)
    return (given, (splits.test.images(), torch.from_numpy(splits.test.labels))) if test else given


def errors(args) -> dict:
    """Medians over a segment of each of six experts, at a real image a class."""
    mtt, given, found = create_method("mtt", **DIGITS), digits(0), []
    plan = mtt.plan(10, 1)
    experts = mtt.ready(plan.groups[-1][0], given, None).experts
    flat = FlatNetwork(given.fresh.numbered(0, given.key / "experts").double())
    rows = [given.train.rows_of(c)[0] for c in range(10)]
    images = flat.network.normalise(given.train.images(rows).double() / 255).detach()
    labels, every = torch.arange(10), Batch(torch.arange(10), lambda batch: batch)
    for steps, rate in (
        (1, 0.05),
        (2, 0.05),
        (5, 0.05),
        (10, 0.01),
        (10, 0.05),
        (10, 0.1),
        (20, 0.05),
        (20, 0.1),
        (50, 0.1),
    ):
        told: dict[str, list[float]] = {}
        for number in range(experts.experts):
            epoch = number % DIGITS["first_epochs"]
            start, target = (experts.snapshot(number, e).double() for e in (epoch, epoch + DIGITS["span"]))
            loop = InnerLoop(flat, start, target, [every] * steps)
            unroll, *others = (gradients(loop, images, labels, kind, rate) for kind in KINDS)
            for kind, other in zip(KINDS[1:], others):
                for name, value in unroll.items():
                    told.setdefault(f"{kind} {name}", []).append(float((other[name] - value).norm() / value.norm()))
                cosine = F.cosine_similarity(other["images"].flatten(), unroll["images"].flatten(), dim=0)
                told.setdefault(f"{kind} cosine", []).append(float(cosine))
                length = float(other["images"].norm() / unroll["images"].norm())
                told.setdefault(f"{kind} length", []).append(length)
        found.append({"steps": steps, "rate": rate, **{name: statistics.median(v) for name, v in told.items()}})
        print(found[-1], flush=True)
    return {"rows": found}


def student(given: Context, test, images, labels, rate: float, key: Key) -> float:
    """Top-1 of a network trained 300 steps on all images, without augmentation, as experts were."""
    network = given.fresh(key)
    fit(
        network, lambda epoch: [Shown(images, labels)], lambda logits, batch: F.cross_entropy(logits, batch.labels),
        FitRecipe(300, rate), device=CPU, key=key,
    )  # fmt: skip
    return evaluate_top1(network, *test, CPU)


def behaviour(args) -> dict:
    found = []
    for seed in range(args.seeds):
        given, test = digits(seed, test=True)
        told = {"seed": seed}
        for kind in ("adjoint", "tesla"):
            method = create_method("mtt", **DIGITS, gradient=kind)
            with tempfile.TemporaryDirectory() as folder:
                began = time.process_time()
                made = Engine(Accelerator(cpu=True), Path(folder)).run(method, given)
                told[f"{kind}_seconds"] = round(time.process_time() - began, 1)
            rate = made.learned["lr"][0]
            rows = {kind: (made.pixels, rate)}
            if kind == "adjoint":
                rows["random"] = (made.initial.float() / 255, DIGITS["student_lr"])
            for name, (images, lr) in rows.items():
                keys = [given.key / "student" / i for i in range(args.students)]
                told[name] = statistics.mean(student(given, test, images, made.labels, lr, key) for key in keys)
            told[f"{kind}_rate"] = rate
            told[f"{kind}_distance"] = mean_distances(method, given, made)
        found.append(told)
        print(told, flush=True)
    gained = sum(row["adjoint"] >= row["random"] + 0.1 for row in found)
    print(f"MTT is 10 points or more above random on {gained} of {len(found)} seeds", flush=True)
    return {"seeds": found, "ten_points_above": gained}


def mean_distances(method, given: Context, made) -> dict[str, float]:
    """Mean distance over 40 segments that synthesis did not draw, of the first images and of the finished ones."""
    ready = method.ready(method.plan(10, 1).groups[-1][0], given, None)
    found = {}
    for name, images, rate in (
        ("first", made.initial.float() / 255, DIGITS["student_lr"]), ("last", made.pixels, made.learned["lr"][0])
    ):  # fmt: skip
        objective = method.objective(ready)
        objective.rate = rate
        objective.start(None, images, made.labels, given.key)
        terms = [t for i in range(40) for t in objective.terms(images, made.labels, i, given.key / "judge" / i)]
        found[name] = statistics.mean(float(t.loss.detach()) for t in terms)
    return found


def plot(args) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = read_json(RESULTS / "trajectory_memory.json")["bytes"]
    rows = read_json(RESULTS / "trajectory_error.json")["rows"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for kind, style in zip(KINDS, ("o-", "s-", "^--")):
        row = sizes[kind]
        left.plot([int(n) for n in row], [v / 1e6 for v in row.values()], style, label=kind)
    left.set(
        xlabel="student steps", ylabel="peak memory, MB", title="one gradient, ConvNet W64, 20 images", ylim=(0, None)
    )
    for rate in sorted({row["rate"] for row in rows}):
        mine = sorted((row["steps"], row["tesla images"]) for row in rows if row["rate"] == rate)
        right.plot(*zip(*mine), "^--", label=f"tesla, rate {rate}")
    right.plot([r["steps"] for r in rows], [r["adjoint images"] for r in rows], "s", label="adjoint, all rates")
    right.set(
        xlabel="student steps", ylabel="relative error of the image gradient", title="against the unroll, digits"
    )
    right.set_yscale("log")
    for axis in (left, right):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(RESULTS / "trajectory_gradients.png", dpi=110)


PARTS = {"memory": memory, "time": seconds, "error": errors, "digits": behaviour}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*PARTS, "plot"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--students", type=int, default=3, help="networks that score a set of images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.part == "plot":
        plot(args)
    else:
        command = " ".join(["python -m benchmarks.trajectory_gradients", *sys.argv[1:]])
        write(f"trajectory_{args.part}", command, CPU, PARTS[args.part](args))
