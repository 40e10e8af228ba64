"""Second derivatives of networks: an attention kernel that supports them, and a check with one image."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_condense.errors import ModelError
from hf_condense.models.image_model import ImageModel

# torch's message for an operation without second derivatives
_ONCE = (
    "derivative for",
    "differentiate twice",
    "does not support double backward",
    "not implemented",
    "does not require grad",
)


def twice_differentiable() -> AbstractContextManager:
    """Context of a forward pass in which attention uses the kernel with second derivatives; fused ones have none."""
    return sdpa_kernel(SDPBackend.MATH)


def need_twice_differentiable(network: ImageModel, image_size: int, setting: str = "base_model") -> None:
    """Checks with one image that gradients in the weights can be differentiated in the image.

    Args:
        network: takes images of `image_size` pixels; is not changed.
        setting: name of the setting that chose the network, for the message.

    Raises:
        ModelError: they cannot; the operation is named.
    """
    mode, place = network.training, network.mean.device
    image = torch.full((1, network.channels, image_size, image_size), 0.5, device=place, requires_grad=True)
    weights = {name: p.detach().requires_grad_(True) for name, p in network.named_parameters()}
    try:
        with twice_differentiable():
            logits = functional_call(network.eval(), weights, (image,))
        loss = F.cross_entropy(logits, torch.zeros(1, dtype=torch.int64, device=place))
        first = torch.autograd.grad(loss, list(weights.values()), create_graph=True, materialize_grads=True)
        # through the whole graph: towards the image alone, torch passes over what it cannot differentiate
        sum(g.square().sum() for g in first).backward()
    except RuntimeError as error:
        if not any(words in str(error) for words in _ONCE):
            raise
        raise ModelError(
            setting,
            network.name,
            f"a network that can be differentiated twice ({str(error).splitlines()[0]})",
            "choose another one, for example convnet_w128, or a method that needs one derivative (dm, edc, sre2l)",
        ) from error
    finally:
        network.train(mode)
