"""Scores of the difficulty of images, and selection of the images with the largest or smallest scores."""

from __future__ import annotations

import numpy as np
import torch

from hf_condense.data.randomness import Key


def el2n(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Length of the error vector, ||softmax(logits) - onehot(label)||, [n] in [0, sqrt(2)] (arXiv:2107.07075)."""
    errors = logits.softmax(1)
    errors[torch.arange(len(labels), device=labels.device), labels] -= 1
    return errors.norm(dim=1)


def forgetting(correct: torch.Tensor) -> torch.Tensor:
    """Forgetting events of each image: correct after one epoch and wrong after the next (arXiv:1812.05159).

    Args:
        correct: bool [epochs, n].

    Returns:
        float32 [n]; infinite for images that were never correct.
    """
    forgotten = (correct[:-1] & ~correct[1:]).sum(0).float()
    return forgotten.masked_fill(~correct.any(0), torch.inf)


def cad(probability: torch.Tensor, window: int, band: int) -> torch.Tensor:
    """CAD, the compute-aware difficulty: how unsteady an image is near the end of a training (arXiv:2604.18811).

    The standard deviation over `window` epochs (J), averaged over `band` windows (W) that begin one epoch after another;
    the last of them ends two epochs before the last.

    Args:
        probability: float [epochs, n] of the true class after each epoch; at least `window` + `band` + 1 epochs.

    Returns:
        float32 [n].
    """
    first = len(probability) - window - band - 1
    spread = probability.unfold(0, window, 1).std(-1, unbiased=False)
    return spread[first : first + band].mean(0)


def ranked(scores: torch.Tensor, count: int, key: Key, *, largest: bool) -> np.ndarray:
    """Indices int64 [count] of the largest (or smallest) scores [n], best first; fewer are the first of more.

    Equal scores, of which counts have many, come in the random order that `key` draws.
    """
    drawn = key.permutation(len(scores))
    values = scores.numpy()[drawn]
    return drawn[np.argsort(-values if largest else values, kind="stable")[:count]]
