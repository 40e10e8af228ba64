"""Trajectory matching: the adjoint is the unroll, TESLA is its own closed form and no more, memory is that of one step."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_condense.data.randomness import Key
from hf_condense.data.siamese import FAMILIES, SiamesePolicy, apply_siamese, draw_siamese
from hf_condense.errors import ConfigError
from hf_condense.models.convnet import ConvNet
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.inner_loop import Batch, InnerLoop, end_distance, unroll_bytes
from tests.profiled import peak_bytes_of_tensors

KEY = Key(0, "test")
POLICY = SiamesePolicy(FAMILIES, family_per="call")
DOUBLE = torch.float64


def network(side: int = 8, width: int = 4, depth: int = 2, classes: int = 3, channels: int = 1) -> ImageModel:
    torch.manual_seed(0)
    backbone = ConvNet(classes, channels, side, width=width, depth=depth)
    return ImageModel(backbone, num_classes=classes, channels=channels)


def inner_loop(
    steps: int, model: ImageModel | None = None, n=6, batch=4, policy=POLICY, dtype=DOUBLE, watch=FlatNetwork
):
    """A loop whose batches overlap (4 of 6 images, pass after pass), and images, soft labels and rate."""
    model = (model or network()).to(dtype)
    flat, side = watch(model), 32 if n > 6 else 8
    draw = torch.Generator().manual_seed(1)
    batches: list[Batch] = []
    while len(batches) < steps:
        for rows in torch.randperm(n, generator=draw).split(batch):
            seen = lambda images: images  # noqa: E731
            if policy is not None:
                numbers = draw_siamese(policy, KEY / len(batches), len(rows), side, side)
                seen = partial(apply_siamese, draw=numbers, policy=policy)
            batches.append(Batch(rows, seen))
    start = flat.flatten()
    target = start + 0.1 * torch.randn(flat.size, generator=draw, dtype=dtype)
    images = torch.randn(n, model.channels, side, side, generator=draw, dtype=dtype)
    labels = torch.randn(n, model.num_classes, generator=draw, dtype=dtype).softmax(1)
    return InnerLoop(flat, start, target, batches[:steps]), images, labels


def gradients(loop, images, labels, kind: str, rate: float = 0.01) -> dict[str, torch.Tensor]:
    """The distance, and its gradients in images, learning rate and (where they are soft) labels."""
    images, rate = images.clone().requires_grad_(True), torch.tensor(rate, dtype=images.dtype, requires_grad=True)
    labels = labels.clone().requires_grad_(labels.is_floating_point())
    distance = end_distance(loop, images, labels, rate, kind)
    distance.backward()
    found = {"distance": distance.detach(), "images": images.grad, "rate": rate.grad}
    return found | ({"labels": labels.grad} if labels.requires_grad else {})


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("policy", [None, POLICY])
@pytest.mark.parametrize(("n", "batch", "steps"), [(6, 6, 5), (6, 4, 5), (6, 4, 1)])
def test_the_adjoint_is_the_unroll(policy, n, batch, steps):
    """Images, learning rate and soft labels, also where batches overlap and do not divide the images."""
    made = inner_loop(steps, n=n, batch=batch, policy=policy)
    unroll, adjoint = gradients(*made, "unroll", 0.1), gradients(*made, "adjoint", 0.1)
    assert set(unroll) == {"distance", "images", "rate", "labels"}
    assert all(error(adjoint[name], unroll[name]) < 1e-10 for name in unroll)


def test_the_adjoint_is_the_unroll_through_batch_norms():
    backbone = ConvNet(3, 1, 8, width=4, depth=2, norm="batch")
    loop, images, labels = inner_loop(5, ImageModel(backbone, num_classes=3, channels=1))
    unroll, adjoint = (gradients(loop, images, labels, kind, 0.1) for kind in ("unroll", "adjoint"))
    assert all(error(adjoint[name], unroll[name]) < 1e-10 for name in unroll)


def test_classes_instead_of_soft_labels():
    loop, images, labels = inner_loop(5)
    unroll, adjoint = (gradients(loop, images, labels.argmax(1), kind) for kind in ("unroll", "adjoint"))
    assert "labels" not in unroll and all(error(adjoint[name], unroll[name]) < 1e-10 for name in unroll)


@pytest.mark.parametrize(
    ("model", "n", "steps", "bound"),
    [(None, 6, 5, 1e-4), ((32, 128, 3, 10, 3), 10, 10, 5e-3)],
    ids=["tiny", "D3 W128"],
)
def test_in_single_precision_they_agree_to_its_rounding(model, n, steps, bound):
    loop, images, labels = inner_loop(steps, model and network(*model), n=n, dtype=torch.float32)
    unroll, adjoint = (gradients(loop, images, labels, kind) for kind in ("unroll", "adjoint"))
    assert all(error(adjoint[name], unroll[name]) < bound for name in unroll)


def test_tesla_is_exact_for_one_step_and_not_for_twenty():
    one, twenty = inner_loop(1), inner_loop(20)
    for name, value in gradients(*one, "unroll", 0.1).items():
        assert error(gradients(*one, "tesla", 0.1)[name], value) < 1e-12
    unroll, tesla = gradients(*twenty, "unroll", 0.1), gradients(*twenty, "tesla", 0.1)
    assert error(tesla["distance"], unroll["distance"]) < 1e-12
    assert all(error(tesla[name], unroll[name]) > 1e-2 for name in ("images", "rate", "labels"))


def test_tesla_is_the_closed_form_of_its_paper_and_its_script_half_of_it():
    """Eq. 6: one vector 2 rate (target - start) + 2 rate^2 G for all steps, G the sum of their gradients."""
    (loop, images, labels), rate = inner_loop(8), 0.1
    weights, slopes, distance = loop.start, [], (loop.start - loop.target).square().sum()
    shown = images.clone().requires_grad_(True)
    for batch in loop.batches:
        leaf = weights.clone().requires_grad_(True)
        loss = F.cross_entropy(loop.network(leaf, batch.seen(shown[batch.rows])), labels[batch.rows])
        slopes.append(torch.autograd.grad(loss, leaf, create_graph=True)[0])
        weights = (weights - rate * slopes[-1]).detach()
    total = sum(s.detach() for s in slopes)
    vector = 2 * rate * (loop.target - loop.start) + 2 * rate**2 * total
    closed = torch.autograd.grad(sum(s @ vector for s in slopes) / distance, shown)[0]
    tesla, official = (
        gradients(loop, images, labels, "tesla", rate),
        gradients(loop, images, labels, "tesla_official", rate),
    )
    assert error(tesla["images"], closed) < 1e-12
    assert error(tesla["rate"], -2 * (weights - loop.target) @ total / distance) < 1e-12
    assert error(2 * official["images"], closed) < 1e-12 and torch.equal(official["rate"], tesla["rate"])
    # the distance from the sum of gradients is that of where the student is at last
    direct = (loop.start - rate * total - loop.target).square().sum() / distance
    assert error(tesla["distance"], direct) < 1e-12


@pytest.mark.parametrize("kind", ["adjoint", "unroll"])
def test_the_gradient_agrees_with_finite_differences(kind):
    """Where activations are smooth; kinks of ReLU have no derivative to agree with."""
    model = network()
    for i, module in enumerate(model.backbone.features):
        if isinstance(module, nn.ReLU):
            model.backbone.features[i] = nn.Softplus()
    loop, images, labels = inner_loop(5, model)
    found = gradients(loop, images, labels, kind, 0.1)["images"]
    place, step, ends = (2, 0, 3, 4), 1e-5, []
    for sign in (1, -1):
        moved = images.clone()
        moved[place] += sign * step
        ends.append(gradients(loop, moved, labels, kind, 0.1)["distance"])
    numeric = float(ends[0] - ends[1]) / (2 * step)
    assert abs(numeric - float(found[place])) < 1e-6 * max(1.0, abs(numeric))
    assert abs(numeric) > 1e-5  # else anything would agree


class Watched(FlatNetwork):
    """Counts the calls whose weights hang on an earlier step."""

    hanging = 0

    def __call__(self, flat, images):
        self.hanging += not flat.is_leaf
        return super().__call__(flat, images)


@pytest.mark.parametrize(("kind", "hanging"), [("adjoint", 0), ("tesla", 0), ("unroll", 4)])
def test_no_graph_goes_over_more_than_one_step(kind, hanging):
    loop, images, labels = inner_loop(5, watch=Watched)
    gradients(loop, images, labels, kind)
    assert loop.network.hanging == hanging


def test_another_gradient_is_refused():
    loop, images, labels = inner_loop(1)
    with pytest.raises(ConfigError, match="gradient='eq6': expected adjoint, unroll, tesla"):
        end_distance(loop, images, labels, torch.tensor(0.1), "eq6")


def test_memory_of_the_adjoint_does_not_grow_with_steps():
    def peak(kind: str, steps: int) -> int:
        made = inner_loop(steps, network(32, 32, 3, 10, 3), n=20, batch=20, dtype=torch.float32)
        return peak_bytes_of_tensors(lambda: gradients(*made, kind))

    few, many = ({kind: peak(kind, steps) for kind in ("adjoint", "unroll")} for steps in (4, 16))
    said = f"4 steps: {few}, 16 steps: {many}"
    assert many["adjoint"] < 1.1 * few["adjoint"], said
    assert many["unroll"] > 3 * few["unroll"], f"the measure sees nothing: {said}"
    estimated = unroll_bytes(FlatNetwork(network(32, 32, 3, 10, 3)), 32, 20, 16)
    assert 0.75 < estimated / many["unroll"] < 1.6, f"estimated {estimated}, {said}"
