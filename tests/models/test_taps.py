"""Moments that taps read, their gradients, and which layers they find."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.plain import plain_patches, plain_statistics
from hf_condense.errors import ModelError
from hf_condense.models import sums as sums_module
from hf_condense.models.moments import moments
from hf_condense.models.sums import read
from hf_condense.models.taps import Layout, Taps

torch.set_num_threads(1)


class Net(nn.Module):
    """Two convolutions that share their input, norms, a residual and an in-place activation."""

    def __init__(self, channels=3, width=6):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.left = nn.Conv2d(width, width, 3, padding=1, stride=2)
        self.right = nn.Conv2d(width, width, 1, stride=2)
        self.last = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = F.relu_(self.norm(self.stem(x)))
        return self.head(F.relu_(self.last(self.left(x) + self.right(x))).mean((2, 3)))


def make_net(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    net = Net().to(dtype)
    for norm in (net.norm, net.last):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net.eval().requires_grad_(False)


def moments_of(z, patch, groups):
    """E[z] and E[z²] [groups, C (+ cells)] of one layer's input."""
    (found,) = moments([read(z, patch, groups)[1]])
    return torch.cat([part for part in found if part is not None], -1)


def draw(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("side", [1, 2, 4, 7, 8, 14, 16, 32])
@pytest.mark.parametrize("patch", [4, 16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_definition_values_and_gradients(side, patch, channels_last):
    """Identity 5 of the EDC specification, for the whole vector."""
    z = (draw(5, 3, side, side) + 0.3).requires_grad_(True)
    weights = draw(2, 3 + (-(-side // patch)) ** 2, seed=2)

    mean, var, cell_mean, cell_var = plain_statistics(z, patch)
    plain = (weights[0] * torch.cat([mean, cell_mean])).sum() + (weights[1] * torch.cat([var, cell_var])).sum()
    (expected,) = torch.autograd.grad(plain, z)

    given = z.detach().contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    given.requires_grad_(True)
    first, second = moments_of(given, patch, (5,))
    fast = (weights[0] * first[0]).sum() + (weights[1] * (second - first**2)[0]).sum()
    (gradient,) = torch.autograd.grad(fast, given)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("loop_from", [1, 2**30])
@pytest.mark.parametrize("channels_last", [False, True])
def test_both_ways_of_summing_pass_gradcheck(monkeypatch, loop_from, channels_last):
    monkeypatch.setattr(sums_module, "LOOP_FROM", loop_from)
    z = draw(5, 2, 5, 4)
    z = z.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for patch, groups in ((None, (5,)), (2, (2, 3)), (4, (1, 4))):
        assert torch.autograd.gradcheck(
            lambda z, patch=patch, groups=groups: moments_of(z, patch, groups),
            (z.requires_grad_(True),),
            fast_mode=True,
        )


def test_whole_network_equals_plain_hooks():
    net, x = make_net(), draw(4, 3, 10, 10)
    seen = {}
    handles = [
        m.register_forward_pre_hook(lambda m, a, n=n: seen.update({n: a[0]}))
        for n, m in net.named_modules()
        if isinstance(m, nn.Conv2d | nn.BatchNorm2d)
    ]
    leaf = x.clone().requires_grad_(True)
    logits = net(leaf)
    plain = [plain_statistics(z, 4 if "norm" not in n and n != "last" else None) for n, z in seen.items()]
    ((sum(t.sin().sum() for ts in plain for t in ts)) + logits.sum()).backward()
    for handle in handles:
        handle.remove()

    fast = x.clone().requires_grad_(True)
    with Taps(net, 4) as taps:
        tapped_logits = net(fast)
        first, second = taps.collect()
    var = second - first**2
    order = {n: i for i, n in enumerate(seen)}
    for s in taps.layout.segments:
        mean, spread = plain[order[s.layer]][0 if s.kind == "channel" else 2 :][:2]
        torch.testing.assert_close(first[s.start : s.stop], mean)
        torch.testing.assert_close(var[s.start : s.stop], spread)
    (first.sin().sum() + var.sin().sum() + tapped_logits.sum()).backward()
    torch.testing.assert_close(tapped_logits, logits)
    torch.testing.assert_close(fast.grad, leaf.grad)
    assert all(p.grad is None for p in net.parameters())


def test_layout_is_in_module_order_without_gaps():
    net = make_net()
    with Taps(net, 4) as taps, torch.no_grad():
        net(draw(2, 3, 10, 10))
        taps.collect()
    layout = taps.layout
    assert layout.layers == ["stem", "norm", "left", "right", "last"]
    assert [(s.layer, s.kind) for s in layout.segments if s.first] == [("stem", "channel"), ("stem", "patch")]
    assert [s.start for s in layout.segments[1:]] == [s.stop for s in layout.segments[:-1]]
    assert {s.layer for s in layout.segments if s.kind == "patch"} == {"stem", "left", "right"}
    assert layout.segments[1].stop - layout.segments[1].start == 9  # 10 pixels make 3 cells of 4
    assert Layout.from_list(layout.to_list()) == layout


def test_groups_are_separate_batches():
    net, x = make_net(), draw(6, 3, 8, 8)
    grouped = x.clone().requires_grad_(True)
    with Taps(net, 4) as taps:
        taps.group([2, 4])
        net(grouped)
        first, second = taps.collect()
    (first.sin().sum() + second.sin().sum()).backward()
    for i, rows in enumerate((slice(0, 2), slice(2, 6))):
        alone = x[rows].clone().requires_grad_(True)
        with Taps(net, 4) as taps:
            net(alone)
            one = taps.collect()
        (one[0].sin().sum() + one[1].sin().sum()).backward()
        torch.testing.assert_close(first[i], one[0])
        torch.testing.assert_close(second[i], one[1])
        torch.testing.assert_close(grouped.grad[rows], alone.grad)


def test_shared_tensor_is_read_once(monkeypatch):
    net, calls = make_net(), []
    plain = sums_module._totals
    monkeypatch.setattr(sums_module, "_totals", lambda z, *a: calls.append(z.shape) or plain(z, *a))
    with Taps(net, 4) as taps:
        net(draw(2, 3, 8, 8).requires_grad_(True))
        first, _ = taps.collect()
    assert len(calls) == 4  # five layers, two of which share their input
    left, right = (s for s in taps.layout.segments if s.layer in ("left", "right") and s.kind == "channel")
    torch.testing.assert_close(first[left.start : left.stop], first[right.start : right.stop])


def test_statistics_stay_float32_under_autocast():
    net, x = make_net(dtype=torch.float32), draw(8, 3, 16, 16, dtype=torch.float32) + 3
    with Taps(net, 4) as taps:
        net(x)
        expected = taps.collect()
        leaf = x.clone().requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16):
            net(leaf)
        found = taps.collect()
    assert found[0].dtype == torch.float32
    stem = slice(0, 3)  # its input is float32, so nothing may be lost; deeper ones carry the network's own rounding
    torch.testing.assert_close(found[1][stem], expected[1][stem])
    torch.testing.assert_close(found[0], expected[0], rtol=0.05, atol=0.05)
    (found[1] - found[0] ** 2).sum().backward()
    assert leaf.grad.isfinite().all() and leaf.grad.abs().sum() > 0


def test_bfloat16_maps_sum_in_float32():
    z = draw(64, 2, 8, 8, dtype=torch.float32).bfloat16() + 100
    first, second = moments_of(z, 4, (64,))
    torch.testing.assert_close(first[0, :2], z.float().mean((0, 2, 3)))
    torch.testing.assert_close(second[0, :2], z.float().square().mean((0, 2, 3)))


def test_nothing_is_read_before_or_after():
    net, x = make_net(), draw(2, 3, 8, 8)
    net(x)
    with Taps(net, 4) as taps, pytest.raises(RuntimeError, match="no forward pass"):
        taps.collect()
    net(x)
    assert not taps._found


def test_layer_norms_of_a_transformer_are_tapped():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 5, 4, stride=4)
            self.norm = nn.LayerNorm(5)

        def forward(self, x):
            return self.norm(self.embed(x).flatten(2).transpose(1, 2))

    net, x = Tokens().double(), draw(4, 3, 8, 8).requires_grad_(True)
    with Taps(net, 4) as taps:
        net(x)
        first, second = taps.collect()
    tokens = net.embed(x).flatten(2).transpose(1, 2)
    entries = next(slice(s.start, s.stop) for s in taps.layout.segments if s.layer == "norm")
    torch.testing.assert_close(first[entries], tokens.mean((0, 1)))
    torch.testing.assert_close(second[entries], tokens.square().mean((0, 1)))
    expected = torch.autograd.grad(tokens.square().mean((0, 1)).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(second[entries].sum(), x)[0], expected)


def test_batch_norm_subclasses_count():
    class WithAct(nn.BatchNorm2d):
        pass

    with Taps(nn.Sequential(nn.Conv2d(1, 2, 3), WithAct(2)), 4) as taps, torch.no_grad():
        taps._layers["1"](draw(2, 2, 4, 4).float())
        taps.collect()
    assert [s.is_conv for s in taps.layout.segments] == [False]


def test_network_without_such_layers_is_refused_by_name():
    with pytest.raises(ModelError, match="GELU, Linear"):
        Taps(nn.Sequential(nn.Linear(3, 3), nn.GELU()), 4)


def test_patch_oracle_is_the_definition():
    z = draw(2, 3, 4, 8)
    torch.testing.assert_close(plain_patches(z, 4).mean(1), torch.stack([z[..., :4].mean(), z[..., 4:].mean()]))
