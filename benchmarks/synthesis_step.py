"""Seconds of one synthesis step: ours, the plain per-hook formulation, and the floor without statistics.

    python -m benchmarks.synthesis_step

A round is one step of each observer of the pool {ConvNet-D1, ConvNet-W32, WRN-16-2}: batch 100, 32 px, fp32, no
augmentation and no flatness term in any row. `plain` is benchmarks/plain.py: one forward hook a layer, eager autograd.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks import record
from benchmarks.plain import PlainHook, plain_targets
from benchmarks.pool import CIFAR_MEAN, CIFAR_STD, GeneratedSource, small_pool
from hf_condense.data.randomness import Key
from hf_condense.models.statistics import collect_statistics
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.settings import MatchingSettings

SETTINGS = MatchingSettings(flatness_weight=0.0)
BATCH = 100


class Images:
    """Normalised pixels under Adam with the clamp of every step; the same in all rows."""

    def __init__(self, images: torch.Tensor) -> None:
        shape = (1, 3, 1, 1)
        self.mean = torch.tensor(CIFAR_MEAN, device=images.device).view(shape).to(images)
        self.std = torch.tensor(CIFAR_STD, device=images.device).view(shape).to(images)
        self.z = ((images - self.mean) / self.std).requires_grad_(True)
        self.optimiser = torch.optim.Adam([self.z], 0.05, betas=(0.5, 0.9))

    @property
    def unit(self) -> torch.Tensor:
        return self.z * self.std + self.mean

    @torch.no_grad()
    def move(self) -> None:
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.z.copy_(torch.minimum(torch.maximum(self.z, -self.mean / self.std), (1 - self.mean) / self.std))


class Fast:
    """The library's objective."""

    def __init__(self, pool, statistics, images, labels) -> None:
        self.images, self.labels, self.number, self.size = Images(images), labels, 0, len(pool)
        self.objective = FeatureStatistics(pool, statistics, SETTINGS)
        self.objective.start(None, images, labels, Key(0))

    def round(self) -> None:
        for _ in range(self.size):
            for term in self.objective.terms(self.images.unit, self.labels, self.number, Key(0, self.number)):
                term.loss.backward()
            self.images.move()
            self.objective.after(self.images.unit, self.number, Key(0, self.number))
            self.number += 1


class Plain:
    """One hook a layer; without statistics (`matching=False`) the floor."""

    def __init__(self, pool, statistics, images, labels, matching: bool) -> None:
        self.images, self.labels, self.pool, self.hooks = Images(images), labels, pool, None
        if matching:
            self.hooks = [self._hooks(model, found, labels, images) for model, found in zip(pool, statistics)]

    def _hooks(self, model, found, labels, images) -> list[PlainHook]:
        modules = dict(model.named_modules())
        targets = [[t.to(images) for t in aim] for aim in (found.global_moments(), found.class_targets(labels))]
        layout, a, g = found.layout, SETTINGS.alpha, SETTINGS.stat_momentum
        return [
            PlainHook(modules[name], 4, [plain_targets(layout, *aim, name) for aim in targets], a, g)
            for name in layout.layers
        ]

    def round(self) -> None:
        for k, model in enumerate(self.pool):
            loss = F.cross_entropy(model(self.images.unit), self.labels)
            if self.hooks:
                parts = [hook.loss for hook in self.hooks[k]]
                loss = loss + SETTINGS.match_weight * (SETTINGS.first_layer_weight * parts[0] + sum(parts[1:]))
            loss.backward()
            self.images.move()


def difference(device: torch.device, source: GeneratedSource, steps: int = 9) -> dict[str, dict[str, float]]:
    """How far apart images are after some steps, in unit pixels: largest, and the share of pixels above 1e-5.

    Adam divides by the size of the gradient, so pixels whose gradient is rounding noise take steps of full length in
    either direction. `plain_float32_to_float64` is that noise in the plain formulation itself.
    """
    made = {}
    for dtype in (torch.float64, torch.float32):
        images, labels = source.pixels[:20].to(device, dtype) / 255, torch.arange(20, device=device) // 2
        statistics = collect_statistics(small_pool(device), source, None, 4, Key(0), device)
        pools = [[model.to(dtype) for model in small_pool(device)] for _ in range(2)]
        rows = {"ours": Fast(pools[0], statistics, images, labels)}
        rows["plain"] = Plain(pools[1], statistics, images, labels, True)
        for name, row in rows.items():
            for _ in range(steps // len(pools[0])):
                row.round()
            made[name, dtype] = row.images.unit.detach().double()
    pairs = {
        "float64_ours_to_plain": (made["ours", torch.float64], made["plain", torch.float64]),
        "float32_ours_to_plain": (made["ours", torch.float32], made["plain", torch.float32]),
        "ours_float32_to_float64": (made["ours", torch.float32], made["ours", torch.float64]),
        "plain_float32_to_float64": (made["plain", torch.float32], made["plain", torch.float64]),
    }
    apart = {name: (a - b).abs() for name, (a, b) in pairs.items()}
    return {
        name: {"largest": float(d.max()), "share_above_1e-5": float((d > 1e-5).double().mean())}
        for name, d in apart.items()
    }


def parser():
    return record.parser(__doc__, repeats=7)


def main() -> None:
    options = record.options(parser())
    device = options.device
    source = GeneratedSource(400)
    pool = small_pool(device)
    statistics = collect_statistics(pool, source, None, 4, Key(0), device)
    images, labels = source.pixels[:BATCH].to(device).float() / 255, torch.arange(BATCH, device=device) // 10
    rows = {
        "ours": Fast(pool, statistics, images, labels),
        "plain": Plain(small_pool(device), statistics, images, labels, matching=True),
        "floor": Plain(small_pool(device), statistics, images, labels, matching=False),
    }
    seconds = record.interleaved({name: row.round for name, row in rows.items()}, options.repeats, device)
    apart = difference(device, source)
    ratio = {kind: round(seconds["plain"][kind] / seconds["ours"][kind], 2) for kind in seconds["ours"]}
    found = {"batch": BATCH, "round": seconds, "plain_over_ours": ratio, "images_apart_after_9_steps": apart}
    record.write("synthesis_step", options, found)


if __name__ == "__main__":
    main()
