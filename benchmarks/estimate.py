"""The estimate of a run beside what the run takes: seconds by stage and peak memory, for every method.

    python -m benchmarks.estimate
    python -m benchmarks.estimate --methods edc mtt

Runs on digits (10 classes, at most 30 training images each) that take some seconds to a minute, each in a process of its
own, because a process's memory never shrinks. `ratio` is estimated over taken: above 1 the
run was faster than expected. Both are in processor time, so that other work on the machine counts in neither.
"""

from __future__ import annotations

import os
import tempfile
import time
from multiprocessing import Pipe, get_context

from benchmarks import record

DIGITS = {
    "dataset": "digits", "ipc": 4, "max_per_class": 30, "base_model": "convnet_d1,convnet_w32",
    "squeeze_epochs": 12, "protocol": "small", "student_epochs": 20, "student_seeds": 1, "students": "convnet_w32",
    "min_top1_over_chance": 0.0, "precision": "fp32",
}  # fmt: skip
STEPS = {"iterations": 40}
POOLED = {**STEPS, "shard_size": 20, "base_model": "convnet_bn_w32"}
LOOPS = {"iterations": 8, "outer_loop": 3, "inner_loop": 4, "real_batch": 32, "regimes": "hard"}
REAL = {
    "iterations": 20, "inner_steps": 5, "real_batch": 16, "network_images": 32, "lr": 1.0, "lr_side": 8,
    "regimes": "hard",
}  # fmt: skip
TRAJECTORIES = {
    "iterations": 20, "lr": 10.0, "lr_lr": 1e-6, "student_steps": 5, "student_batch": 16, "first_epochs": 4, "span": 2,
    "experts": 3, "expert_lr": 0.01, "regimes": "hard",
}  # fmt: skip
RESIDUAL = {**POOLED, "blocks": 3, "rded_candidates": 10}
OWN = {
    "bps": {"neighbours": 10},
    "ca2d": {"rded_factor": 1, "dynamics_epochs": 10, "cad_window": 3, "cad_band": 1},
    "cda": POOLED,
    "ccfs": {"base_method": "rded", "share": 0.25, "curricula": 2, "rded_candidates": 10, "dynamics_epochs": 10},
    "cim": {**STEPS, "candidates": 20},
    "mosaic": {**STEPS, "candidates": 20},
    "coreset": {"selection": "forgetting", "dynamics_epochs": 10},
    "cvdd": {
        **POOLED, "rded_candidates": 10, "priors": (70.0, 60.0, 65.0), "voters": 2,
        "base_model": "convnet_bn_w32,convnet_d1,convnet_d2",
    },
    "datm": {**TRAJECTORIES, "lr_labels": 1.0},
    "dc": LOOPS,
    "delt": {**POOLED, "rounds": 4},
    "dm": {**STEPS, "real_batch": 32, "regimes": "hard"},
    "dream": {**REAL, "cluster_every": 10},
    "dsa": LOOPS,
    "dwa": {**POOLED, "ascent_steps": 2},
    "edc": {**STEPS, "shard_size": 20},
    "fadrm": {**RESIDUAL, "small_side": 0.8, "base_model": "test_byobnet", "resolution": "pixels"},
    "fadrmplus": {**RESIDUAL, "small_side": 1.0, "base_model": "convnet_bn_w32,convnet_d1"},
    "gvbsm": {**STEPS, "shard_size": 20},
    "idc": REAL,
    "lgm": {**STEPS, "copies": 4, "grow_every": 20, "lr": 0.01, "regimes": "hard"},
    "mtt": TRAJECTORIES,
    "pdd": {
        "base_method": "dm", "stages": 2, "chains": 2, "iterations": 20, "real_batch": 32, "regimes": "hard",
    },
    "rded": {"rded_candidates": 30},
    "sre2l": POOLED,
    "sre2lpp": {**POOLED, "rded_candidates": 10},
    "teddy": {**POOLED, "pool_size": 2, "finetune_epochs": 2, "recalibration_images": 100, "top1_floor": 0.0},
    "tesla": {**TRAJECTORIES, "zca": True, "pairs": 2, "lr": 1.0},
    "wmdd": {**POOLED, "init": "medoids"},
}  # fmt: skip


def case(method: str, threads: int) -> dict:
    """Estimate and run of one method in this process, whose clock is that of its processor time from now on."""
    time.perf_counter = time.process_time
    from hf_condense.run.estimate import estimate
    from hf_condense.trainer import CondensationTrainer

    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_CONDENSE_CACHE"] = f"{folder}/cache"
        settings = {**DIGITS, **OWN.get(method, {}), "threads": threads}
        pipeline = CondensationTrainer(method, output_dir=f"{folder}/run", **settings).pipeline
        began = time.perf_counter()
        expected = estimate(pipeline)
        looking = time.perf_counter() - began
        for stage in pipeline.stages:
            pipeline[stage]
        taken = pipeline.facts()
    memory = expected.pop("memory"), max(facts["peak_bytes"] for facts in taken.values())
    expected.pop("disk")
    stages = {name: compared(expected[name], taken[name]["seconds"]) for name in expected}
    together = compared(sum(expected.values()), sum(taken[name]["seconds"] for name in expected))
    return {
        "together": together,
        **stages,
        "memory_mb": compared(*(m / 1e6 for m in memory)),
        "estimate itself": compared(looking, sum(f["seconds"] for f in taken.values())),
    }


def compared(expected: float, taken: float) -> dict[str, float]:
    return {"estimated": expected, "taken": taken, "ratio": expected / taken if taken else float("nan")}


def measure(options) -> dict:
    """Every method in a process of its own, forked from this one, which has imported everything and computed nothing."""
    import hf_condense.run.estimate
    import hf_condense.trainer  # noqa: F401

    found = {}
    for method in options.methods:
        here, there = Pipe()
        work = get_context("fork").Process(target=lambda to=there, name=method: to.send(case(name, options.threads)))
        work.start()
        there.close()
        try:
            found[method] = one = here.recv()
        except EOFError:
            print(f"{method}: failed", flush=True)
            continue
        work.join()
        parts = [f"{part} {v['estimated']:.3g}/{v['taken']:.3g}={v['ratio']:.2f}" for part, v in one.items()]
        print(f"{method}: {', '.join(parts)}", flush=True)
    return found


def parser():
    from hf_condense.methods import list_methods

    found = record.parser(__doc__)
    found.add_argument("--methods", nargs="+", default=list_methods())
    return found


def main() -> None:
    options = record.options(parser())
    record.write("estimate", options, measure(options), show=False)


if __name__ == "__main__":
    main()
