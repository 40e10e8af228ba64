"""Several networks of one shape evaluated in one call: their weights are stacked, and the layers run over the stack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from hf_condense.errors import ModelError
from hf_condense.models.taps import as_maps, find_layers


class Stacked:
    """Frozen networks whose weights have equal shapes, as one function of the images.

    Args:
        models: in eval mode; their weights are copied.

    Raises:
        ModelError: their shapes differ.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        shapes = [{name: tuple(t.shape) for name, t in model.state_dict().items()} for model in models]
        for number, other in enumerate(shapes):
            if other != shapes[0]:
                raise ModelError(
                    "stacked",
                    f"member {number} of another shape than the first",
                    "a pool of equal shapes",
                    "drop --stacked, or make the pool of early copies or with one prune ratio",
                )
        self.model = models[0]  # its layers are used with the weights of the stack
        self.weights, self.buffers = stack_module_state(list(models))
        self.layers = find_layers(self.model, ("norm",))

    def __call__(self, images: Tensor, members: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [k, n, K], and E[z] and E[z²] at the input of every norm layer [k, D] (as `Taps`), of k members.

        Args:
            images: float unit pixels [n, C, H, W], the same for all.
            members: numbers of the networks, in the wanted order.
        """
        stacks = self.weights, self.buffers
        if list(members) != list(range(len(next(iter(self.weights.values()))))):
            index = torch.tensor(members, device=images.device)
            stacks = tuple({name: t.index_select(0, index) for name, t in stack.items()} for stack in stacks)
        return vmap(self._one, in_dims=(0, 0, None), randomness="error")(*stacks, images)

    def _one(self, weights: dict, buffers: dict, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def hook(name: str):
            def read(module: nn.Module, args: tuple) -> None:
                if name not in found:  # a layer used several times counts at its first use
                    z = as_maps(args[0], module)
                    z = z if z.dtype == torch.float64 else z.float()
                    found[name] = z.mean((0, 2, 3)), z.square().mean((0, 2, 3))

            return read

        handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in self.layers.items()]
        try:
            logits = functional_call(self.model, (weights, buffers), (images,))
        finally:
            for handle in handles:
                handle.remove()
        moments = [found[name] for name in self.layers if name in found]
        return logits, *(torch.cat(parts) for parts in zip(*moments))
