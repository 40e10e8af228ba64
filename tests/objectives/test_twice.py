"""Networks with attention work in every method that differentiates twice, and those that cannot are refused at once."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from hf_condense.data.randomness import Key, keyed
from hf_condense.errors import ModelError
from hf_condense.methods import METHODS, create_method, list_methods
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.gradients import gradient_distance, parameter_gradients
from hf_condense.objectives.inner_loop import Batch, InnerLoop, end_distance
from hf_condense.objectives.twice import need_twice_differentiable
from tests.matching import context, synthesise

TWICE = {"dc", "dsa", "idc", "dream", "mtt", "tesla", "datm"}


class _Square(torch.autograd.Function):
    """A kernel whose backward has no derivative, as fused ones have none."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope


class Fused(nn.Module):
    def forward(self, x):
        return _Square.apply(x)


def small(*layers) -> ImageModel:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return ImageModel(body, num_classes=3, name="small")


def transformer(size: int = 16, patch: int = 4, channels: int = 3, classes: int = 3) -> ImageModel:
    body = timm.models.vision_transformer.VisionTransformer(
        img_size=size, patch_size=patch, in_chans=channels, embed_dim=12, depth=2, num_heads=2, num_classes=classes
    )
    return ImageModel(body, num_classes=classes, name="small_vit", channels=channels)


class SmallTransformers(FreshNetworks):
    """Transformers for images of 8 pixels; timm's smallest are made for larger ones."""

    def _build(self, key: Key) -> ImageModel:
        with keyed(key):
            return transformer(8, 2, 1, 10).train()


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_(True)


LABELS = torch.tensor([0, 1, 2, 0])


def test_attention_is_differentiated_twice_and_rightly(images):
    """Against attention written out; without the kernel's choice torch refuses."""
    fused = transformer().eval()
    plain = transformer().eval()
    plain.load_state_dict(fused.state_dict())
    for module in plain.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    slopes = []
    for network in (fused, plain):
        found = parameter_gradients(network, images, LABELS, create_graph=True)
        aim = [torch.ones_like(g) for g in found]
        slopes.append(torch.autograd.grad(gradient_distance(found, aim, "mse"), images)[0])
    assert torch.allclose(*slopes, rtol=1e-4, atol=1e-6) and slopes[0].abs().max() > 1e-4
    loss = nn.functional.cross_entropy(fused(images), LABELS)
    first = torch.autograd.grad(loss, list(fused.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for"):
        torch.autograd.grad(sum(g.square().sum() for g in first), images)


@pytest.mark.parametrize("gradient", ["adjoint", "unroll"])
def test_a_student_with_attention_is_differentiated_through(images, gradient):
    flat = FlatNetwork(transformer().eval())
    start = flat.flatten()
    rows = torch.arange(4)
    loop = InnerLoop(flat, start, start + 0.01, [Batch(rows, lambda x: x)] * 2)
    distance = end_distance(loop, images, LABELS, torch.tensor(0.1, requires_grad=True), gradient)
    slope = torch.autograd.grad(distance, images)[0]
    step, place = 1e-2, slope.abs().flatten().argmax()
    moved = torch.zeros_like(images).flatten()
    moved[place] = step
    ends = [
        end_distance(loop, images.detach() + s * moved.view_as(images), LABELS, torch.tensor(0.1)) for s in (1, -1)
    ]
    assert slope.flatten()[place].item() == pytest.approx((ends[0] - ends[1]).item() / (2 * step), rel=0.05)


@pytest.mark.parametrize("network", [small(nn.ReLU()), small(nn.BatchNorm2d(4), nn.GELU()), transformer()])
def test_the_trial_lets_networks_pass_and_leaves_them_as_they_are(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    need_twice_differentiable(network, 16)
    assert network.training and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_that_cannot_is_named_with_the_reason():
    with pytest.raises(ModelError, match="^invalid base_model='small'.*once_differentiable.*convnet_w128"):
        need_twice_differentiable(small(Fused()), 16)


def test_other_faults_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        need_twice_differentiable(small(nn.Linear(99, 4)), 16)


@pytest.mark.parametrize("name", list_methods())
def test_the_methods_that_differentiate_twice_ask_for_it(name):
    method = create_method(name, **({"base_method": "dm"} if METHODS[name].wraps else {}))
    if name in TWICE:
        with pytest.raises(ModelError, match="differentiated twice"):
            method.check_network(small(Fused()), 16)
    else:
        method.check_network(small(Fused()), 16)


def test_methods_that_wrap_or_choose_ask_too():
    for method in (create_method("pdd", base_method="dc"), create_method("teddy", match="gradient")):
        with pytest.raises(ModelError, match="differentiated twice"):
            method.check_network(small(Fused()), 16)
    create_method("mtt").check_network(small(nn.BatchNorm2d(4)), 16)  # by the statistics of the batch


def test_a_run_is_refused_before_its_first_stage(tmp_path):
    from hf_condense.trainer import CondensationTrainer

    for method in ("mtt", "edc", "dm"):
        with pytest.raises(ModelError, match="^invalid base_model='convnet_bn_w31'.*Did you mean convnet_bn_w32"):
            CondensationTrainer(
                method, "digits", base_model="convnet_bn_w31", max_per_class=4, ipc=1, output_dir=str(tmp_path / "run")
            )
    assert not list(tmp_path.iterdir()), "not even a folder"


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dc", {"iterations": 1, "outer_loop": 2, "inner_loop": 1, "real_batch": 2}),
        ("dream", {"iterations": 1, "inner_steps": 2, "real_batch": 8, "network_images": 8, "match_fc": True, "lr": 10.0}),
        ("tesla", {"iterations": 2, "experts": 1, "first_epochs": 1, "span": 1, "student_steps": 2}),
    ],
)  # fmt: skip
def test_a_synthesis_with_a_vision_transformer(method, settings, tmp_path, monkeypatch):
    """From the first images to the last, as the engine drives it."""
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path / "cache"))
    given = context(1)
    fresh = SmallTransformers("small_vit", given.fresh.images, device=given.device)
    made = synthesise(method, replace(given, fresh=fresh), tmp_path, **settings)
    moved = (made.pixels if made.pixels is not None else made.images / 255) - made.initial / 255
    assert moved.isfinite().all() and moved.abs().max() > 1e-4
