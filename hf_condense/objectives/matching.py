"""Distance of the statistics of a synthetic batch from those of the real data, for all layers of a network at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_condense.data.upload import to_device
from hf_condense.models.statistics import RealStatistics
from hf_condense.models.taps import Layout
from hf_condense.objectives.settings import MatchingSettings


class Matching:
    """Soft category-aware matching (EDC, Eq. 5) of one observer, with running statistics (its section 3.3).

    Means and variances of all layers lie in one flat vector, so that the number of operations does not grow with the
    number of layers. Norms are plain L2, one for each layer and kind of statistic.

    Args:
        statistics: of the real data in this observer.
        settings: shared by all observers.
        device: of the synthetic images.
    """

    def __init__(self, statistics: RealStatistics, settings: MatchingSettings, device: torch.device) -> None:
        self.statistics, self.settings, self.device = statistics, settings, device
        layout: Layout = statistics.layout
        lengths = torch.tensor(layout.lengths)
        self._lengths = lengths
        self.segment = torch.arange(len(lengths)).repeat_interleave(lengths).to(device)  # [D] the segment of an entry
        first = torch.tensor([s.first for s in layout.segments])
        self.weight = torch.where(first, settings.first_layer_weight, 1.0).to(device)
        self.layers = {name: i for i, name in enumerate(layout.layers)}
        self.layer_of = torch.tensor([self.layers[s.layer] for s in layout.segments])
        self.is_conv = torch.tensor([s.is_conv for s in layout.segments])
        self.average: Tensor | None = None  # [G, 2, D] running mean and variance of the synthetic batch
        self.visited: Tensor | None = None  # [D] entries that have a running value

    @property
    def layout(self) -> Layout:
        return self.statistics.layout

    def start(self, labels: Tensor, dtype: torch.dtype = torch.float32) -> None:
        """Sets the targets for a batch with these labels (int64 [B], on the CPU); running statistics are reset unless kept."""
        per_class = self.settings.class_matching == "per_class"
        classes, counts = labels.unique(return_counts=True)
        aims = [torch.stack(self.statistics.global_moments())]
        alpha = self.settings.alpha
        if alpha == 1 and not per_class:  # classes have no weight, so class statistics are not needed
            pass
        elif per_class:
            aims += list(torch.stack(self.statistics.per_class_targets(classes), dim=1))
        else:
            aims += [torch.stack(self.statistics.class_targets(labels))]
        self.targets = torch.stack(aims).to(self.device, dtype)  # [1 + classes, 2, D]: all data first
        share = counts / counts.sum() if per_class else torch.ones(len(aims) - 1)
        self.share = torch.cat([torch.tensor([alpha]), (1 - alpha) * share]).to(self.device, dtype)  # [1 + classes]
        # the segments of all rows of the residuals, one row after another
        self.lengths = self._lengths.repeat(2 * len(self.targets)).to(self.device)
        self.group_share = share.to(self.device, dtype)
        if self.average is None or per_class or not self.settings.stat_ema_persist:
            rows = len(self.targets) if per_class else 1
            self.average = torch.zeros(rows, 2, self.layout.size, device=self.device, dtype=dtype)
            begun = self.settings.stat_ema_zero_init
            self.visited = torch.full((self.layout.size,), begun, device=self.device)
            self._everywhere = torch.ones_like(self.visited)

    def loss(self, first: Tensor, second: Tensor, keep: Tensor | None = None) -> Tensor:
        """The weighted sum of all norms; moves the running statistics on.

        Args:
            first, second: moments of the batch, [D], or [classes, D] when matching per class.
            keep: bool [layers] in layout order, False where a layer is dropped in this step; None keeps all.
        """
        if first.ndim == 2:  # the batch as a whole, then its classes
            first, second = (torch.cat([(self.group_share @ m)[None], m]) for m in (first, second))
        else:
            first, second = first[None], second[None]
        now = torch.stack([first, second - first.square()], dim=1)  # [G, 2, D]
        weight = self.weight
        entries = None
        if keep is not None:
            kept = to_device(keep[self.layer_of], self.device)
            weight, entries = weight * kept, kept[self.segment]
        residual = self._running(now, entries) - self.targets  # [1 + classes, 2, D]
        # added in one order on every device
        sums = torch.segment_reduce(residual.square().flatten(), "sum", lengths=self.lengths, unsafe=True)
        norms = root(sums.view(*residual.shape[:2], -1))
        if self.settings.variance_weight != 1:
            norms = torch.stack([norms[:, 0], self.settings.variance_weight * norms[:, 1]], dim=1)
        return (norms.sum(1) @ weight.to(norms.dtype)) @ self.share

    def keep(self, uniform: Tensor) -> Tensor:
        """Which layers count, from one number in [0, 1) for each layer. Only convolutions are ever dropped."""
        conv = torch.zeros(len(self.layers), dtype=torch.bool)
        conv[self.layer_of] = self.is_conv
        return ~conv | (uniform >= self.settings.drop_rate)

    def _running(self, now: Tensor, entries: Tensor | None) -> Tensor:
        """The running statistics with the gradient of the batch's own: A + a - stop(a)."""
        with torch.no_grad():
            momentum = self.settings.stat_momentum
            moved = torch.where(self.visited, torch.lerp(now, self.average, momentum), now)
            visited = self._everywhere if entries is None else self.visited | entries
            self.average = moved if entries is None else torch.where(entries, moved, self.average)
            self.visited = visited
        return self.average + (now - now.detach())


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        found = x.sqrt()
        ctx.save_for_backward(found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (found,) = ctx.saved_tensors
        return (grad / (2 * found)).masked_fill_(found == 0, 0)


def root(x: Tensor) -> Tensor:
    """Square root of x >= 0 whose gradient at 0 is 0: a statistic that matches exactly has no gradient."""
    return _Root.apply(x)
