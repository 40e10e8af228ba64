"""Statistics of the real data inside frozen networks: class by class, added exactly, one file a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hf_condense.data.augmentation import ViewPolicy, apply_views, row_views
from hf_condense.data.crops import centre
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.errors import ArtefactError
from hf_condense.files import load_tensors, save_tensors
from hf_condense.models.taps import Layout, Taps

STATISTICS_VERSION = 2  # raised when the same data and networks give other numbers
OFFICIAL_BATCH = 64  # images whose statistics the authors' script averages


class Images(Protocol):
    """The interface of a source for `collect_statistics`; `ImageSource` implements it."""

    labels: np.ndarray
    num_classes: int
    image_size: int

    def images(self, rows: np.ndarray) -> Tensor: ...


@dataclass
class RealStatistics:
    """Moments at the input of a network's layers, for each class of the real data (all tensors float64, on the CPU).

    Args:
        counts: [K] images of each class.
        first: [K, D] mean over the class's images of each image's E[z].
        second: [K, D] mean over the class's images of each image's E[z²]; of each image's variance in official mode.
        layout: meaning of the D entries.
        official: (mean [D], variance [D]) over all data as the authors' script has them, or None for exact ones.
        metadata: settings that the numbers depend on; stored in the file.
    """

    counts: Tensor
    first: Tensor
    second: Tensor
    layout: Layout
    official: tuple[Tensor, Tensor] | None = None
    metadata: dict = field(default_factory=dict)

    def global_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance [D] over all images."""
        return self.official or self._mixture(self.counts / self.counts.sum())

    @property
    def kinds(self) -> tuple[str, ...]:
        """The layers, as `Taps` names them."""
        return ("conv", "norm") if any(s.is_conv for s in self.layout.segments) else ("norm",)

    def class_targets(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [D] that a batch with these labels (int64 [B]) has if it looks like the real data.

        The variance is that of the mixture, mean_i E2[y_i] - (mean_i M[y_i])², and so counts what differs between
        images and classes too.

        Raises:
            ArtefactError: a label's class has no statistics.
        """
        self._check(labels)
        return self._mixture(torch.bincount(labels.cpu(), minlength=len(self.counts)) / len(labels))

    def per_class_targets(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of single classes (int64 [G]): [G, D] each."""
        self._check(classes)
        first, second = self.first[classes.cpu()], self.second[classes.cpu()]
        return first, second if self.official else (second - first.square()).clamp_min(0)

    def save(self, path: Path | str) -> None:
        """Writes one safetensors file atomically."""
        official = dict(zip(("official_mean", "official_var"), self.official or ()))
        tensors = {"counts": self.counts, "first": self.first, "second": self.second, **official}
        save_tensors(path, tensors, {"layout": self.layout.to_list(), "metadata": self.metadata})

    @classmethod
    def load(cls, path: Path | str) -> RealStatistics:
        """Reads a file of `save`. Raises ArtefactError if it is missing, damaged or of another kind."""
        tensors, about = load_tensors(path)
        if not {"counts", "first", "second"} <= tensors.keys() or "layout" not in about:
            raise ArtefactError(str(path), sorted(tensors), "a statistics file", "delete it and run the stage again")
        official = (tensors["official_mean"], tensors["official_var"]) if "official_mean" in tensors else None
        layout = Layout.from_list(about["layout"])
        return cls(tensors["counts"], tensors["first"], tensors["second"], layout, official, about["metadata"])

    def _mixture(self, share: Tensor) -> tuple[Tensor, Tensor]:
        used = share.nonzero().flatten()  # classes of a shard are few, and the table may be memory-mapped
        share = share[used].to(self.first)
        first, second = share @ self.first[used], share @ self.second[used]
        return first, second if self.official else (second - first.square()).clamp_min(0)

    def _check(self, classes: Tensor) -> None:
        missing = [int(c) for c in classes.unique() if not 0 <= c < len(self.counts) or self.counts[c] == 0]
        if missing:
            raise ArtefactError(
                "statistics", missing, "classes that the statistics pass has seen", "collect the statistics again"
            )


def collect_statistics(
    models: Sequence[nn.Module],
    source: Images,
    policy: ViewPolicy | None,
    patch: int,
    key: Key,
    device: torch.device,
    *,
    batch_size: int = 128,
    mode: str = "exact",
    kinds: Sequence[str] = ("conv", "norm"),
    block_size: int = 1024,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[RealStatistics]:
    """Moments of the real data in all models, in one pass over the images.

    Images come sorted by class, so that a batch needs one sum for each of its few classes and tensor, and whatever is
    kept is small. Their views are keyed by their place in that order: the batch size does not matter. Processes share
    the work by whole classes, so `merge_statistics` of their parts is bitwise equal to one process.

    Args:
        models: frozen networks that take unit pixels [n, C, H, W].
        source: the real images.
        policy: augmentation (each image gets its own view, nothing is mixed), or None for the images as they are.
        patch: side in pixels of the cells of patch moments.
        key: determines the views.
        batch_size: images of one forward pass.
        mode: "exact", or "official": averages of batch statistics over shuffled batches of 64 and of single images'
            variances, running statistics of BatchNorms for all data, class patch mean and variance swapped, as in the
            authors' script (for comparison; slow, one process).
        kinds: layers that are read, as in `Taps`.
        block_size: classes are dealt to processes in packs of at least this many images.
        rank, world: this process and their number.
        progress: called with the number of images done.

    Returns:
        One RealStatistics for each model; classes of other processes have count 0.
    """
    if mode not in ("exact", "official"):
        raise ValueError(f"mode {mode!r}: exact or official")
    views = None if policy is None else replace(policy, per="image", mix="none")
    if mode == "official":
        batches = official_batches(source.labels, key) if rank == 0 else []
    else:
        batches = class_batches(source.labels, source.num_classes, batch_size, block_size, rank, world)
    metadata = {"patch": patch, "mode": mode, "version": STATISTICS_VERSION, "images": len(source.labels)}
    with ExitStack() as stack, torch.no_grad():
        taps = [stack.enter_context(Taps(model, patch, kinds)) for model in models]
        adders = [(_OfficialSum if mode == "official" else _ClassSum)(t, source.num_classes) for t in taps]
        for model in models:
            model.eval()
        for rows, images in _fetch(source, batches, views, key, device):
            for model, adder in zip(models, adders):
                adder.add(model, images, source.labels[rows])
            if progress:
                progress(len(rows))
        return [adder.result(metadata) for adder in adders]


@torch.no_grad()
def running_statistics(model: nn.Module, images: Tensor, num_classes: int) -> RealStatistics | None:
    """The running statistics of a network's BatchNorms; no class statistics.

    Args:
        images: any unit pixels [n, C, H, W] that the network takes; they only show in which order its layers run.

    Returns:
        None where the network has no BatchNorm with running statistics: then they have to be collected.
    """
    if not any(isinstance(m, nn.BatchNorm2d) and m.running_mean is not None for m in model.modules()):
        return None
    with Taps(model.eval(), patch=1, kinds=("norm",)) as taps:
        model(images)
        taps.collect()
        mean, var = taps.running_statistics()
    none = torch.zeros(num_classes, len(mean), dtype=torch.float64)
    found = (mean, var)
    if mean.isnan().any():  # a norm without running statistics beside others that have them
        return None
    metadata = {"mode": "running", "version": STATISTICS_VERSION}
    return RealStatistics(none[:, 0].clone(), none, none.clone(), taps.layout, found, metadata)


def merge_statistics(parts: Sequence[RealStatistics]) -> RealStatistics:
    """Statistics of all processes from those of each: of every class the numbers of the one that has seen it.

    Raises:
        ValueError: two parts have images of one class.
    """
    parts = [p for p in parts if p.counts.sum() > 0]
    if (torch.stack([p.counts > 0 for p in parts]).sum(0) > 1).any():
        raise ValueError("two processes have statistics of one class")
    first, second, counts = (sum(getattr(p, name) for p in parts) for name in ("first", "second", "counts"))
    return replace(parts[0], counts=counts, first=first, second=second)


def class_batches(
    labels: np.ndarray, num_classes: int, batch_size: int, block_size: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, their places in class order) of the batches of this process. No batch crosses a pack of whole classes, so
    batches are the same for any number of processes."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    start, pack = 0, 0
    for end in ends:
        if end - start < block_size and end != len(order):
            continue
        if pack % world == rank:
            for at in range(start, end, batch_size):
                places = np.arange(at, min(at + batch_size, end))
                yield order[places], places
        start, pack = end, pack + (end > start)


def official_batches(labels: np.ndarray, key: Key) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Shuffled batches, as (rows, rows)."""
    order = (key / "order").permutation(len(labels))
    for at in range(0, len(order), OFFICIAL_BATCH):
        rows = order[at : at + OFFICIAL_BATCH]
        yield rows, rows


def _fetch(
    source: Images, batches, policy: ViewPolicy | None, key: Key, device
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(rows, unit pixels on the device); the next batch is read while the networks work on this one."""
    size = policy.size if policy else source.image_size
    with ThreadPoolExecutor(1) as reader:
        ahead = []
        for rows, places in batches:
            ahead.append((rows, places, reader.submit(source.images, rows)))
            if len(ahead) == 2:
                yield _view(*ahead.pop(0), policy, key, device, size)
        for waiting in ahead:
            yield _view(*waiting, policy, key, device, size)


def _view(rows: np.ndarray, places: np.ndarray, read, policy: ViewPolicy | None, key: Key, device, size: int):
    images = to_device(read.result(), device).float().div_(255)
    if policy is None:
        return rows, centre(images, size).contiguous()
    return rows, apply_views(images, row_views(policy, key / "view", places, *images.shape[-2:]), policy)


class _ClassSum:
    """Exact mode: float64 sums for each class, in the order of the rows."""

    def __init__(self, taps: Taps, num_classes: int) -> None:
        self.taps, self.counts = taps, torch.zeros(num_classes, dtype=torch.float64)
        self.first: Tensor | None = None

    def add(self, model: nn.Module, images: Tensor, labels: np.ndarray) -> None:
        classes, sizes = np.unique(labels, return_counts=True)
        self.taps.group(sizes.tolist())
        model(images)
        first, second = (m.cpu().double() for m in self.taps.collect())
        if self.first is None:
            self.first, self.second = torch.zeros(2, len(self.counts), first.shape[1], dtype=torch.float64).unbind(0)
        index, weight = torch.from_numpy(classes), torch.from_numpy(sizes).double()
        self.counts[index] += weight
        self.first[index] += weight[:, None] * first
        self.second[index] += weight[:, None] * second

    def result(self, metadata: dict) -> RealStatistics:
        if self.first is None:  # a process without a class of its own
            empty = torch.zeros(len(self.counts), 0, dtype=torch.float64)
            return RealStatistics(self.counts, empty, empty.clone(), Layout(()), None, metadata)
        n = self.counts.clamp_min(1)[:, None]
        return RealStatistics(self.counts, self.first / n, self.second / n, self.taps.layout, None, metadata)


class _OfficialSum(_ClassSum):
    """Official mode: means of single images' variances for classes, of batch variances for all data."""

    def add(self, model: nn.Module, images: Tensor, labels: np.ndarray) -> None:
        self.taps.group([1] * len(labels))
        model(images)
        first, second = (m.cpu().double() for m in self.taps.collect())
        if self.first is None:
            self.first, self.second = torch.zeros(2, len(self.counts), first.shape[1], dtype=torch.float64).unbind(0)
            self.batch_mean, self.batch_var = torch.zeros(2, first.shape[1], dtype=torch.float64).unbind(0)
        index = torch.from_numpy(labels)
        self.counts += torch.bincount(index, minlength=len(self.counts))
        self.first.index_add_(0, index, first)
        self.second.index_add_(0, index, second - first.square())
        mean = first.mean(0)
        self.batch_mean += len(labels) * mean
        self.batch_var += len(labels) * (second.mean(0) - mean.square())

    def result(self, metadata: dict) -> RealStatistics:
        found = super().result(metadata)
        if self.first is None:
            return found
        for s in found.layout.segments:
            if s.kind == "patch":  # the authors' cache has the two exchanged
                entries = slice(s.start, s.stop)
                mean = found.first[:, entries].clone()
                found.first[:, entries], found.second[:, entries] = found.second[:, entries], mean
        total = self.counts.sum()
        running = self.taps.running_statistics()
        measured = (self.batch_mean / total, self.batch_var / total)
        found.official = tuple(torch.where(r.isnan(), m, r) for r, m in zip(running, measured))
        return found
