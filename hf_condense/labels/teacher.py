"""The teacher: one network or an ensemble that computes soft labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_condense.config import check
from hf_condense.data.pixels import unit_pixels
from hf_condense.errors import ModelError
from hf_condense.models.finite import need_finite_outputs
from hf_condense.precision import autocast

if TYPE_CHECKING:
    from hf_condense.models.image_model import ImageModel


class Ensemble(nn.Module):
    """Networks whose outputs are averaged. Itself a module, so that `evaluate_top1` and `predict` accept it.

    Args:
        models: one or more networks for the same classes; they are frozen.
        average: "logits" is the plain mean (EDC, arXiv:2404.13733, Eq. 4); "probabilities" the log of the mean
            softmax; "normalised" first brings every network's logits of a batch to the mean Frobenius norm of all
            (G-VBSM's ImageNet-1k script), which makes a label depend a little on its batch.
        precision: "fp32", or "bf16" for autocast; logits are fp32 in both.
        bn: statistics that batch norms use: "running", or those of the "batch", which ties a label to its batch.
        weights: share of each network in the mean of logits, which sum to 1; equal ones by default (CV-DD's are not,
            arXiv:2501.07575).

    Raises:
        ConfigError: no model, or models for different numbers of classes.
    """

    def __init__(
        self,
        models: list[ImageModel],
        average: Literal["logits", "probabilities", "normalised"] = "logits",
        precision: Literal["fp32", "bf16"] = "fp32",
        bn: Literal["running", "batch"] = "running",
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check(len(models) > 0, "teachers", [], "one or more networks")
        counts = sorted({m.num_classes for m in models})
        check(len(counts) == 1, "teachers", counts, "networks for one number of classes")
        check(
            average in ("logits", "probabilities", "normalised"),
            "ensemble",
            average,
            "logits, probabilities, normalised",
        )
        check(precision in ("fp32", "bf16"), "precision", precision, "fp32, bf16")
        check(bn in ("running", "batch"), "teacher_bn", bn, "running, batch")
        fit = weights is None or (len(weights) == len(models) and min(weights) >= 0 and abs(sum(weights) - 1) < 1e-6)
        check(fit, "teacher weights", weights, f"{len(models)} shares of 0 or more that sum to 1")
        check(
            weights is None or average == "logits", "teacher weights", weights, f"none with the average of {average}"
        )
        self.weights = None if weights is None else tuple(weights)
        self.models = nn.ModuleList(m.eval().requires_grad_(False) for m in models)
        self.average, self.precision, self.bn, self.num_classes = average, precision, bn, counts[0]

    @classmethod
    def for_protocol(
        cls, models: list[ImageModel], protocol, precision: str = "fp32", weights: Sequence[float] | None = None
    ) -> Ensemble:
        """The teacher with the averaging and batch norms of `protocol`."""
        return cls(models, protocol.average, precision, protocol.teacher_bn, weights)

    def train(self, mode: bool = True) -> Ensemble:
        """A teacher stays in evaluation mode; `bn` selects its batch-norm statistics."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Averaged logits fp32 [n, K] of unit pixels [n, C, H, W]."""
        answers = torch.stack(self._answers(images))
        if self.average == "probabilities":
            return torch.logsumexp(F.log_softmax(answers, -1), 0) - torch.tensor(float(len(answers))).log()
        if self.average == "normalised":
            norms = answers.flatten(1).norm(dim=1)
            answers = answers * (norms.mean() / norms)[:, None, None]
        if self.weights is not None:
            return sum(share * answer for share, answer in zip(self.weights, answers))
        return answers.mean(0)

    def _answers(self, images: Tensor) -> list[Tensor]:
        """Logits fp32 [n, K] of each network."""
        with autocast(images.device, self.precision == "bf16"):
            if self.bn == "batch":
                with batch_statistics(self.models):
                    answers = [m(images) for m in self.models]
            else:
                answers = [m(images) for m in self.models]
        return [a.float() for a in answers]

    @property
    def depends_on_batch(self) -> bool:
        """Whether the logits of an image depend on the images that are given with it."""
        return self.bn == "batch" or self.average == "normalised"

    def logits(self, images: Tensor, sizes: list[int] | None = None) -> Tensor:
        """`forward` without gradients. Plain tensors, because a student's loss saves them for its backward pass.

        Args:
            sizes: of consecutive parts of the batch that are labelled each by itself, where that makes a difference.
        """
        parts = images.split(sizes) if sizes and self.depends_on_batch else [images]
        with torch.no_grad():
            return torch.cat([self(part) for part in parts]) if len(parts) > 1 else self(images)

    def soft_labels(self, images: Tensor, device: torch.device, batch_size: int = 256) -> Tensor:
        """Probabilities fp16 [N, K], on the CPU, of un-augmented uint8 images [N, C, S, S].

        Raises:
            ModelError: they are not finite; the message names the network.
        """
        self.to(device)
        parts = [self.logits(unit_pixels(part, device)).softmax(1).half() for part in images.split(batch_size)]
        for part, soft in zip(images.split(batch_size), parts):
            if not soft.isfinite().all():
                self.refuse(unit_pixels(part, device))
        return torch.cat(parts).cpu()

    def refuse(self, images: Tensor) -> None:
        """Raises ModelError for labels of these unit pixels that are not finite; the message names the network.

        If the outputs of all networks are finite, their average is not, or it is too large for half precision.
        """
        remedy = "take other weights, or train it again with a lower rate"
        with torch.no_grad():
            for model, answers in zip(self.models, self._answers(images)):
                need_finite_outputs(answers, model.name, "teachers", remedy)
        names = ", ".join(model.name for model in self.models)
        raise ModelError("teachers", names, "labels that are finite in half precision; some of these are not", remedy)

    def describe(self) -> dict:
        """The facts of the teacher that a label store records."""
        members = [{"name": m.name, "sha256": m.sha256(), "source": m.source} for m in self.models]
        facts = {"members": members, "average": self.average, "bn": self.bn, "precision": self.precision}
        return facts if self.weights is None else facts | {"weights": list(self.weights)}

    @property
    def bytes(self) -> int:
        """Bytes of parameters and buffers: what a student needs in the online regime."""
        return sum(t.numel() * t.element_size() for t in (*self.parameters(), *self.buffers()))


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms use the statistics of the batch, and leave their running ones as they are."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(m.training, m.track_running_stats) for m in norms]
    try:
        for m in norms:
            m.training, m.track_running_stats = True, False
        yield
    finally:
        for m, (training, track) in zip(norms, before):
            m.training, m.track_running_stats = training, track
