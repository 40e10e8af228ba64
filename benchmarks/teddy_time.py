"""What Teddy's pruned pool costs and saves beside one unpruned network: seconds, and iterations until it has paid.

    python -m benchmarks.teddy_time --batch 100

ResNet-18 with the stem for small images at 64 px and 200 classes, as on Tiny-ImageNet, with weights of no training (time
does not depend on them). A step is cross-entropy and norm statistics to pixel gradients, and Adam. The whole is
computed from the parts: a pool of five members tuned for two epochs on 100,000 images and recalibrated on 25,600;
synthesis at IPC 50 is 2 blocks of classes x 50 passes x 4,000 iterations. `stacked` rows evaluate four networks of one
shape in a step, one after another or in one call.
"""

from __future__ import annotations

import statistics as st

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import record
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.models.loading import load_model
from hf_condense.models.members import count_macs
from hf_condense.models.pruning import prune
from hf_condense.models.statistics import running_statistics
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.objectives.settings import MatchingSettings
from hf_condense.objectives.stacked_statistics import StackedStatistics

CLASSES, RATIOS, IMAGES, RECALIBRATION, EPOCHS = 200, (0.2, 0.25, 0.3, 0.35, 0.4), 100_000, 25_600, 2
BLOCKS, ITERATIONS, BATCH = 2 * 50, 4_000, 100
MATCHING = MatchingSettings(alpha=1.0, stat_momentum=0.0, flatness_weight=0.0, match_weight=1.0, patch=1)


def network(size: int, key: Key, ratio: float | None = None) -> nn.Module:
    """ResNet-18, with that share of its channels pruned."""
    model = load_model(
        "cifar_resnet18", num_classes=CLASSES, image_size=size, mean=(0.48, 0.45, 0.4), std=(0.23,) * 3, key=key
    )
    return model if ratio is None else prune(model, ratio, key / "pruning", 0.3, size)


class Synthesis:
    """Steps of a pool on one batch; a call is one step."""

    def __init__(
        self, models: list[nn.Module], images: torch.Tensor, kind: type = FeatureStatistics, per_step: int = 1
    ):
        size, device = images.shape[-1], images.device
        models = [model.to(device).eval() for model in models]
        found = [running_statistics(model, images[:2], CLASSES) for model in models]
        policy = ViewPolicy(size, crop=(0.08, 1.0), roll=4, roll_back=4, per="batch")
        self.objective = kind(models, found, MATCHING, policy, turns="in_order", per_step=per_step)
        self.images, self.number = images.clone().requires_grad_(True), 0
        self.labels = torch.arange(len(images), device=device) % CLASSES
        self.optimiser = torch.optim.Adam([self.images], 0.05, betas=(0.5, 0.9))
        self.objective.start(None, self.images, self.labels, Key(0))

    def __call__(self) -> None:
        self.optimiser.zero_grad()
        key = Key(0, "step", self.number)
        for term in self.objective.terms(self.images, self.labels, self.number, key):
            term.loss.backward()
        self.optimiser.step()
        self.objective.after(self.images, self.number, key)
        self.number += 1


class Tuning:
    """One step of training with SGD."""

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        self.model, self.images = model.to(images.device).requires_grad_(True).train(), images
        self.labels = torch.arange(len(images), device=images.device) % CLASSES
        self.optimiser = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)

    def __call__(self) -> None:
        self.optimiser.zero_grad()
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimiser.step()


def seen(model: nn.Module, images: torch.Tensor):
    """A forward pass of recalibration."""

    def call() -> None:
        with torch.no_grad():
            model(images)

    model.to(images.device).train()
    return call


def parser():
    found = record.parser(__doc__, repeats=3)
    found.add_argument("--batch", type=int, default=BATCH, help="images a step; times are scaled to 100")
    found.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    return found


def main() -> None:
    options = record.options(parser())
    device, size, key = options.device, options.size, Key(0, "time")
    images = torch.rand(options.batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    base = network(size, key)
    # a round is one step of the base, and one step of every member of the pool
    work = {"base step": Synthesis([base], images)}
    shares = {}
    for ratio in RATIOS:
        member = network(size, key, ratio)
        shares[ratio] = round(count_macs(member, size) / count_macs(base, size), 3)
        work[f"step, {ratio:g} pruned"] = Synthesis([member], images)
    middle = RATIOS[len(RATIOS) // 2]
    work["tuning step"] = Tuning(network(size, key, middle), images)
    work["recalibration pass"] = seen(network(size, key, middle), images)
    alike = [network(size, key / i, middle) for i in range(4)]
    work["four members, one by one"] = Synthesis(alike, images, FeatureStatistics, 4)
    work["four members, stacked"] = Synthesis(alike, images, StackedStatistics, 4)
    found = record.interleaved(work, options.repeats, device)
    # wall time says what a device takes; on a shared CPU processor time says best what the work costs
    clock = "processor" if device.type == "cpu" else "median"
    took = {name: row[clock] * BATCH / options.batch for name, row in found.items()}  # of 100 images
    pool_step = st.mean(took[f"step, {ratio:g} pruned"] for ratio in RATIOS)
    member_cost = EPOCHS * IMAGES / BATCH * took["tuning step"] + RECALIBRATION / BATCH * took["recalibration pass"]
    pool_cost, iterations = len(RATIOS) * member_cost, BLOCKS * ITERATIONS
    alone = iterations * took["base step"]
    computed = {
        "step_ratio": pool_step / took["base step"],
        "pool_seconds": pool_cost,
        "break_even_iterations": pool_cost / (took["base step"] - pool_step),
        "end_to_end_ratio": (pool_cost + iterations * pool_step) / alone,
        "stacked_over_loop": took["four members, stacked"] / took["four members, one by one"],
    }
    record.write("teddy_time", options, {"clock": clock, "measured": found, "mac_ratio": shares, "computed": computed})


if __name__ == "__main__":
    main()
