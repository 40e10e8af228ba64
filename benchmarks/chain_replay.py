"""PDD over IDC: SGD steps of networks at stage 5, with a pool of chains or a new chain for every network as in its script.

    python -m benchmarks.chain_replay

Counted with the settings of CIFAR-10: 2,000 networks, 200 epochs on each earlier union, batch 64, f = 2, 100 image steps of 32
steps on real images with each network. What both ways reach on digits is `python -m benchmarks.study chains`.
"""

from __future__ import annotations

from benchmarks import record
from hf_condense.evaluation.budget import epochs_budget, replay_budget, union_sizes

CLASSES, NETWORKS, EPOCHS, BATCH, OWN, POOL, STAGE = 10, 2000, 200, 64, 3200, 50, 5


def counted(each: int) -> dict[str, float]:
    """SGD steps at stage 5 where a stage makes `each` images a class."""
    images = CLASSES * each * 4
    replay = replay_budget(images, STAGE, EPOCHS, BATCH).steps
    newest = epochs_budget(union_sizes(images, STAGE - 1)[-1:], EPOCHS, BATCH).steps
    pooled, replayed = NETWORKS * OWN, NETWORKS * (OWN + replay)
    return {
        "replay_steps_a_network": replay, "own_steps_a_network": OWN, "replayed": replayed, "pooled": pooled,
        "pool_cost_of_all_stages": POOL * replay, "pool_cost_of_this_stage": POOL * newest,
        "ratio": replayed / pooled, "ratio_with_all_pool_cost": replayed / (pooled + POOL * replay),
    }  # fmt: skip


def parser():
    return record.parser(__doc__)


if __name__ == "__main__":
    options = record.options(parser())
    counts = {f"n={each}": counted(each) for each in (10, 2)}
    record.write("chain_replay_steps", options, {"counted": counts})
