"""Seconds of one observer step of timm's resnet18: channels-last + bf16 beside eager fp32, both with frozen weights.

    python -m benchmarks.observer_step

A step is cross-entropy and statistic matching to pixel gradients. 32 px: the stem for small images, batch 100; 224 px:
timm's own stem, batch 10. `network` rows leave the statistics out. Needs a CPU with bf16 instructions to mean anything.
"""

from __future__ import annotations

import torch

from benchmarks import record
from benchmarks.pool import CIFAR_MEAN, CIFAR_STD, GeneratedSource
from hf_condense.data.randomness import Key
from hf_condense.models.loading import load_model
from hf_condense.models.statistics import collect_statistics
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.settings import MatchingSettings

AIMS = {32: (100, 1.7), 224: (10, 2.0)}  # side: (batch, aim)


def measure(size: int, batch: int, repeats: int, device: torch.device) -> dict:
    source = GeneratedSource(max(20, batch), image_size=size)
    model = load_model(
        "resnet18", num_classes=10, image_size=size, mean=CIFAR_MEAN, std=CIFAR_STD, key=Key(0, "bench")
    )
    model = model.freeze().to(device)
    found = collect_statistics([model], source, None, 4 if size <= 64 else 16, Key(0), device, batch_size=10)
    images = (source.pixels[:batch].to(device).float() / 255).requires_grad_(True)
    labels = torch.from_numpy(source.labels[:batch]).to(device)
    rows = {}
    for weight, part in ((0.01, "step"), (0.0, "network")):
        for precision in ("fp32", "bf16"):
            settings = MatchingSettings(flatness_weight=0.0, match_weight=weight)
            objective = FeatureStatistics([model], found, settings, None, precision)
            objective.start(None, images, labels, Key(0))
            rows[f"{part} {precision}"] = lambda o=objective: step(o, images, labels)
    return record.interleaved(rows, repeats, device)


def step(objective: FeatureStatistics, images: torch.Tensor, labels: torch.Tensor) -> None:
    images.grad = None
    for term in objective.terms(images, labels, 0, Key(0)):
        term.loss.backward()


def parser():
    return record.parser(__doc__, repeats=3)


def main() -> None:
    options = record.options(parser())
    values = {}
    for size, (batch, aim) in AIMS.items():
        seconds = measure(size, batch, options.repeats, options.device)
        gain = {
            part: {k: round(v / seconds[f"{part} bf16"][k], 2) for k, v in seconds[f"{part} fp32"].items()}
            for part in ("step", "network")
        }
        values[f"{size}px_batch{batch}"] = {"seconds": seconds, "fp32_over_bf16": gain, "aim": aim}
    record.write("observer_step", options, values)


if __name__ == "__main__":
    main()
