"""All ratios of one device in one command, made for a GPU: under ten minutes on any CUDA card.

    python -m benchmarks.gpu --device cuda --estimate_as h100
    python -m benchmarks.gpu --device cpu --quick

`steps`: every method in float32; in the plain formulation (benchmarks/plain_steps.py; IDC, DREAM, DELT, CIM and LGM have none); in bf16
where it looks through a pool or embeds only; without statistics where it matches them; with CUDA graphs where observers are
captured. `students`: a step in float32, in bf16 and compiled. `memory`: peak of EDC steps at 224 px, 1,000 classes, five
ResNet-18, beside the estimate. `estimate`: seconds that `run.counted` gives for passes on the named device over those
measured (a figure of that device alone; on a CPU it says nothing). `--quick` makes all of it small, to see it work.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from benchmarks import record
from benchmarks.launches import SMALL
from benchmarks.plain_steps import plainly
from benchmarks.steps import KEY, MadeUpImages, step_of
from hf_condense.memory import current_bytes, peak_bytes, reset_peak
from hf_condense.methods import METHODS, list_methods
from hf_condense.models.graphs import CudaRecorder
from hf_condense.models.loading import load_model
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.precision import autocast, settle_arithmetic
from hf_condense.run.counted import IMAGES, Counting, count, seconds_on
from hf_condense.run.devices import DEVICES

BF16 = ("dm",)  # beside methods with a pool: networks whose gradients are not differentiated


def stepper(work):
    """Calls the next step of a shard each time."""
    number = iter(range(10**6))
    return lambda: work.step(next(number))


def steps(options) -> dict:
    """Seconds of a step of every method, and of its other forms beside it."""
    side, ipc = (8, 1) if options.quick else (32, 10)
    source, found = MadeUpImages(10, side, 20), {}
    for name in options.methods:
        pool = METHODS[name].pool
        network = (
            ("convnet_bn_w32" if pool else "convnet_w32") if options.quick else "resnet18" if pool else "convnet_w128"
        )
        given = {"ipc": ipc if pool else 1, **SMALL.get(name, {})}

        def made(own: dict, given: dict = given, network: str = network, name: str = name):
            return step_of(name, source, (network,), options.device, **given, **own)

        rows = {"fp32": made({})}
        if rows["fp32"] is None:
            continue
        rows["plain"] = plainly(made({}))
        if pool or name in BF16:
            rows["bf16"] = made({"precision": "bf16"})
        if pool:
            rows["without statistics"] = made({"match_weight": 0.0})
        if options.device.type == "cuda" and isinstance(rows["fp32"].objective, FeatureStatistics):
            rows["graphs"] = made({})
            rows["graphs"].objective.recorder = CudaRecorder()
        work = {row: stepper(work) for row, work in rows.items() if work is not None}
        found[name] = compared(record.interleaved(work, options.repeats, options.device))
    return found


def compared(seconds: dict) -> dict:
    """Rows with their ratio to that of ours in float32: above 1 where ours is faster."""
    ours = seconds["fp32"]["median"]
    return {row: {**s, "over_fp32": round(s["median"] / ours, 3)} for row, s in seconds.items()}


def students(options) -> dict:
    """Training steps of a student in three ways."""
    side, batch, name = (8, 16, "convnet_w32") if options.quick else (32, 128, "resnet18")
    spec = MadeUpImages(10, side, 1).plain_spec
    images = torch.rand(batch, 3, side, side, device=options.device)
    labels = torch.arange(batch, device=options.device) % 10
    model = load_model(name, spec, key=KEY)

    def training(bf16: bool, compiled: bool):
        student = copy.deepcopy(model).to(options.device).train()
        if bf16:
            student.to(memory_format=torch.channels_last)
        called = torch.compile(student) if compiled else student
        optimiser = torch.optim.SGD(student.parameters(), 0.01, momentum=0.9)

        def step() -> None:
            with autocast(options.device, bf16):
                logits = called(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return step

    rows = {"fp32": training(False, False), "bf16": training(True, False)}
    if not options.quick:
        rows |= {"fp32, compiled": training(False, True), "bf16, compiled": training(True, True)}
    return compared(record.interleaved(rows, options.repeats, options.device))


def memory(options) -> dict:
    classes, side, count_of = (10, 16, 2) if options.quick else (1000, 224, 5)
    network = "convnet_bn_w32" if options.quick else "resnet18"
    source = MadeUpImages(classes, side, 1)
    size = {"shard_size": 10 if options.quick else 100}

    def steps_on(device: torch.device) -> None:
        work = step_of("edc", source, (network,) * count_of, device, ipc=1, **size)
        for number in range(count_of):
            work.step(number)

    before = current_bytes(options.device)
    reset_peak(options.device)
    steps_on(options.device)
    peak = peak_bytes(options.device) - before
    with Counting() as counting:
        steps_on(torch.device("meta"))
    return {
        "classes": classes,
        "side": side,
        "observers": count_of,
        "peak_gb": peak / 1e9,
        "estimated_gb": counting.peak / 1e9,
        "estimated_over_peak": counting.peak / peak,
    }


def estimate(options) -> dict:
    """Seconds estimated for the passes of a network over those that they take; above 1 the estimate is too slow."""
    side, name = (8, "convnet_w32") if options.quick else (32, "resnet18")
    source = MadeUpImages(10, side, 1)
    passes = count(load_model(name, source.plain_spec, key=KEY), source.shape[1:])
    model = load_model(name, source.plain_spec, key=KEY).to(options.device).freeze()
    images = torch.rand(IMAGES, *source.shape[1:], device=options.device)

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def backward() -> None:
        model(images.clone().requires_grad_(True)).sum().backward()

    taken = record.interleaved({"forward": forward, "backward": backward}, options.repeats, options.device)
    of = seconds_on(DEVICES[options.estimate_as])
    said = {"forward": of(passes.forward, "fp32"), "backward": of(passes.backward, "fp32")}
    return {row: {"estimated": said[row], "over_measured": said[row] / taken[row]["median"]} for row in said}


def parser():
    found = record.parser(__doc__)
    found.add_argument("--quick", action="store_true", help="everything small")
    found.add_argument("--methods", nargs="+", default=list_methods())
    found.add_argument(
        "--estimate_as", choices=list(DEVICES), default="h100", help="the device of the table that it is"
    )
    return found


def main() -> None:
    options = record.options(parser())
    settle_arithmetic(options.device)
    found = {part.__name__: part(options) for part in (steps, students, memory, estimate)}
    record.write("gpu", options, found)


if __name__ == "__main__":
    main()
