"""Seconds an image of RDED's selection: ours, and the plain loop that decodes, cuts and scores one image at a time.

    HF_CONDENSE_DATA=<folder with fashion_mnist/ and grocery_photos/> python -m benchmarks.rded_selection

One class: Fashion-MNIST (28 px, seen at 32) with 300 candidates for IPC 10 at factor 1, and photos at their native
resolution, seen at 224, at factor 2. Five crops an image; observers have keyed random weights, which cost what trained
ones do. `plain` gives the observer the crops of one image and must choose the same rows; `float` does so on floating-
point pixels, as the official code. Observer `none` costs nothing: what is left is decoding, cutting and ranking.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor, resized_crop

from benchmarks import record
from hf_condense.config import DataSettings
from hf_condense.data.crops import random_boxes
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.source import ImageSource, open_source
from hf_condense.models.loading import load_model
from hf_condense.selection.realism import realistic_crops

AIM = 5.0
CROPS = 5
# data set: side, factor, {observer: (IPC, candidates)}
CASES = {
    "fashion_mnist": (32, 1, {"none": (10, 300), "convnet_w32": (10, 300), "convnet_bn_w32": (10, 300)}),
    "grocery_photos": (224, 2, {"none": (2, 40), "test_byobnet": (2, 40), "resnet18": (1, 8)}),
}


class Nothing(nn.Module):
    """An observer that reads three pixels of the middle."""

    def __init__(self, mean: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))

    def forward(self, images: Tensor) -> Tensor:
        at = images.shape[-1] // 2
        return images[:, :1, at, at - 1 : at + 2].flatten(1).repeat(1, 4)


@torch.inference_mode()
def plain(
    source: ImageSource, observer: nn.Module, *, count: int, size: int, factor: int, candidates: int, key: Key,
    device: torch.device, floating: bool = False,
) -> tuple[Tensor, np.ndarray]:  # fmt: skip
    """The best patches [count * factor**2, C, s, s] of class 0 in their order, and the rows they are from."""
    rows, side = source.rows_of(0), size // factor
    edge = (size - side) // 2
    places = (key / "pool").permutation(len(rows))[: max(candidates, count * factor**2)]
    scores, patches = [], []
    for place in places:
        image = source.native(int(rows[place]))
        pixels = pil_to_tensor(image).to(device)
        if floating:
            pixels = pixels.float() / 255
        boxes = random_boxes(key / "crop" / int(place), CROPS, image.height, image.width, (0.08, 1.0), (1.0, 1.0))
        cut = torch.stack([resized_crop(pixels, *box, [side, side], antialias=True) for box in boxes.tolist()])
        canvas = observer.mean.view(1, -1, 1, 1).repeat(CROPS, 1, size, size)
        canvas[..., edge : edge + side, edge : edge + side] = cut if floating else cut.float() / 255
        target = torch.zeros(CROPS, dtype=torch.long, device=device)
        losses = F.cross_entropy(observer(canvas).float(), target, reduction="none")
        scores.append(float(losses.min()))
        patches.append(cut[int(losses.argmin())].cpu())
    order = np.argsort(scores, kind="stable")[: count * factor**2]
    return torch.stack([patches[i] for i in order]), rows[places[order]]


def measure(source: ImageSource, name: str, size: int, factor: int, ipc: int, candidates: int, options) -> dict:
    device, key = options.device, Key(0, "bench")
    if name == "none":
        observer = Nothing(source.mean).to(device)
    else:
        observer = load_model(name, ImageSpec(num_classes=source.num_classes, image_size=size, channels=source.channels, mean=source.mean, std=source.std), key=Key(0, "bench", name)).freeze().to(device)  # fmt: skip
    same = {"count": ipc, "size": size, "factor": factor, "candidates": candidates, "key": key, "device": device}

    def ours(precision: str = "fp32") -> tuple[Tensor, np.ndarray]:
        return realistic_crops(source, 0, observer=observer, crops=CROPS, precision=precision, **same)

    work: dict[str, Callable] = {"ours": ours, "plain": lambda: plain(source, observer, **same)}
    work["float"] = lambda: plain(source, observer, floating=True, **same)
    if name != "none":
        work["ours bf16"] = lambda: ours("bf16")
    made = {kind: call() for kind, call in work.items()}
    (images, first), (patches, rows) = made["ours"], made["plain"]
    assert first.tolist() == rows[:ipc].tolist(), "ours and plain choose different images"
    side = size // factor
    cells = images.unflatten(2, (factor, side)).unflatten(4, (factor, side)).permute(2, 4, 0, 1, 3, 5).flatten(0, 2)
    assert torch.equal(cells, patches), "ours and plain choose different crops"
    seconds = record.interleaved(work, options.repeats, device)
    looked_at = min(candidates, len(source.rows_of(0)))
    return {
        "images": looked_at,
        "seconds_per_image": {k: {a: round(b / looked_at, 7) for a, b in v.items()} for k, v in seconds.items()},
        "over_ours": {
            k: {a: round(b / seconds["ours"][a], 2) for a, b in v.items()} for k, v in seconds.items() if k != "ours"
        },
        "first_cells_as_ours": {k: len(set(v[1][:ipc]) & set(first)) / ipc for k, v in made.items()},
    }


def parser():
    found = record.parser(__doc__, repeats=3)
    found.add_argument("--datasets", nargs="+", choices=sorted(CASES), default=list(CASES))
    return found


def main() -> None:
    options = record.options(parser())
    values: dict = {"aim_plain_over_ours": AIM, "crops": CROPS}
    for name in options.datasets:
        size, factor, observers = CASES[name]
        folder = os.path.join(os.environ["HF_CONDENSE_DATA"], name)
        source = open_source(DataSettings(dataset=folder, image_size=size), Key(0)).train
        for observer, (ipc, candidates) in observers.items():
            found = measure(source, observer, size, factor, ipc, candidates, options)
            values[f"{name} {observer}"] = found
    record.write("rded_selection", options, values)


if __name__ == "__main__":
    main()
