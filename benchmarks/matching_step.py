"""Seconds of one step of DM, DC and DSA: ours beside the plain class loop, and other ways to write DM's real side.

    python -m benchmarks.matching_step --width 32 128

Ten classes of made-up 28 px images with one channel, IPC 1 and 10. `plain` is benchmarks/plain_matching.py: class after
class, gradients of all parameters, one backward pass at the end. Networks, batches and draws are the same in all rows.
`forms` embeds the real images of a DM step: a pass a class, all at once, in chunks, in chunks and channels-last.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks import record
from benchmarks.plain_matching import plain_distribution, plain_gradient
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import FAMILIES, SiamesePolicy
from hf_condense.models.embedding import embed
from hf_condense.models.fresh import FreshNetworks
from hf_condense.objectives.distribution_matching import DistributionMatching
from hf_condense.objectives.gradient_matching import GradientMatching, Loops
from hf_condense.selection.paired import PairedViews

CPU, KEY, CLASSES = torch.device("cpu"), Key(0, "step"), 10


class Source:
    """Made-up images of ten classes."""

    num_classes, channels, image_size, mean, std = CLASSES, 1, 28, (0.3,), (0.35,)

    def __init__(self, per_class: int) -> None:
        draw = KEY.numpy().integers(0, 256, (CLASSES * per_class, 1, 28, 28), np.uint8)
        self.pixels, self.per_class = torch.from_numpy(draw), per_class
        self.fits_in_memory, self.shape = True, draw.shape

    def decoded(self) -> torch.Tensor:
        return self.pixels

    def rows_of(self, c: int) -> np.ndarray:
        return np.arange(c * self.per_class, (c + 1) * self.per_class)


class Steps:
    """One step of each row, on the same images."""

    def __init__(self, width: int, ipc: int, real_batch: int) -> None:
        self.source, self.real_batch = Source(600), real_batch
        self.fresh = FreshNetworks(
            f"convnet_w{width}",
            ImageSpec(num_classes=CLASSES, image_size=28, channels=1, mean=(0.3,), std=(0.35,)),
            device=CPU,
        )
        self.labels = torch.arange(CLASSES).repeat_interleave(ipc)
        self.images = torch.rand(len(self.labels), 1, 28, 28, generator=torch.Generator().manual_seed(0))
        self.views = {None: PairedViews(self.source, None, CPU)}
        self.views["dsa"] = PairedViews(self.source, SiamesePolicy(FAMILIES), CPU)

    def objective(self, method: str, precision: str):
        views = self.views[None if method == "dc" else "dsa"]
        if method == "dm":
            made = DistributionMatching(self.fresh, views, KEY, self.real_batch, precision)
        else:
            made = GradientMatching(self.fresh, views, Loops(1, 1, real_batch=self.real_batch))
        made.start(None, self.images, self.labels, KEY)
        return made

    def ours(self, method: str, precision: str = "fp32"):
        objective = self.objective(method, precision)

        def step() -> torch.Tensor:
            images = self.images.clone().requires_grad_(True)
            for term in objective.terms(images, self.labels, 0, KEY / "step" / 0):
                term.loss.backward()
            return images.grad

        return step

    def plain(self, method: str):
        views, loss_of = self.views[None if method == "dc" else "dsa"], plain_gradient
        if method == "dm":
            loss_of = plain_distribution

        def step() -> torch.Tensor:
            images, key = self.images.clone().requires_grad_(True), KEY / "step" / 0
            network = self.fresh(KEY / "network" / 0).requires_grad_(method != "dm")
            draw = views.draw(key / "siamese")
            loss = loss_of(network, views, images, self.labels, draw, self.real_batch, key / "real")
            (grad,) = torch.autograd.grad(loss, images)
            return grad

        return step

    def forms(self) -> dict:
        """Ways to embed the real images of a DM step."""
        network = self.fresh(KEY / "forms").requires_grad_(False)
        shown = self.views[None].pixels[: CLASSES * self.real_batch].float() / 255

        def split(size: int, layout=torch.contiguous_format):
            @torch.no_grad()
            def work() -> torch.Tensor:
                network.to(memory_format=layout)
                return torch.cat([embed(network, p.contiguous(memory_format=layout)) for p in shown.split(size)])

            return work

        return {
            "a pass a class": split(self.real_batch), "all at once": split(len(shown)), "chunks of 64": split(64),
            "chunks of 256": split(256), "chunks of 256, channels-last": split(256, torch.channels_last),
        }  # fmt: skip


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def measure(width: int, real_batch: int, repeats: int, methods: list[str]) -> dict:
    found = {}
    for ipc in (1, 10):
        steps = Steps(width, ipc, real_batch)
        for method in methods:
            work = {"ours": steps.ours(method), "plain": steps.plain(method)}
            if method == "dm":
                work["ours, bf16"] = steps.ours(method, "bf16")
            told = {"largest_difference": difference(work["ours"](), work["plain"]())}
            told |= record.interleaved(work, repeats, CPU)
            for kind in ("median", "fastest", "processor"):
                told[f"plain_over_ours_{kind}"] = round(told["plain"][kind] / told["ours"][kind], 3)
            found[f"{method} ipc {ipc}"] = told
    found["forms"] = record.interleaved(steps.forms(), repeats, CPU)
    return found


def parser():
    found = record.parser(__doc__)
    found.add_argument("--width", type=int, nargs="+", default=[32, 128])
    found.add_argument("--real_batch", type=int, default=64)
    found.add_argument("--methods", nargs="+", default=["dm", "dc", "dsa"])
    return found


if __name__ == "__main__":
    options = record.options(parser())
    facts = {f"width {w}": measure(w, options.real_batch, options.repeats, options.methods) for w in options.width}
    record.write("matching_step", options, facts)
