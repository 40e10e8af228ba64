"""First and second moments of what enters a network's layers, read off during its forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hf_condense.errors import ModelError

LOOP_FROM = 2**14  # elements of one image's feature map from which a loop over images (which stays in cache) pays


@dataclass(frozen=True)
class Segment:
    """Where the moments of one layer stand in the flat vector: entries `start` to `stop`.

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
        self._active = True
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Forward passes in here are not read."""
        self._active = False
        try:
            yield
        finally:
            self._active = True

    def group(self, sizes: Sequence[int] | None) -> None:
        """From now on the rows of a batch count as consecutive groups of these sizes, each with moments of its own."""
        self._groups = None if sizes is None else tuple(sizes)

    def collect(self) -> tuple[Tensor, Tensor]:
        """First and second moments since the last call: [D] each, or [groups, D]; forgets them."""
        found = [(name, *self._found[name]) for name in self._layers if name in self._found]
        if not found:
            raise RuntimeError("no forward pass was read: collect() belongs after the model ran, inside `with Taps`")
        shape = tuple((name, channels, first.shape[1]) for name, first, _, channels in found)
        if shape != self._shape:
            self._shape, self.layout = shape, self._make_layout(shape)
        first = torch.cat([entry[1] for entry in found], dim=1)
        second = torch.cat([entry[2] for entry in found], dim=1)
        self._found, self._seen = {}, {}
        return (first[0], second[0]) if self._groups is None else (first, second)

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
        self._found: dict[str, tuple[Tensor, Tensor, int]] = {}
        self._seen: dict[int, tuple] = {}  # tensors that two layers share are read once

    def _hook(self, name: str, module: nn.Module):
        is_conv = isinstance(module, nn.Conv2d)

        def hook(module: nn.Module, args: tuple) -> tuple | None:
            if not self._active or name in self._found:
                return None
            z = args[0]
            tapped, first, second, channels = self._read(z, module, is_conv)
            width = first.shape[1] if is_conv else channels
            self._found[name] = (first[:, :width], second[:, :width], channels)
            return None if tapped is z else (tapped, *args[1:])

        return hook

    def _read(self, z: Tensor, module: nn.Module, is_conv: bool) -> tuple[Tensor, Tensor, Tensor, int]:
        version = 0 if z.is_inference() else z._version
        seen = self._seen.get(id(z))
        # weak: a frozen pass must not keep activations alive; an id may be reused by a later tensor
        if seen and seen[0]() is z and seen[1] == version and (seen[2] or not is_conv):
            return seen[3]
        maps = as_maps(z, module)
        patch, groups = self.patch if is_conv else None, self._groups or (len(z),)
        if torch.is_grad_enabled() and z.requires_grad:
            tapped, first, second = _Tap.apply(maps, patch, groups)
            tapped = from_maps(tapped, z)
        else:
            tapped, (first, second) = z, moments(maps.detach(), patch, groups)
        result = (tapped, first, second, maps.shape[1])
        self._seen[id(z)] = (weakref.ref(z), version, is_conv, result)
        return result

    def _make_layout(self, shape: tuple) -> Layout:
        segments, at = [], 0
        for i, (name, channels, width) in enumerate(shape):
            is_conv = isinstance(self._layers[name], nn.Conv2d)
            for kind, length in (("channel", channels), ("patch", width - channels)):
                if length:
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
            "base_model", getattr(model, "name", type(model).__name__),
            f"a network with Conv2d, BatchNorm2d or LayerNorm layers; this one has {', '.join(types)}",
            "choose another observer, or a method that needs no layer statistics",
        )  # fmt: skip
    return {n: m for n, m in modules.items() if n in wanted}


def as_maps(z: Tensor, module: nn.Module) -> Tensor:
    """A layer's input as [n, C, H, W]; what a LayerNorm gets, [n, ..., C], becomes [n, C, tokens, 1]."""
    if not isinstance(module, nn.LayerNorm) or (z.ndim == 4 and z.shape[-1] != module.normalized_shape[-1]):
        return z
    return z.reshape(len(z), -1, z.shape[-1]).transpose(1, 2).unsqueeze(-1)


def from_maps(maps: Tensor, like: Tensor) -> Tensor:
    """Undoes `as_maps`."""
    return maps if maps.shape == like.shape else maps.squeeze(-1).transpose(1, 2).reshape(like.shape)


def moments(z: Tensor, patch: int | None, groups: Sequence[int]) -> tuple[Tensor, Tensor]:
    """E[z] and E[z²] of z [n, C, H, W] for consecutive groups of rows: [groups, C (+ cells)] each."""
    first, second = [], []
    with torch.autocast(z.device.type, enabled=False):  # a mean in half precision would be lost
        for rows in z.split(list(groups)):
            for total, out in zip(_sums(rows), (first, second)):
                out.append(_reduce(total / len(rows), patch))
            if patch and not _divides(z, patch):  # patches of the resized map: its squares are not in the sums
                resized = _resize(rows, patch)
                n = resized.shape[0] * resized.shape[1]
                for power, out in ((resized, first), (resized * resized, second)):
                    out[-1] = torch.cat([out[-1], _cells(power.sum((0, 1)) / n, patch)])
    return torch.stack(first), torch.stack(second)


def _divides(z: Tensor, patch: int) -> bool:
    return z.shape[-2] % patch == 0 and z.shape[-1] % patch == 0


