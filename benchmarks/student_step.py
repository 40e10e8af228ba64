"""Processor time of a student's step: ours beside torch's own kernels, and with the blocks of ConvNets left to torch.

    python -m benchmarks.student_step

Made-up images, protocol `small` (AdamW, averaged weights, CutMix, batches of 25), hard labels. `plain` is what students
were at first: torch's average pooling, one optimiser kernel a weight and operation, views drawn again for each student.
`unfused` is a student of today without the compiled block (`models.norm_relu_pool`), and views that another one of its
seed has drawn, as all but the first row and regime of a table are. `ours` has the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from benchmarks import record
from hf_condense.data.augmentation import draw_views
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.evaluation.batches import Pixels
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.students import fit_student, training_plan
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels import views
from hf_condense.models.convnet import HalvingPool, fuse
from hf_condense.models.loading import load_untrained

# student: side, channels, steps that are timed
CASES = {
    "convnet_d2_w16": (8, 1, 200),
    "convnet_d1": (8, 1, 200),
    "convnet_w32": (28, 1, 60),
    "convnet_w128": (32, 3, 4),
}


@contextmanager
def plain_parts() -> Iterator[None]:
    """Torch's pooling, and no view shared."""
    drawn, forward = views._drawn, HalvingPool.forward
    views._drawn, HalvingPool.forward = draw_views, nn.AvgPool2d.forward
    try:
        yield
    finally:
        views._drawn, HalvingPool.forward = drawn, forward


def trained(name: str, device: torch.device) -> Callable[..., nn.Module]:
    """Trains one student of this name; all calls train the same one."""
    side, channels, steps = CASES[name]
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (100, channels, side, side), dtype=torch.uint8, generator=draw)
    labels = torch.arange(10).repeat_interleave(10)
    spec = ImageSpec(num_classes=10, image_size=side, channels=channels, mean=(0.5,), std=(0.25,))
    resolved = get_protocol("small", steps=steps).resolve(name, 10)

    def work(optimiser: bool = True, blocks: bool = True) -> nn.Module:
        protocol, recipe = training_plan(resolved, len(images))
        model = load_untrained("students", name, spec, key=Key(0, name)).to(device)
        fuse(model, blocks)
        return fit_student(
            model, TrainingSet(images, labels), protocol, replace(recipe, fused=optimiser), size=side, key=Key(0),
            device=device, pixels=Pixels(),
        ).model  # fmt: skip

    return work


def parser():
    found = record.parser(__doc__)
    found.add_argument("--students", nargs="+", choices=sorted(CASES), default=list(CASES))
    return found


def main() -> None:
    options = record.options(parser())
    found = {}
    for name in options.students:
        ours, steps = trained(name, options.device), CASES[name][2]

        def plain(ours=ours) -> nn.Module:
            with plain_parts():
                return ours(optimiser=False, blocks=False)

        work = {"plain": plain, "unfused": lambda ours=ours: ours(blocks=False), "ours": ours}
        seconds = record.interleaved(work, options.repeats, options.device)
        each = {kind: row["processor"] / steps for kind, row in seconds.items()}
        found[name] = {"processor_ms_a_step": {kind: round(1000 * value, 3) for kind, value in each.items()}}
        found[name] |= {f"{kind}_over_ours": round(each[kind] / each["ours"], 2) for kind in ("plain", "unfused")}
        both = zip(work["unfused"]().parameters(), ours().parameters())
        # not of biases before a norm, whose gradient is rounding alone
        apart = [float((a - b).detach().norm() / a.detach().norm()) for a, b in both if a.ndim > 1]
        found[name]["weights_apart_by"] = max(apart)
    record.write("student_step", options, {"results": found})


if __name__ == "__main__":
    main()
