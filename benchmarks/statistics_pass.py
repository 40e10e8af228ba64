"""Seconds of the statistics pass over real data: ours, the plain per-sample formulation, and the bare forward.

    python -m benchmarks.statistics_pass

Pool {ConvNet-D1, ConvNet-W32, WRN-16-2}, generated 32 px images, no augmentation, a class to a batch (which is what
sorting by class gives nearly everywhere on CIFAR-10). `plain` takes mean and variance of each image by itself in every
hook, `plain squares` its mean and mean square; `bare` only runs the networks. Work = pass minus bare.
"""

from __future__ import annotations

import torch

from benchmarks import record
from benchmarks.plain import PlainClassSums
from benchmarks.pool import GeneratedSource, small_pool
from hf_condense.data.randomness import Key
from hf_condense.models.statistics import class_batches, collect_statistics

KINDS = (torch.nn.Conv2d, torch.nn.BatchNorm2d)
IMAGES, BATCH = 256, 128


@torch.no_grad()
def bare(pool, source: GeneratedSource, device: torch.device) -> None:
    for rows, _ in class_batches(source.labels, source.num_classes, BATCH, 1024):
        images = source.images(rows).to(device).float().div_(255)
        for model in pool:
            model(images)


@torch.no_grad()
def plain(
    pool, source: GeneratedSource, device: torch.device, squares: bool = False
) -> list[dict[str, PlainClassSums]]:
    hooks = [
        {name: PlainClassSums(m, 4, squares) for name, m in model.named_modules() if isinstance(m, KINDS)}
        for model in pool
    ]
    for rows, _ in class_batches(source.labels, source.num_classes, BATCH, 1024):
        images = source.images(rows).to(device).float().div_(255)
        for model, by_layer in zip(pool, hooks):
            for hook in by_layer.values():
                hook.labels = torch.from_numpy(source.labels[rows])
            model(images)
    for by_layer in hooks:
        for hook in by_layer.values():
            hook.handle.remove()
    return hooks


def largest_difference(found, expected) -> float:
    """Largest difference of class moments, relative to the largest entry of the same layer."""
    worst = 0.0
    for statistics, hooks in zip(found, expected):
        for s in statistics.layout.segments:
            for c, n in hooks[s.layer].counts.items():
                first, second = hooks[s.layer].sums[c][0 if s.kind == "channel" else 2 :][:2]
                for ours, theirs in ((statistics.first, first / n), (statistics.second, second / n)):
                    apart = (ours[c, s.start : s.stop] - theirs.cpu()).abs().max() / theirs.abs().max().cpu()
                    worst = max(worst, float(apart))
    return worst


def parser():
    return record.parser(__doc__, repeats=7)


def main() -> None:
    options = record.options(parser())
    device = options.device
    source, pool = GeneratedSource(IMAGES, num_classes=IMAGES // BATCH), small_pool(device)

    def ours():
        return collect_statistics(pool, source, None, 4, Key(0), device, batch_size=BATCH)

    rows = {
        "bare": lambda: bare(pool, source, device),
        "ours": ours,
        "plain": lambda: plain(pool, source, device),
        "plain squares": lambda: plain(pool, source, device, squares=True),
    }
    seconds = record.interleaved(rows, options.repeats, device)
    apart = largest_difference(ours(), plain(pool, source, device))
    figures = {}
    for kind, floor in seconds["bare"].items():
        work = {name: row[kind] - floor for name, row in seconds.items()}
        figures[kind] = {
            "plain_work_over_ours": round(work["plain"] / work["ours"], 1),
            "plain_squares_work_over_ours": round(work["plain squares"] / work["ours"], 1),
            "pass_over_bare": round(seconds["ours"][kind] / floor, 3),
        }
    found = {"images": IMAGES, "batch": BATCH, "seconds": seconds, "figures": figures, "largest_difference": apart}
    record.write("statistics_pass", options, found)


if __name__ == "__main__":
    main()