def _resize(z: Tensor, patch: int) -> Tensor:
    size = [-(-side // patch) * patch for side in z.shape[-2:]]
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    return F.interpolate(z.to(dtype), size, mode="bilinear", align_corners=False)


def _in_memory_order(z: Tensor) -> tuple[Tensor, bool]:
    """[n, C, H, W] as it lies in memory: unchanged, or [n, H, W, C] (reducing across strides is ten times slower)."""
    last = z.is_contiguous(memory_format=torch.channels_last) and not z.is_contiguous()
    return (z.permute(0, 2, 3, 1), True) if last else (z, False)


def _sums(z: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the images of z and of z²: [C, H, W] each. Everything after these two reads is small."""
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    rows, last = _in_memory_order(z)
    if z.device.type != "cpu":
        first, second = rows.sum(0, dtype=dtype), torch.linalg.vector_norm(rows, dim=0, dtype=dtype).square()
    elif rows[0].numel() < LOOP_FROM:
        rows = rows.to(dtype)
        first, second = rows.sum(0), (rows * rows).sum(0)
    else:
        first, second = torch.zeros(2, *rows.shape[1:], dtype=dtype).unbind(0)
        for row in rows.unbind(0):
            row = row.to(dtype)
            first.add_(row)
            second.addcmul_(row, row)
    return (first.permute(2, 0, 1), second.permute(2, 0, 1)) if last else (first, second)


def _reduce(mean: Tensor, patch: int | None) -> Tensor:
    """The batch mean of a map [C, H, W] to channel means and, where the map divides, cell means: [C (+ cells)]."""
    channels = mean.mean((1, 2))
    if not patch or not _divides(mean, patch):
        return channels
    return torch.cat([channels, _cells(mean.mean(0), patch)])


def _cells(mean: Tensor, patch: int) -> Tensor:
    """[H, W] to the means of its patch x patch cells, row by row."""
    h, w = mean.shape
    return mean.view(h // patch, patch, w // patch, patch).mean((1, 3)).flatten()


def _spread(gradient: Tensor, shape: Sequence[int], patch: int | None) -> Tensor:
    """The adjoint of `_reduce` (and of the mean over all but rows): [C (+ cells)] to a contiguous map [C, H, W]."""
    c, h, w = shape
    spread = (gradient[:c] / (h * w)).view(c, 1, 1)
    if len(gradient) > c:
        spread = spread + _spread_cells(gradient[c:] / c, h, w, patch)
    return spread.expand(c, h, w).contiguous()


def _spread_cells(gradient: Tensor, h: int, w: int, patch: int) -> Tensor:
    """The adjoint of `_cells`: [cells] to [H, W]."""
    cells = (gradient / patch**2).view(h // patch, 1, w // patch, 1)
    return cells.expand(-1, patch, -1, patch).reshape(h, w)


class _Tap(torch.autograd.Function):
    """Passes z through and gives its moments. All of their gradient is one update: grad + A + B * z, with A and B of
    the shape of one image's map, whatever the batch."""

    @staticmethod
    def forward(ctx, z: Tensor, patch: int | None, groups: tuple[int, ...]):
        ctx.save_for_backward(z)
        ctx.patch, ctx.groups = patch, groups
        ctx.set_materialize_grads(False)
        return z, *moments(z, patch, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor | None, grad_first: Tensor | None, grad_second: Tensor | None):
        if grad_first is None and grad_second is None:
            return grad, None, None
        (z,) = ctx.saved_tensors
        like = grad_first if grad_first is not None else grad_second
        grad_first = torch.zeros_like(like) if grad_first is None else grad_first
        grad_second = torch.zeros_like(like) if grad_second is None else grad_second
        out, at = torch.empty_like(z), 0
        for i, n in enumerate(ctx.groups):
            rows = slice(at, at + n)
            _backward_rows(
                z[rows], None if grad is None else grad[rows], grad_first[i] / n, 2 * grad_second[i] / n, ctx.patch,
                out[rows],
            )  # fmt: skip
            at += n
        return out, None, None


def _backward_rows(
    z: Tensor, grad: Tensor | None, grad_first: Tensor, grad_second: Tensor, patch: int | None, out: Tensor
) -> None:
    """Writes the gradient of one group of rows to `out`; `grad_second` comes doubled, both divided by the rows."""
    c = z.shape[1]
    if patch and not _divides(z, patch):
        through_resize = _resized_gradient(z, grad_first[c:] / c, grad_second[c:] / c, patch)
        grad = through_resize.to(z.dtype) if grad is None else grad + through_resize.to(grad.dtype)
        grad_first, grad_second = grad_first[:c], grad_second[:c]
    shift, scale = (_spread(g, z.shape[1:], patch) for g in (grad_first, grad_second))
    rows, last = _in_memory_order(z)
    if last:
        shift, scale = (t.permute(1, 2, 0).contiguous() for t in (shift, scale))
        out, grad = out.permute(0, 2, 3, 1), None if grad is None else grad.permute(0, 2, 3, 1)
    if z.device.type == "cpu" and shift.numel() >= LOOP_FROM and z.dtype == shift.dtype:
        for row, target, more in zip(rows.unbind(0), out.unbind(0), grad.unbind(0) if grad is not None else repeat(0)):
            torch.addcmul(shift, scale, row, out=target).add_(more)
    else:
        total = torch.addcmul(shift, scale, rows.to(shift.dtype))
        out.copy_(total if grad is None else total.add_(grad))


def _resized_gradient(z: Tensor, grad_first: Tensor, grad_second: Tensor, patch: int) -> Tensor:
    with torch.enable_grad():
        leaf = z.detach().requires_grad_(True)
        resized = _resize(leaf, patch)
    h, w = resized.shape[-2:]
    shift, scale = (_spread_cells(g, h, w, patch) for g in (grad_first, grad_second))
    return torch.autograd.grad(resized, leaf, torch.addcmul(shift, scale, resized.detach()))[0]
