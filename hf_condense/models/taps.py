"""First and second moments of the inputs of a network's layers, collected during its forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from hf_condense.errors import ModelError
from hf_condense.models.moments import Moments, moments
from hf_condense.models.sums import Sums, read


@dataclass(frozen=True)
class Segment:
    """The position of one layer's moments in the flat vector: entries `start` to `stop`.

    Args:
        layer: the layer's name in the model.
        kind: "channel" (one entry a channel) or "patch" (one entry a cell of the feature map).
        is_conv: the layer is a convolution (only these have patches, and only these can be dropped).
        first: the layer is the first one in module order, which sees pixels.
    """

    layer: str
    kind: str
    start: int
    stop: int
    is_conv: bool
    first: bool


@dataclass(frozen=True)
class Layout:
    """The segments of a flat vector of moments, in order and without gaps."""

    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        return self.segments[-1].stop if self.segments else 0

    @property
    def lengths(self) -> list[int]:
        return [s.stop - s.start for s in self.segments]

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(s.layer for s in self.segments))

    def to_list(self) -> list[dict]:
        return [asdict(s) for s in self.segments]

    @classmethod
    def from_list(cls, rows: list[dict]) -> Layout:
        return cls(tuple(Segment(**row) for row in rows))


@dataclass(eq=False)
class _Read:
    """What was read of one tensor: its sums, until they are reduced to moments."""

    sums: Sums | None
    moments: Moments | None = None


class Taps:
    """Reads E[z] and E[z²] of the input of every Conv2d and BatchNorm2d while the model runs.

    Channels are averaged over images and pixels. Convolutions also get patch moments: the feature map is cut into
    cells of `patch` x `patch` pixels, each averaged over images, all channels and its own pixels; a map that does not
    divide is first resized bilinearly to the next multiple. A layer used several times counts at its first use.
    Statistics are float32 whatever the precision of the network (float64 where that is float64), and gradients flow
    through them to the model's input, in one pass over each tensor.

    Models with no BatchNorm2d and at most one convolution (transformers, which only embed patches with it) have the
    inputs of their LayerNorms tapped as well; tokens take the place of pixels.

    Example:
        >>> with Taps(model, patch=4) as taps:
        ...     logits = model(images)
        ...     first, second = taps.collect()  # both [D]; taps.layout says which entry is what

    Raises:
        ModelError: the model has no layer that could be tapped.
    """

    def __init__(self, model: nn.Module, patch: int, kinds: Sequence[str] = ("conv", "norm")) -> None:
        self.patch = patch
        self.layout: Layout | None = None
        self._layers = find_layers(model, kinds)
        self._groups: tuple[int, ...] | None = None
        self._shape: tuple | None = None
        self._handles: list = []
        self._reset()

    def __enter__(self) -> Taps:
        self._reset()
        self._handles = [m.register_forward_pre_hook(self._hook(name, m)) for name, m in self._layers.items()]
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()
        self._reset()

    def group(self, sizes: Sequence[int] | None) -> None:
        """Splits the rows of a batch into consecutive groups of these sizes, each with its own moments."""
        self._groups = None if sizes is None else tuple(sizes)

    def collect(self) -> tuple[Tensor, Tensor]:
        """First and second moments since the last call: [D] each, or [groups, D]; clears them."""
        found = [(name, *self._found[name]) for name in self._layers if name in self._found]
        if not found:
            raise RuntimeError("no forward pass was read: collect() belongs after the model ran, inside `with Taps`")
        self._reduce([read for read in dict.fromkeys(read for _, read, _ in found) if read.moments is None])
        pieces = [(read.moments.channels, read.moments.cells if is_conv else None) for _, read, is_conv in found]
        pieces = [tuple(part for part in pair if part is not None) for pair in pieces]
        shape = tuple((name, *(part.shape[-1] for part in pair)) for (name, *_), pair in zip(found, pieces))
        if shape != self._shape:
            self._shape, self.layout = shape, self._make_layout(shape)
        found = torch.cat([part for pair in pieces for part in pair], -1)
        first, second = found.squeeze(1) if self._groups is None else found
        self._reset()
        return first, second

    def running_statistics(self) -> tuple[Tensor, Tensor]:
        """running_mean and running_var of the tapped BatchNorms at their entries [D] (CPU, float64), NaN elsewhere."""
        mean = torch.full((self.layout.size,), torch.nan, dtype=torch.float64)
        var = mean.clone()
        for s in self.layout.segments:
            module = self._layers[s.layer]
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                mean[s.start : s.stop] = module.running_mean.double().cpu()
                var[s.start : s.stop] = module.running_var.double().cpu()
        return mean, var

    def _reset(self) -> None:
        self._found: dict[str, tuple[_Read, bool]] = {}
        self._seen: dict[int, tuple] = {}  # tensors that two layers share are read once

    def _hook(self, name: str, module: nn.Module):
        is_conv = isinstance(module, nn.Conv2d)

        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if name in self._found:
                return None
            tapped, found = self._read(args[0], module, is_conv)
            self._found[name] = found, is_conv
            return None if tapped is None else (tapped, *args[1:])

        return hook

    def _read(self, z: Tensor, module: nn.Module, is_conv: bool) -> tuple[Tensor | None, _Read]:
        """(z that carries the gradient of its sums, or None where there is none; what was read)."""
        version = 0 if z.is_inference() else z._version
        seen = self._seen.get(id(z))
        # weak: a frozen pass must not keep activations alive; an id may be reused by a later tensor
        if seen and seen[0]() is z and seen[1] == version and (seen[2] or not is_conv):
            return seen[3]
        maps = as_maps(z, module)
        tapped, sums = read(maps, self.patch if is_conv else None, self._groups or (len(z),))
        found = _Read(sums)
        if self._groups is not None:  # of many groups the sums would take as much memory as the maps themselves
            self._reduce([found])
        result = (None if tapped is None else from_maps(tapped, z), found)
        self._seen[id(z)] = (weakref.ref(z), version, is_conv, result)
        return result

    def _reduce(self, reads: Sequence[_Read]) -> None:
        """Moments of what was read, for all of these at once."""
        for one, found in zip(reads, moments([one.sums for one in reads])):
            one.moments, one.sums = found, None

    def _make_layout(self, shape: tuple) -> Layout:
        segments, at = [], 0
        for i, (name, *lengths) in enumerate(shape):
            is_conv = isinstance(self._layers[name], nn.Conv2d)
            for kind, length in zip(("channel", "patch"), lengths):
                segments.append(Segment(name, kind, at, at + length, is_conv, first=i == 0))
                at += length
        return Layout(tuple(segments))


def find_layers(model: nn.Module, kinds: Sequence[str] = ("conv", "norm")) -> dict[str, nn.Module]:
    """Name -> layer to tap, in module order. Raises ModelError where there is none."""
    modules = dict(model.named_modules())
    convs = {n: m for n, m in modules.items() if isinstance(m, nn.Conv2d)}
    norms = {n: m for n, m in modules.items() if isinstance(m, nn.BatchNorm2d)}
    if not norms and len(convs) <= 1:
        norms = {n: m for n, m in modules.items() if isinstance(m, nn.LayerNorm)}
    wanted = {**(convs if "conv" in kinds else {}), **(norms if "norm" in kinds else {})}
    if not wanted:
        types = sorted({type(m).__name__ for m in modules.values() if not list(m.children())})
        raise ModelError(
            "base_model",
            getattr(model, "name", type(model).__name__),
            f"a network with Conv2d, BatchNorm2d or LayerNorm layers; this one has {', '.join(types)}",
            "choose another observer, or a method that needs no layer statistics",
        )
    return {n: m for n, m in modules.items() if n in wanted}


def as_maps(z: Tensor, module: nn.Module) -> Tensor:
    """A layer's input as [n, C, H, W]; what a LayerNorm gets, [n, ..., C], becomes [n, C, tokens, 1]."""
    if not isinstance(module, nn.LayerNorm) or (z.ndim == 4 and z.shape[-1] != module.normalized_shape[-1]):
        return z
    return z.reshape(len(z), -1, z.shape[-1]).transpose(1, 2).unsqueeze(-1)


def from_maps(maps: Tensor, like: Tensor) -> Tensor:
    """Undoes `as_maps`."""
    return maps if maps.shape == like.shape else maps.squeeze(-1).transpose(1, 2).reshape(like.shape)
