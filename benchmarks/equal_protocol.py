"""All decoupled methods on Fashion-MNIST at 32 px under one protocol, one labeller and the same real images.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.equal_protocol --ipc 10

Rows are scored with two student families, three sets (a seed each) and three label regimes; none is left out. Settings
are those of each method's preset for this dataset, shortened to the same number of steps; only EDC's were chosen on
held-out images. Pools: one ConvNet with batch norm for the methods that need a single network, which also labels for
all rows; three networks for G-VBSM and EDC; weak ones made from the first for Teddy.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import fashion
from benchmarks.record import write
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import ImageSet
from hf_condense.memory import peak_bytes, reset_peak
from hf_condense.methods import method_class
from hf_condense.plan import Synthetic
from hf_condense.run.resolve import load_preset
from hf_condense.selection.noise import gaussian_images

BASE = "convnet_bn_w32"
SEVERAL = f"{BASE},convnet_w32,convnet_d1"
SQUEEZE = {"squeeze_epochs": 6, "squeeze_schedule": "cosine", "squeeze_batch": 64, "squeeze_lr": 0.05}
STEPS = {"iterations": 300}
POOLS = {
    "single": {"base_model": BASE, "pool_kind": "none"},
    "several": {"base_model": SEVERAL, "pool_kind": "none"},
    # after an epoch this network already has most of its accuracy: the usual ceiling would leave no copy
    "prior": {
        "base_model": BASE,
        "pool_kind": "prior",
        "pool_size": 4,
        "prior_epochs": "1,2,3,4",
        "top1_ceiling": 1.1,
    },
    "post": {"base_model": BASE, "pool_kind": "post", "pool_size": 4},
}
ROWS = {  # row -> method, pool, settings beside the preset's
    "RDED": ("rded", "single", {}),
    "SRe2L": ("sre2l", "single", STEPS),
    "CDA": ("cda", "single", STEPS),
    "SRe2L++": ("sre2lpp", "single", STEPS),
    "G-VBSM": ("gvbsm", "several", STEPS),
    "EDC": ("edc", "several", {"iterations": 75, "match_weight": 0.01}),
    "Teddy K=1": ("teddy", "single", STEPS),
    "Teddy prior": ("teddy", "prior", STEPS),
    "Teddy post": ("teddy", "post", STEPS),
}
FEW = ("EDC", "Teddy post")  # rows of the other IPC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--students", nargs="*", default=["convnet_w32", "test_byobnet"])
    given = parser.parse_args()
    started = time.perf_counter()
    chosen = given.rows or (ROWS if given.ipc == 10 else FEW)
    pools = _pool_seconds({ROWS[name][1] for name in chosen} | {"single"})
    labeller = _trainer("sre2l", "single", given.ipc, {})
    labeller.prepare()
    rows: dict[str, list[ImageSet]] = {
        "random": fashion.random_sets(labeller, given.ipc), "noise": _noise(labeller, given.ipc),
    }  # fmt: skip
    costs = {}
    for name in chosen:
        method, pool, settings = ROWS[name]
        made, costs[name] = _sets(name, _trainer(method, pool, given.ipc, settings))
        costs[name]["pool_seconds"] = pools[pool]
        rows[name] = [ImageSet(m.images, m.labels) for m in made]
        print(name, costs[name], flush=True)
    found = fashion.scored(
        labeller, rows, get_protocol("small"), given.students, ("hard", "stored", "online"), given.ipc,
        f"equal-{given.ipc}",
    )  # fmt: skip
    result = {
        "rows": found, "costs": costs, "networks": fashion.pool(labeller), "squeeze": SQUEEZE,
        "seconds": round(time.perf_counter() - started),
    }  # fmt: skip
    write(
        f"equal_protocol_ipc{given.ipc}",
        f"python -m benchmarks.equal_protocol --ipc {given.ipc}",
        torch.device("cpu"),
        result,
    )


def _trainer(method: str, pool: str, ipc: int, settings: dict):
    name = "-".join([method, pool, f"ipc{ipc}", *(f"{k}={v}" for k, v in sorted(settings.items()))])
    shared = {**SQUEEZE, **POOLS[pool], "teachers": BASE, "observers": None, "protocol": "small", "ipc": ipc}
    # a `datasets` object has no name by which its preset could be found
    values = load_preset(method, "fashion_mnist", ipc, "paper").values
    own = {k: v for k, v in values.items() if k in method_class(method).Settings.__dataclass_fields__}
    return fashion.trainer(method, f"equal/{name}", **{**own, **shared, **settings})


def _pool_seconds(wanted: set[str]) -> dict[str, float]:
    """Seconds that each kind of pool costs; what it shares with the single network's is counted to each."""
    found: dict[str, float] = {}
    for pool in (p for p in POOLS if p in wanted):
        base = _trainer("teddy", pool, 10, {})
        os.environ["HF_CONDENSE_CACHE"] = str(
            fashion.ROOT / "equal" / "cache" / pool
        )  # nothing shared, so it is measured
        started = time.perf_counter()
        base.squeeze()
        record = base.folder / "pool" / "seconds.txt"  # a second start of this script finds the pool made
        if not record.exists():
            record.write_text(f"{time.perf_counter() - started:.1f}")
        found[pool] = float(record.read_text())
    os.environ["HF_CONDENSE_CACHE"] = str(fashion.ROOT / "equal" / "cache" / "all")
    return found


def _sets(name: str, base) -> tuple[list[Synthetic], dict]:
    """The condensed sets of a row, and what a set costs."""
    context = base.prepare()
    reset_peak(base.device)
    started = time.perf_counter()
    slug = name.lower().replace(" ", "-").replace("=", "")
    done = (base.folder / "sets" / f"{slug}-seed{fashion.SEEDS - 1}").exists()
    made = [fashion.synthesise(base, context, seed, slug) for seed in range(fashion.SEEDS)]
    seconds = None if done else round((time.perf_counter() - started) / fashion.SEEDS, 1)
    return made, {
        "synthesis_seconds": seconds, "synthesis_peak_bytes": peak_bytes(base.device),
        "settings": asdict(base.config.method),
    }  # fmt: skip


def _noise(base, ipc: int) -> list[ImageSet]:
    labels = torch.tensor([c for c in range(10) for _ in range(ipc)])
    train, sets = base.train, []
    for seed in range(fashion.SEEDS):
        unit = gaussian_images(train, len(labels), train.image_size, base.key / "noise" / seed)
        sets.append(ImageSet((unit.clamp(0, 1) * 255).round().to(torch.uint8), labels))
    return sets


if __name__ == "__main__":
    Path(fashion.ROOT).mkdir(parents=True, exist_ok=True)
    main()
