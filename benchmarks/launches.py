"""Launches of one step of every method: operations on the device that are more than views and allocations.

    python -m benchmarks.launches

Small networks are bound by them on a GPU. They are counted on `torch.device("meta")`, so no GPU is needed. 32 px, 10 classes;
pools of one ResNet-18 and 100 images a step (IPC 10), ConvNet-W128 at IPC 1 for the others; settings of the paper. `without
statistics` is the same step with matching left out, `waits` are copies from the host that it waits for.
"""

from __future__ import annotations

import torch

from benchmarks import record
from benchmarks.steps import MadeUpImages, Operations, step_of
from hf_condense.methods import METHODS, list_methods

META = torch.device("meta")
SMALL = {  # what is made before the first step, as small as it can be; the step itself is that of the paper
    "mtt": {"experts": 1, "expert_epochs": 2, "first_epochs": 1, "span": 1, "expert_lr": 0.01},
    "datm": {"experts": 1, "expert_epochs": 2, "first_epochs": 1, "span": 1, "expert_lr": 0.01},
    "tesla": {"experts": 1, "expert_epochs": 2, "first_epochs": 1, "span": 1, "expert_lr": 0.01},
    "ncfm": {"trainings": 1, "network_epochs": 1},
    "pdd": {"base_method": "dm", "stages": 1},
}


def launches(name: str, source: MadeUpImages, network: str, ipc: int, **settings) -> Operations | None:
    """Those of the second step: the first one also fills caches."""
    work = step_of(name, source, (network,), META, ipc=ipc, **SMALL.get(name, {}) | settings)
    if work is None:
        return None
    work.step(0)
    with Operations() as seen:
        work.step(1)
    return seen


def measure(names: list[str]) -> dict:
    source, found = MadeUpImages(10, 32, 20), {}
    for name in names:
        network, ipc = ("resnet18", 10) if METHODS[name].pool else ("convnet_w128", 1)
        seen = launches(name, source, network, ipc)
        if seen is None:
            continue
        found[name] = {"launches": seen.total, "waits": len(seen.waits), "most": dict(seen.launches.most_common(5))}
        if METHODS[name].pool:
            found[name]["without statistics"] = launches(name, source, network, ipc, match_weight=0.0).total
    return found


def parser():
    found = record.parser(__doc__)
    found.add_argument("--methods", nargs="+", default=list_methods())
    return found


def main() -> None:
    options = record.options(parser())
    record.write("launches", options, measure(options.methods))


if __name__ == "__main__":
    main()
