"""Seconds of the statistics pass over real data: ours, the plain per-sample formulation, and the bare forward.

    python -m benchmarks.statistics_pass

Pool {ConvNet-D1, ConvNet-W32, WRN-16-2}, generated 32 px images of ten classes, no augmentation. `plain` adds each
image's moments by itself in every hook; `bare` only runs the networks. Work = pass minus bare.
"""

from __future__ import annotations

import torch

from benchmarks.plain import PlainClassSums
from benchmarks.pool import GeneratedSource, small_pool
from benchmarks.record import arguments, interleaved, summary, write
from hf_condense.data.randomness import Key
from hf_condense.models.statistics import class_batches, collect_statistics

IMAGES, BATCH = 640, 128


@torch.no_grad()
def bare(pool, source: GeneratedSource, device: torch.device) -> None:
    for rows, _ in class_batches(source.labels, source.num_classes, BATCH, 1024):
        images = source.images(rows).to(device).float().div_(255)
        for model in pool:
            model(images)


@torch.no_grad()
def plain(pool, source: GeneratedSource, device: torch.device) -> list[dict[str, PlainClassSums]]:
    hooks = [
        {name: PlainClassSums(m, 4) for name, m in model.named_modules() if isinstance(m, KINDS)} for model in pool
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


KINDS = (torch.nn.Conv2d, torch.nn.BatchNorm2d)


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


def main() -> None:
    options = arguments(__doc__.splitlines()[0], repeats=7)
    device = torch.device(options.device)
    source, pool = GeneratedSource(IMAGES), small_pool(device)

    def ours():
        return collect_statistics(pool, source, None, 4, Key(0), device, batch_size=BATCH)

    timed = interleaved({"ours": ours, "bare": lambda: bare(pool, source, device)}, options.repeats, device)
    timed |= interleaved({"plain": lambda: plain(pool, source, device)}, max(1, options.repeats // 4), device)
    seconds = summary(timed)
    apart = largest_difference(ours(), plain(pool, source, device))
    values = {}
    for kind in ("median", "min"):
        mine, all_plain, floor = (seconds[name][f"{kind}_s"] for name in ("ours", "plain", "bare"))
        values[kind] = {
            "plain_work_over_ours": round((all_plain - floor) / (mine - floor), 1),
            "pass_over_bare": round(mine / floor, 3),
        }
    for name, row in seconds.items():
        print(f"{name:6} {row['median_s']:8.3f} s (median)  {row['min_s']:8.3f} s (fastest) for {IMAGES} images")
    for kind, row in values.items():
        print(
            f"{kind:6}: statistics work {row['plain_work_over_ours']}x faster than plain (aim 20x), "
            f"pass / bare forward {row['pass_over_bare']} (aim 1.15)"
        )
    print(f"largest relative difference to plain: {apart:.1e} (aim 1e-5)")
    write(
        "statistics_pass", f"python -m benchmarks.statistics_pass --repeats {options.repeats}", device,
        {"images": IMAGES, "batch": BATCH, "seconds": seconds, "figures": values, "largest_difference": apart},
    )  # fmt: skip


if __name__ == "__main__":
    main()
