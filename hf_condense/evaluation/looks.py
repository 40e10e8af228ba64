"""The test images as one student sees them: the looks while it trains, and its predictions when it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_condense.models.training import predict

CURVE_IMAGES = 1000  # test images of a look for a curve


@dataclass(frozen=True)
class Best:
    """When the looks of "best over the test set" are taken: each `every` epochs (0: never), after `start` epochs."""

    every: int
    start: float


class Looks:
    """Test images and their classes, and when a training of `epochs` epochs is scored on them before its end.

    Args:
        shown: as `validation_images` gives them; `labels` int64 [M].
        size: side of the student's input.
        curve: how many looks there are for a curve, at part of the images.
        best: those at all of them.
    """

    def __init__(
        self,
        shown: Tensor,
        labels: Tensor,
        *,
        size: int,
        num_classes: int,
        device: torch.device,
        epochs: int,
        curve: int,
        best: Best,
    ) -> None:
        self.shown, self.right = shown, torch.as_tensor(labels).numpy()
        self.size, self.num_classes, self.device = size, num_classes, device
        self.epochs, self.curve, self.best = epochs, curve, best
        images = len(self.right)
        self.part = np.linspace(0, images - 1, min(images, CURVE_IMAGES)).round().astype(int)
        self.few = shown[torch.from_numpy(self.part)] if curve else shown

    def predictions(self, network: nn.Module) -> np.ndarray:
        """The class that `network` sees in each test image."""
        return as_classes(predict(network, self.shown, self.device, size=self.size), self.num_classes)

    def top1(self, predicted: np.ndarray) -> float:
        """Share of the test images whose class was predicted."""
        return float((predicted == self.right).mean())

    def __call__(self, epoch: int, online: nn.Module, averaged: nn.Module | None, row: dict) -> None:
        """`on_epoch` of `fit`: adds "top1" (of all images), "accuracy" and the time of looking where a look is due."""
        began, done, scored = time.perf_counter(), epoch + 1, averaged if averaged is not None else online
        due = self.best.every and done % self.best.every == 0
        if due and self.best.start < done < self.epochs:
            row["top1"] = row["accuracy"] = self.top1(self.predictions(scored))
        elif done < self.epochs and done * self.curve // self.epochs > epoch * self.curve // self.epochs:
            seen = predict(scored, self.few, self.device, size=self.size).argmax(1).numpy()
            row["accuracy"] = float((seen == self.right[self.part]).mean())
        if "accuracy" in row:
            row["looking"] = time.perf_counter() - began


def as_classes(logits: Tensor, num_classes: int) -> np.ndarray:
    """The predictions of logits [N, K] as they are kept: uint8, or uint16 above 256 classes."""
    return logits.argmax(1).cpu().numpy().astype(np.uint8 if num_classes <= 256 else np.uint16)


def validation_images(images: Tensor, size: int, rule: str) -> Tensor:
    """Test images [N, C, S, S] uint8, resized by the protocol's rule; `evaluate_top1` crops their centre to `size`."""
    side = size // 7 * 8 if rule == "8/7" else images.shape[-1]
    if side == images.shape[-1]:
        return images
    parts = [F.interpolate(p.float(), size=(side, side), mode="bilinear", antialias=True) for p in images.split(512)]
    return torch.cat([p.round().clamp(0, 255).to(torch.uint8) for p in parts])
