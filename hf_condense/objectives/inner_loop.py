"""A student's plain SGD on the images, and three ways to differentiate the distance of its end from a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_condense.config import check
from hf_condense.objectives.twice import twice_differentiable

if TYPE_CHECKING:
    from hf_condense.models.flat import FlatNetwork

Gradient = Literal["adjoint", "unroll", "tesla", "tesla_official"]
UNROLL_BYTES = 2 << 30  # a fixed bound: equal settings take the same gradient on every machine


@dataclass(frozen=True)
class Batch:
    """The batch of one step of the student.

    Args:
        rows: int64 [b] rows of the images, none twice.
        seen: gives these images [b, C, H, W] augmented: differentiable, and equal at every call.
    """

    rows: Tensor
    seen: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class InnerLoop:
    """One plain SGD step of `network` for each batch, from `start`, that should end at `target` (both [P])."""

    network: FlatNetwork
    start: Tensor
    target: Tensor
    batches: Sequence[Batch]

    def loss_gradient(
        self, weights: Tensor, batch: Batch, images: Tensor, labels: Tensor, create_graph: bool = False
    ) -> Tensor:
        """Gradient [P] in the weights of the mean cross-entropy of a batch's own images and labels."""
        with twice_differentiable():  # also without a graph: the backward pass must see the same numbers
            loss = F.cross_entropy(self.network(weights, batch.seen(images)), labels)
        return torch.autograd.grad(loss, weights, create_graph=create_graph)[0]

    def distance(self, end: Tensor) -> Tensor:
        """|end - target|^2 as a share of |start - target|^2: a scalar."""
        return (end - self.target).square().sum() / (self.start - self.target).square().sum()

    def end_gradient(self, end: Tensor) -> Tensor:
        """Gradient [P] of `distance` in the student's final weights."""
        return 2 * (end - self.target) / (self.start - self.target).square().sum()


def end_distance(
    loop: InnerLoop, images: Tensor, labels: Tensor, rate: Tensor, gradient: Gradient = "adjoint"
) -> Tensor:
    """Distance of the student from its target (arXiv:2203.11932, Eq. 3), differentiable in images, labels and rate.

    Its value is the same for all kinds of gradient:
    "unroll" keeps the graph of all N steps: memory grows with N. It is the reference for the others.
    "adjoint" is the same gradient, step by step from the last to the first, with the graph of one step at a time: what
    grows with N are the student's weights alone, N x P numbers.
    "tesla" (arXiv:2211.10586, Eq. 6) leaves out that steps depend on the ones before, so it is exact for N = 1 only; it
    takes the memory of the adjoint. "tesla_official" halves its gradient of the images, as the authors' script does.

    Args:
        images: float [n, C, H, W], as the network takes them.
        labels: int64 [n], or probabilities [n, K].
        rate: scalar, the student's learning rate.

    Raises:
        ConfigError: another kind of gradient.
    """
    check(gradient in get_args(Gradient), "gradient", gradient, ", ".join(get_args(Gradient)))
    if gradient != "unroll":
        return _StepByStep.apply(images, labels, rate, loop, gradient)
    weights = loop.start.detach().requires_grad_(True)
    for batch in loop.batches:
        weights = weights - rate * loop.loss_gradient(
            weights, batch, images[batch.rows], labels[batch.rows], create_graph=True
        )
    return loop.distance(weights)


def exact_gradient(network: FlatNetwork, image_size: int, batch: int, steps: int) -> Gradient:
    """The faster of the two exact gradients whose graph fits: "unroll" up to `UNROLL_BYTES`, else "adjoint"."""
    return "unroll" if unroll_bytes(network, image_size, batch, steps) <= UNROLL_BYTES else "adjoint"


@torch.no_grad()
def unroll_bytes(network: FlatNetwork, image_size: int, batch: int, steps: int) -> int:
    """Estimated bytes of the graph that "unroll" keeps of `steps` steps on `batch` images each.

    The first and the second derivative each keep the outputs of all layers, and the weights are kept twice a step.
    """
    model, sizes = network.network, []
    layers = [module for module in model.backbone.modules() if not list(module.children())]
    hooks = [
        m.register_forward_hook(lambda _, __, out: sizes.append(out.numel() * out.element_size())) for m in layers
    ]
    try:
        model(torch.zeros(1, model.channels, image_size, image_size, device=model.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    return 2 * steps * (batch * sum(sizes) + 4 * network.size)


class _StepByStep(torch.autograd.Function):
    """Forward keeps the student's weights before each step, backward goes through the steps again, last one first.

    With theta' = theta - rate * g(theta, images) and the adjoint p' of theta' (the gradient of the distance in it), the
    adjoint of theta is p = p' - rate * H p', of the images - rate * d<g, p'>/d images, of the rate - <g, p'>. Eq. 6 of TESLA is
    what remains when p = p' everywhere.
    """

    @staticmethod
    def forward(ctx, images: Tensor, labels: Tensor, rate: Tensor, loop: InnerLoop, gradient: Gradient) -> Tensor:
        path = [loop.start]
        for batch in loop.batches:
            weights = path[-1].detach().requires_grad_(True)
            with torch.enable_grad():
                gradient_of_loss = loop.loss_gradient(
                    weights, batch, images.detach()[batch.rows], labels.detach()[batch.rows]
                )
            path.append(path[-1] - rate * gradient_of_loss)
        ctx.save_for_backward(images, labels, rate, *path)  # freed by backward, which attributes of ctx are not
        ctx.loop, ctx.gradient = loop, gradient
        return loop.distance(path[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor) -> tuple[Tensor | None, ...]:
        images, labels, rate, *path = ctx.saved_tensors
        loop, exact, soft = ctx.loop, ctx.gradient == "adjoint", ctx.needs_input_grad[1]
        to_images, to_rate = torch.zeros_like(images), torch.zeros_like(rate)
        to_labels = torch.zeros_like(labels) if soft else None
        adjoint = scale * loop.end_gradient(path[-1])
        for number, batch in reversed(list(enumerate(loop.batches))):
            weights = path[number].detach().requires_grad_(True)
            shown = images[batch.rows].requires_grad_(True)
            said = labels[batch.rows].requires_grad_(soft)
            with torch.enable_grad():
                gradient_of_loss = loop.loss_gradient(weights, batch, shown, said, create_graph=True)
            onward = exact and number > 0
            inputs = [shown] + [said] * soft + [weights] * onward
            found = torch.autograd.grad(gradient_of_loss, inputs, adjoint)
            to_images[batch.rows] -= rate * found[0]
            to_rate -= adjoint @ gradient_of_loss.detach()
            if soft:
                to_labels[batch.rows] -= rate * found[1]
            if onward:
                adjoint = adjoint - rate * found[-1]
        if ctx.gradient == "tesla_official":
            to_images /= 2
        return to_images, to_labels, to_rate, None, None
