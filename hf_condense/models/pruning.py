"""Structured pruning: a smaller network from a trained one, a different one for each key."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from hf_condense.config import check
from hf_condense.data.randomness import Key
from hf_condense.errors import ModelError
from hf_condense.models import heads
from hf_condense.models.checkpoints import shape_manifest
from hf_condense.models.convnet import HalvingPool
from hf_condense.models.image_model import ImageModel

log = logging.getLogger(__name__)
# what torch-pruning and the pruned network raise where layers do not fit together
UNPRUNABLE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
ROUND_TO = 8  # a multiple for which accelerators are fastest


class ChannelNorm(nn.InstanceNorm2d):
    """A GroupNorm of one channel a group in a form that the dependency graph supports: groups stay whole."""


class PlainPool(nn.AvgPool2d):
    """A HalvingPool in a form that the dependency graph supports: one operation, not a product of reshaped images."""


class NoisyMagnitude(tp.importance.GroupMagnitudeImportance):
    """Mean squared weights of all parameters that are removed with a channel, times exp(noise * N(0, 1)).

    Without noise, members pruned by the same ratio would be the same network.
    """

    def __init__(self, noise: float, key: Key) -> None:
        super().__init__(p=2)
        self.noise, self.key, self.groups = noise, key, 0

    def __call__(self, group) -> Tensor | None:
        scores = super().__call__(group)
        if scores is None:
            return None
        draw = torch.from_numpy((self.key / self.groups).numpy().standard_normal(len(scores)))
        self.groups += 1  # groups come in the order in which the network runs
        return scores * torch.exp(self.noise * draw).to(scores)


def prune(model: ImageModel, ratio: float, key: Key, noise: float = 0.3, image_size: int | None = None) -> ImageModel:
    """A copy of `model` whose layers have each lost `ratio` of their channels, the least important ones (DepGraph,
    arXiv:2301.12900). The logits stay; nothing is tuned yet.

    Networks whose other layers are tied to their sizes, as attention ties them, lose hidden channels of their feed-forward
    blocks only. Counts are rounded down to a multiple of 8, or of less where a layer is so narrow that this would cost much.

    Args:
        ratio: share of the channels of each layer, between 0 and 1.
        key: names the noise.
        noise: spread of the noise on the channels' importance.
        image_size: side in pixels of its input images; defaults to `model.input_size`.

    Raises:
        ConfigError: a ratio that removes all channels or none.
        ModelError: the network's layers depend on each other in a way that cannot be pruned, feed-forward blocks included.
    """
    check(0 < ratio < 1, "prune_ratios", ratio, "shares of the channels above 0 and below 1", "0.2 to 0.4 is usual")
    size = model.input_size or image_size
    example = torch.from_numpy((key / "example").uniform(1, model.in_chans, size, size)).float()
    example = (example - model.mean.cpu()) / model.std.cpu()
    try:
        pruned = _pruned(model, ratio, NoisyMagnitude(noise, key / "importance"), example)
    except ModelError as error:
        try:
            pruned = _pruned(model, ratio, NoisyMagnitude(noise, key / "importance"), example, feed_forward=True)
        except ModelError:
            raise error from None  # the first reason says more
        log.info("%s is pruned in its feed-forward blocks only: %s", model.name, error.__cause__ or error.allowed)
    pruned.build = {**(model.build or {}), **shape_manifest(pruned.backbone)}
    return pruned


def _pruned(
    model: ImageModel, ratio: float, importance: NoisyMagnitude, example: Tensor, feed_forward: bool = False
) -> ImageModel:
    """A pruned copy, tried with one image. Raises ModelError where it cannot be."""
    pruned = copy.deepcopy(model).cpu().eval().requires_grad_(True)
    before = pruned.parameter_count
    with torch.no_grad():
        pruned.classify(example)  # what fails here has nothing to do with pruning
    try:
        _prune(pruned, ratio, importance, example, feed_forward)
        with torch.no_grad():
            shape = tuple(pruned.classify(example).shape)
    except torch.OutOfMemoryError:  # a RuntimeError that says nothing of the network
        raise
    except UNPRUNABLE as error:
        raise _unprunable(model, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error
    if shape != (1, model.num_classes):
        raise _unprunable(model, f"afterwards it gives {shape}")
    if pruned.parameter_count == before:
        raise _unprunable(model, f"a ratio of {ratio} takes no channel of it")
    return pruned


def _prune(model: ImageModel, ratio: float, importance: NoisyMagnitude, example: Tensor, feed_forward: bool) -> None:
    head = heads.find(model.backbone, model.num_classes, model.name)
    ignored = head + (_other_layers(model, example, head) if feed_forward else [])
    layers = [m for m in _layers(model) if m not in ignored]
    narrowest = min((m.weight.shape[0] for m in layers), default=0)
    round_to = ROUND_TO
    while round_to > 1 and 8 * round_to > narrowest:  # rounding may cost an eighth of the narrowest layer, not more
        round_to //= 2
    _swap(model.backbone, nn.GroupNorm, _as_channel_norm)
    _swap(model.backbone, HalvingPool, lambda _: PlainPool(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters outside layers; the forward pass after it is the test
        pruner = tp.pruner.BasePruner(
            model.backbone,
            example,
            importance,
            pruning_ratio=ratio,
            round_to=round_to,
            ignored_layers=ignored,
            output_transform=_logits,
        )
        pruner.step()
    _swap(model.backbone, ChannelNorm, _as_group_norm)
    _swap(model.backbone, PlainPool, lambda _: HalvingPool())


def _layers(model: ImageModel) -> list[nn.Module]:
    return [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def _other_layers(model: ImageModel, example: Tensor, head: list[nn.Module]) -> list[nn.Module]:
    """The layers that are not the first of a feed-forward block: two layers, of which only the second takes what the first
    gives, channel by channel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(model.backbone, example, output_transform=_logits)
    first = []
    for group in graph.get_all_groups(ignored_layers=head):
        sized = [(dep, rows) for dep, rows in group if isinstance(dep.target.module, nn.Conv2d | nn.Linear)]
        alone = not any(isinstance(dep.target.module, nn.Parameter) for dep, _ in group)
        if alone and len(sized) == 2 and graph.is_in_channel_pruning_fn(sized[1][0].handler):
            (one, given), (two, taken) = sized
            if len(given) == len(taken) == one.target.module.weight.shape[0] == two.target.module.weight.shape[1]:
                first.append(one.target.module)
    return [m for m in _layers(model) if m not in first]


def _swap(network: nn.Module, kind: type[nn.Module], other) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, other(child))


def _as_channel_norm(norm: nn.GroupNorm) -> nn.Module:
    if norm.num_groups != norm.num_channels:
        return norm
    return _with_weights(ChannelNorm(norm.num_channels, norm.eps, affine=norm.affine), norm)


def _as_group_norm(norm: ChannelNorm) -> nn.Module:
    return _with_weights(nn.GroupNorm(norm.num_features, norm.num_features, norm.eps, norm.affine), norm)


def _with_weights(new: nn.Module, old: nn.Module) -> nn.Module:
    new.weight, new.bias = old.weight, old.bias
    return new.train(old.training)


def _unprunable(model: ImageModel, reason: str) -> ModelError:
    return ModelError(
        "base_model",
        model.name,
        f"a network that can be pruned ({reason})",
        "take another one such as resnet18 or convnet_w128, or weak models by --pool_kind prior",
    )
