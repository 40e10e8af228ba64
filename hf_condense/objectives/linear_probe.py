"""Linear gradient matching: the gradient of a new linear head on frozen features points the same way (arXiv:2511.16674)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_condense.data.augmentation import ViewPolicy, apply_views, draw_views
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.models.embedding import embed
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.base import Objective, Term


class NoisyViews:
    """Views of images; to a half of them, drawn for each, Gaussian noise is added, which is not clamped.

    Args:
        policy: of the views.
        std, mean: of the noise in unit pixels; a std of 0 adds none.
    """

    def __init__(self, policy: ViewPolicy, std: float = 0.0, mean: float = 0.0) -> None:
        self.policy, self.std, self.mean = policy, std, mean

    def __call__(self, images: Tensor, key: Key) -> Tensor:
        """Float unit pixels [n, C, H, W] to views [n, C, size, size]."""
        views = draw_views(self.policy, key, len(images), *images.shape[-2:])
        shown = apply_views(images, views, self.policy)
        if not self.std:
            return shown
        noisy = to_device(torch.from_numpy((key / "noisy").uniform(len(images)) < 0.5), shown.device)
        # drawn on the device: on the CPU these draws would cost more than the backbone
        draw = None  # on the meta device, which has no numbers
        if shown.device.type != "meta":
            draw = torch.Generator(shown.device).manual_seed((key / "noise").seed())
        noise = torch.randn(shown.shape, generator=draw, device=shown.device, dtype=shown.dtype) * self.std + self.mean
        return shown + noise * noisy[:, None, None, None]


class LinearGradientMatching(Objective):
    """Loss = 1 - cos of the gradients of a new head W, b in real and in synthetic images.

    The gradient of mean cross-entropy in (W, b) is (1/n) (P - Y)' [Z, 1], with features Z and probabilities P. With W = 0
    it is that of the centred class means, so that real images are needed once, for theirs.

    Synthetic images enter by a sum, so they go through the backbone a chunk at a time: once without a graph for the sum,
    and once more for the product of each chunk's part with the gradient of the loss in the sum. Memory is that of a chunk.

    Args:
        backbone: takes unit pixels; frozen.
        num_classes: C.
        views: of synthetic images: (images, key) -> views.
        copies: views of each image in a step.
        chunk: views that go through the backbone together.
        head_scale: standard deviation of the weights of the head, drawn in each step; 0 for W = 0.
        real: (step, key) -> (features [m, d], labels int64 [m]) of real images for the head of that step; or, with W = 0,
            their class means [C, d].
        precision: "fp32" or "bf16" of the backbone; gradients are float32 (float64 for float64 images).
    """

    def __init__(
        self,
        backbone: ImageModel,
        num_classes: int,
        views: Callable[[Tensor, Key], Tensor],
        *,
        copies: int,
        chunk: int,
        head_scale: float,
        real: Callable[[int, Key], tuple[Tensor, Tensor]] | Tensor,
        precision: str = "fp32",
    ) -> None:
        self.backbone, self.num_classes, self.views = backbone.freeze(), num_classes, views
        self.copies, self.chunk, self.head_scale = copies, chunk, head_scale
        self.real, self.precision = real, precision

    def start(self, shard, images: Tensor, labels: Tensor, key: Key) -> None:
        self.backbone.to(images.device)
        if isinstance(self.real, Tensor):
            self.real = to_device(self.real.to(images.dtype), images.device)

    def terms(self, images: Tensor, labels: Tensor, step: int, key: Key) -> Iterator[Term]:
        """One term for each chunk of views; the first one has the value of the loss in its log."""
        wanted, head = self._wanted(images, step, key)
        chunks = torch.arange(len(images), device=images.device).repeat(self.copies).split(self.chunk)
        whole = len(images) * self.copies

        def part(number: int) -> Tensor:
            rows = chunks[number]
            shown = self.views(images[rows], key / "view" / number)
            return head_gradient(self._features(shown), labels[rows], head, self.num_classes) / whole

        if len(chunks) == 1:
            loss = 1 - cosine(part(0), wanted)
            yield Term(loss, "linear_probe", {"loss": loss.detach()})
            return
        with torch.no_grad():
            summed = sum(part(number) for number in range(len(chunks)))
        summed.requires_grad_(True)
        loss = 1 - cosine(summed, wanted)
        (slope,) = torch.autograd.grad(loss, summed)
        logs = {"loss": loss.detach()}
        for number in range(len(chunks)):
            yield Term((slope * part(number)).sum(), "linear_probe", logs)
            logs = {}

    def _wanted(self, images: Tensor, step: int, key: Key) -> tuple[Tensor, Tensor | None]:
        """The gradient in real images [C, d + 1], and the head of this step, None for W = 0."""
        if isinstance(self.real, Tensor):
            classes = torch.arange(self.num_classes, device=images.device)
            return head_gradient(self.real, classes, None, self.num_classes) / self.num_classes, None
        features, labels = self.real(step, key / "real")
        features = features.to(images)
        head = None
        if self.head_scale:
            drawn = (key / "head").numpy().standard_normal((self.num_classes, features.shape[1]))
            head = self.head_scale * to_device(torch.from_numpy(drawn).to(features.dtype), features.device)
        with torch.no_grad():
            return head_gradient(features, labels, head, self.num_classes) / len(features), head

    def _features(self, shown: Tensor) -> Tensor:
        if self.precision == "fp32":
            return embed(self.backbone, shown)
        with torch.autocast(shown.device.type, torch.bfloat16):
            return embed(self.backbone, shown).to(shown.dtype)


def head_gradient(features: Tensor, labels: Tensor, head: Tensor | None, num_classes: int) -> Tensor:
    """(P - Y)' [Z, 1], float [C, d + 1]: the gradient of summed cross-entropy in the weights and the bias of a head.

    Args:
        features: Z [n, d]; `labels` int64 [n].
        head: weights [C, d], the bias being 0; None for zeros.
        num_classes: C.
    """
    given = features.new_zeros(len(features), num_classes).scatter_(
        1, labels[:, None], 1
    )  # `F.one_hot` reads labels back
    seen = (features @ head.mT).softmax(1) if head is not None else torch.full_like(given, 1 / num_classes)
    return (seen - given).mT @ F.pad(features, (0, 1), value=1.0)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of two tensors of one shape, taken as vectors."""
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0, eps=1e-30)
