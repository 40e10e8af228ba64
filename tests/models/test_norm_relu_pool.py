"""The compiled block of ConvNets: what torch computes, up to rounding; and torch where it cannot be compiled."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.models import native, norm_relu_pool
from hf_condense.models.convnet import ConvNet, block_elements, fuse, fused
from hf_condense.models.frozen import forward, freeze
from hf_condense.models.loading import load_untrained
from hf_condense.models.norm_relu_pool import NormReluPool, available

compiled = pytest.mark.skipif(not available(), reason="no C compiler")


def draws(*shape: int) -> list[torch.Tensor]:
    """maps, weight and bias, and the gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    n, c, h, w = shape
    sizes = (shape, (c,), (c,), (n, c, h // 2, w // 2))
    return [torch.randn(*size, generator=generator) for size in sizes]


def by_torch(x, weight, bias):
    return F.avg_pool2d(F.relu(F.group_norm(x, x.shape[1], weight, bias)), 2)


@compiled
@pytest.mark.parametrize("shape", [(3, 5, 8, 8), (2, 4, 6, 10), (1, 1, 2, 2), (2, 3, 34, 30)])
def test_values_and_gradients_are_those_of_torch(shape):
    *inputs, dy = draws(*shape)
    exact = [t.double().requires_grad_() for t in inputs]
    of_exact = torch.autograd.grad(by_torch(*exact), exact, dy.double())
    ours = [t.requires_grad_() for t in inputs]
    y = NormReluPool.apply(*ours, 1e-5)
    torch.testing.assert_close(y.double(), by_torch(*exact), rtol=1e-5, atol=1e-5)
    for found, wanted in zip(torch.autograd.grad(y, ours, dy), of_exact):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@compiled
def test_threads_change_no_bit(monkeypatch):
    *inputs, dy = draws(4, 7, 8, 8)

    def passes(threads: int) -> list[torch.Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        ours = [t.clone().requires_grad_() for t in inputs]
        y = NormReluPool.apply(*ours, 1e-5)
        return [y, *torch.autograd.grad(y, ours, dy)]

    assert all(map(torch.equal, passes(1), passes(3)))


@compiled
def test_a_value_that_is_no_number_stays_one():
    x, weight, bias, _ = draws(1, 2, 4, 4)
    x[0, 1, 2, 2] = float("nan")
    y = NormReluPool.apply(x, weight, bias, 1e-5)
    assert y[0, 0].isfinite().all() and y[0, 1].isnan().all()


def convnet(name: str = "convnet_w32", side: int = 28) -> nn.Module:
    spec = ImageSpec(num_classes=10, image_size=side, channels=1, mean=(0.5,), std=(0.25,))
    return load_untrained("students", name, spec, key=Key(0)).train()


@compiled
def test_a_fused_network_gives_the_same_gradients_and_can_be_copied():
    plain = convnet()
    ours = copy.deepcopy(plain)
    assert fuse(ours, True) and not fuse(plain, False)
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    for network in (plain, ours, twin := copy.deepcopy(ours)):
        F.cross_entropy(network(images), torch.arange(4)).backward()
    for a, b, c in zip(plain.parameters(), ours.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
        assert torch.equal(b.grad, c.grad)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (found,) = torch.autograd.grad(ours(images).sum(), next(ours.parameters()), create_graph=True)
        found.sum().backward()
    fuse(ours, False)
    assert torch.equal(ours(images), plain(images))


@compiled
def test_what_the_operation_does_not_take_is_left_to_torch():
    plain = ConvNet(width=4, depth=2, in_chans=1, img_size=10)  # maps of 10 and 5 pixels
    ours = copy.deepcopy(plain)
    fuse(ours, True)
    images = torch.rand(2, 1, 10, 10)
    torch.testing.assert_close(ours(images), plain(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.double()(images.double()), plain.double()(images.double()))


@compiled
def test_a_batch_norm_is_fused_where_nothing_is_differentiated():
    plain = convnet("convnet_bn_w32")
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    plain(images)  # moves its statistics
    with fused(copy.deepcopy(plain)) as on:
        assert on and block_elements(plain, 28) == 0
    network = copy.deepcopy(plain)
    fuse(network, True)
    assert torch.equal(network(images), plain(images))  # in training
    assert torch.equal(network.eval()(images), plain.eval()(images))  # with gradients
    with torch.inference_mode():
        found, wanted = network(images), plain(images)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert not torch.equal(found, wanted)  # the operation was taken


@compiled
@pytest.mark.parametrize("name", ["convnet_w32", "convnet_bn_w32"])
def test_in_bf16_norms_are_computed_in_float32(name):
    plain = convnet(name).eval()
    network = copy.deepcopy(plain)
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), fused(network):
        exact = plain(images)
        with torch.autocast("cpu", torch.bfloat16):
            apart, before = (float((n(images).float() - exact).norm()) for n in (network, plain))
    assert 0 < apart < 1.5 * before + 1e-3


@compiled
@pytest.mark.parametrize("name, taken", [("convnet_w32", True), ("convnet_bn_w32", False)])
def test_of_frozen_networks_in_bf16_instance_norms_alone_are_fused(name, taken):
    plain = convnet(name).eval()
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    network = freeze(plain, "bf16")  # a channels-last copy
    with torch.inference_mode():
        exact, before = plain(images), forward(network, images, "bf16")
        with fused(network):
            found = forward(network, images, "bf16")
    assert torch.equal(found, before) != taken
    assert float((found - exact).norm()) < 1.5 * float((before - exact).norm()) + 1e-3


@pytest.mark.parametrize("name, side", [("convnet_w32", 28), ("convnet_d2_w16", 8)])
def test_elements_are_those_of_the_maps(name, side):
    network, counted = convnet(name, side), []
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(lambda module, args, output: counted.append(output.numel()))
    network(torch.rand(1, 1, side, side))
    assert block_elements(network, side) == sum(counted)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", ""])
def test_without_a_compiler_torch_computes_and_one_line_says_so(compiler, monkeypatch, caplog):
    monkeypatch.setenv("CC", compiler)
    for cached in (native.library, norm_relu_pool._functions):
        cached.cache_clear()
    network = convnet("convnet_d2_w16", 8)
    images = torch.rand(2, 1, 8, 8)
    before = network(images)
    try:
        with caplog.at_level(logging.INFO):
            assert not fuse(network, True) and not fuse(network, True)
    finally:
        for cached in (native.library, norm_relu_pool._functions):
            cached.cache_clear()
    assert len(caplog.records) == 1 and "computed by torch" in caplog.text
    assert torch.equal(network(images), before)
