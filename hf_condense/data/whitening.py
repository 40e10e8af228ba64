"""ZCA whitening: takes out the correlations of pixels over a dataset, by a linear map that has an exact inverse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hf_condense.config import check
from hf_condense.data.cache import cache_folder, one_at_a_time
from hf_condense.files import fingerprint, load_tensors, save_tensors
from hf_condense.precision import autocast

if TYPE_CHECKING:
    from hf_condense.data.images import ImageSource

VERSION = 1  # raised when the same images no longer give the same map
EPS = 0.1  # added to every eigenvalue, as all methods that whiten do (the variance of unit pixels is about 0.06)
LARGEST = 3 * 64 * 64  # values an image; the map has its square of entries, and fitting takes its third power
BLOCK = 1024  # images whose products are summed at once


class Whitening(nn.Module):
    """white = (unit - mean) T with T = U diag(1 / sqrt(s + eps)) U', of eigenvectors U and eigenvalues s of real images.

    T is symmetric: of all maps that whiten it changes images least. It belongs to the dataset, not to a network that
    holds it, so its buffers are in no `state_dict`.

    Args:
        mean: [C, S, S] of the images, in unit pixels.
        whiten, restore: [D, D] with D = C * S * S, T and its inverse.
        eps: what was added to the eigenvalues.
        fitted_on: fingerprint of the images.
    """

    def __init__(self, mean: Tensor, whiten: Tensor, restore: Tensor, eps: float, fitted_on: str = "") -> None:
        super().__init__()
        self.eps, self.fitted_on = eps, fitted_on
        for name, value in (("mean", mean), ("whiten", whiten), ("restore", restore)):
            self.register_buffer(name, value, persistent=False)

    @classmethod
    def fit(cls, images: Tensor, eps: float = EPS, fitted_on: str = "") -> Whitening:
        """The map of uint8 (or float unit-pixel) images [N, C, S, S], in float64 on the CPU, stored in float32.

        Raises:
            ConfigError: the images are too large for it.
        """
        shape, size = images.shape[1:], images[0].numel()
        check(
            size <= LARGEST,
            "image_size",
            "x".join(map(str, shape)),
            f"{LARGEST} values an image for ZCA whitening",
            "choose a smaller --image_size, or settings without ZCA",
        )
        mean = sum(block.sum(0) for block in _rows(images)) / len(images)
        covariance = torch.zeros(size, size, dtype=torch.float64)
        for block in _rows(images):
            block = block - mean
            covariance.addmm_(block.T, block)
        values, vectors = torch.linalg.eigh(covariance / (len(images) - 1))
        root = (values.clamp_min(0) + eps).sqrt()  # rounding can make eigenvalues of zero negative
        whiten, restore = (vectors * root.reciprocal()) @ vectors.T, (vectors * root) @ vectors.T
        return cls(mean.view(shape).float(), whiten.float(), restore.float(), eps, fitted_on)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S) of the images it takes."""
        return tuple(self.mean.shape)

    @property
    def facts(self) -> dict:
        """Description for provenance and fingerprints."""
        return {"kind": "zca", "eps": self.eps, "fitted_on": self.fitted_on}

    def forward(self, unit: Tensor) -> Tensor:
        """Unit pixels [n, C, S, S] to whitened ones."""
        return self._map(unit - self.mean, self.whiten)

    def inverse(self, white: Tensor) -> Tensor:
        """Whitened images [n, C, S, S] to unit pixels."""
        return self._map(white, self.restore) + self.mean

    def vjp(self, gradient: Tensor) -> Tensor:
        """The gradient in whitened images from that in unit pixels: `restore` is its own transpose."""
        return self._map(gradient, self.restore)

    def _map(self, images: Tensor, matrix: Tensor) -> Tensor:
        with autocast(images.device, False):  # the small eigenvalues need every digit
            return (images.flatten(1) @ matrix.to(images.dtype)).view_as(images)

    def save(self, path: Path) -> None:
        save_tensors(path, dict(self.named_buffers()), self.facts)

    @classmethod
    def load(cls, path: Path) -> Whitening:
        """Raises ArtefactError when the file is missing or damaged."""
        tensors, facts = load_tensors(path)
        return cls(**tensors, eps=facts["eps"], fitted_on=facts["fitted_on"])


def fitted_whitening(source: ImageSource, eps: float = EPS) -> Whitening:
    """The whitening of all images of a source, fitted once and kept in the cache folder. Raises as `Whitening.fit`."""
    path = cache_folder() / "whitening" / f"{fingerprint([VERSION, source.fingerprint, eps])}.safetensors"
    with one_at_a_time(path):
        if not path.exists():
            Whitening.fit(source.decoded(), eps, source.fingerprint).save(path)
    return Whitening.load(path)


def _rows(images: Tensor) -> Iterator[Tensor]:
    """Images as float64 rows [b, D] in unit pixels, a block at a time."""
    scale = 255 if images.dtype == torch.uint8 else 1
    for block in images.split(BLOCK):
        yield block.flatten(1).double() / scale
