"""The three gradients of trajectory matching: their memory, time and error.

    python -m benchmarks.trajectory_gradients memory|time|error|plot

`memory`: peak of one gradient above the process that takes it, ConvNet of width 64, 20 images of 32 px, 4 to 50 steps;
each in a child process of its own. `time`: rounds over the three gradients, with the C library's own handling of memory
and with freed memory kept, as runs of this library have it. `error`: TESLA's Eq. 6 and the adjoint against the unroll in
float64, on segments of experts trained on digits. `plot` draws memory and error as they were last measured. What MTT makes
of digits with each gradient is `python -m benchmarks.study mtt-digits`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks import record
from benchmarks.studies import DIGITS_MTT as TRAJECTORIES
from hf_condense import create_method
from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.files import read_json
from hf_condense.memory import keep_freed_memory, peak_bytes, reset_peak
from hf_condense.methods.base import Context
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.fresh import FreshNetworks
from hf_condense.objectives.inner_loop import Batch, InnerLoop, end_distance

CPU, KEY = torch.device("cpu"), Key(0, "trajectory gradients")
KINDS = ("unroll", "adjoint", "tesla")
NETWORK = "convnet_d2_w16"
POINTS = ((1, 0.05), (2, 0.05), (5, 0.05), (10, 0.01), (10, 0.05), (10, 0.1), (20, 0.05), (20, 0.1), (50, 0.1))


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
    return {"bytes": found}


def rounds(width: int, images: int, steps: int, repeats: int, kept: bool) -> dict:
    if kept:
        keep_freed_memory()
    made = made_up(width, images, steps)
    return record.interleaved({kind: lambda kind=kind: gradients(*made, kind) for kind in KINDS}, repeats, CPU)


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
    return found


def digits() -> Context:
    """A context for MTT on digits."""
    source = open_source(DataSettings("digits"), Key(0, "data")).train
    fresh = FreshNetworks(
        NETWORK, num_classes=10, image_size=8, channels=1, mean=source.mean, std=source.std, device=CPU
    )
    return Context(source, 8, 1, Key(0), CPU, "fp32", False, fresh=fresh)


def errors(args) -> dict:
    """Medians over a stretch of each of six experts, at a real image a class."""
    mtt, given, found = create_method("mtt", **TRAJECTORIES), digits(), []
    plan = mtt.plan(10, 1)
    experts = mtt.ready(plan.groups[-1][0], given, None).experts
    flat = FlatNetwork(given.fresh.numbered(0, given.key / "experts").double())
    rows = [given.train.rows_of(c)[0] for c in range(10)]
    images = flat.network.normalise(given.train.images(rows).double() / 255).detach()
    labels, every = torch.arange(10), Batch(torch.arange(10), lambda batch: batch)
    for steps, rate in POINTS:
        told: dict[str, list[float]] = {}
        for number in range(experts.experts):
            epoch = number % TRAJECTORIES["first_epochs"]
            start, target = (experts.snapshot(number, e).double() for e in (epoch, epoch + TRAJECTORIES["span"]))
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
    return {"rows": found}


def plot(results: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = read_json(results / "trajectory_memory.json")["bytes"]
    rows = read_json(results / "trajectory_error.json")["rows"]
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
    figure.savefig(results / "trajectory_gradients.png", dpi=110)


PARTS = {"memory": memory, "time": seconds, "error": errors}


def parser():
    found = record.parser(__doc__)
    found.add_argument("part", choices=(*PARTS, "plot"))
    return found


if __name__ == "__main__":
    options = parser().parse_args()
    torch.set_num_threads(options.threads)  # and freed memory is given back, except where `time` says otherwise
    if options.part == "plot":
        plot(options.results)
    else:
        record.write(f"trajectory_{options.part}", options, PARTS[options.part](options))
