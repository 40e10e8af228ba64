"""Seconds of a student's step: ours beside torch's own kernels, views drawn for each student, and low precision.

    python -m benchmarks.student_step

Made-up images, protocol `small` (AdamW, averaged weights, CutMix, batches of 25), hard labels. `plain` is what students
were before: torch's average pooling, one optimiser kernel a weight and operation, views drawn again for each student. Ours
is a student whose views another one of its seed has drawn, as all but the first row and regime of a table are.
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
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.students import fit_student, training_plan
from hf_condense.labels import views
from hf_condense.models.convnet import HalvingPool
from hf_condense.models.loading import load_untrained

# student: side, channels, steps that are timed
CASES = {"convnet_d1": (8, 1, 100), "convnet_w32": (28, 1, 40)}


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

    def work(fused: bool = True, precision: str = "fp32") -> nn.Module:
        protocol, recipe = training_plan(resolved, len(images), precision=precision)
        model = load_untrained("students", name, spec, key=Key(0, name)).to(device)
        return fit_student(
            model, images, labels, "hard", protocol, replace(recipe, fused=fused), size=side, key=Key(0), device=device,
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
                return ours(fused=False)

        work = {"plain": plain, "ours": ours, "ours bf16": lambda ours=ours: ours(precision="bf16")}
        seconds = record.interleaved(work, options.repeats, options.device)
        each = {kind: row["processor"] / steps for kind, row in seconds.items()}
        found[name] = {"processor_ms_a_step": {kind: round(1000 * value, 3) for kind, value in each.items()}}
        found[name]["plain_over_ours"] = round(each["plain"] / each["ours"], 2)
        found[name]["bf16_over_fp32"] = round(each["ours bf16"] / each["ours"], 2)
        apart = [(a - b).detach().abs().max() for a, b in zip(plain().parameters(), ours().parameters())]
        found[name]["largest_weight_difference"] = float(max(apart))
    record.write("student_step", options, {"results": found})


if __name__ == "__main__":
    main()
