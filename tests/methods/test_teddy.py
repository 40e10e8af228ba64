"""Teddy on digits: one network is SRe2L, a pool lowers the loss, and what it costs does not grow with the pool."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

import benchmarks.convnet_bn  # noqa: F401  (its import registers the network)
from hf_condense import CondensationTrainer, create_method
from hf_condense.data.pixels import to_unit
from hf_condense.data.randomness import Key
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError, ModelError
from hf_condense.objectives.base import Term
from hf_condense.objectives.first_order import FirstOrder

FAST = {"iterations": 12, "shard_size": 30, "match_weight": 0.1, "crop_min": 0.5, "roll": 1}


def prepare(tmp_path_factory, **settings):
    return CondensationTrainer(
        "teddy", "digits", output_dir=str(tmp_path_factory.mktemp("teddy")), ipc=3, max_per_class=60, max_test=200,
        base_model="convnet_bn", squeeze_epochs=6, threads=1, precision="fp32", top1_floor=0.0, top1_ceiling=9.0,
        recalibration_images=300, **settings,
    ).prepare()  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return prepare(tmp_path_factory, pool_kind="none")


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return prepare(tmp_path_factory, pool_kind="prior", pool_size=4, prior_epochs=(1, 2, 3, 5), crop_min=None)


@pytest.fixture(scope="module")
def post(tmp_path_factory):
    return prepare(tmp_path_factory, pool_kind="post", pool_size=2, prune_ratios=(0.25, 0.5))


def synthesise(context, folder, method="teddy", sign=1, seed=0, ipc=3, **settings):
    """(what was made, the loss of every step)."""
    made, losses = create_method(method, **{**FAST, **settings}), []
    objective = made.objective

    def watched(context, ready=None):
        found = objective(context, ready)
        terms = found.terms

        def signed(*args):
            losses.append(0.0)
            for term in terms(*args):
                losses[-1] += float(term.loss.detach())
                yield Term(sign * term.loss, term.name, term.logs)

        found.terms = signed
        return found

    made.objective = watched
    changed = replace(context, key=context.key / seed, ipc=ipc)
    return Engine(Accelerator(cpu=True), folder, 10**9).run(made, changed), losses


@pytest.mark.parametrize("init", ["noise", "real"])
def test_one_converged_network_is_sre2l(base, prior, tmp_path, init):
    """Same seed, same images, to the last bit; other networks make others."""
    assert base.observers.names == ["convnet_bn"]
    teddy, losses = synthesise(base, tmp_path / "teddy", init=init, lr=0.1)
    sre2l, same = synthesise(base, tmp_path / "sre2l", "sre2l", init=init, lr=0.1)
    assert losses == same and torch.equal(teddy.images, sre2l.images) and torch.equal(teddy.initial, sre2l.initial)
    weak, _ = synthesise(prior, tmp_path / "weak", init=init, lr=0.1)
    assert torch.equal(weak.initial, teddy.initial) and not torch.equal(weak.images, teddy.images)


@pytest.mark.parametrize("init", ["noise", "real"])
def test_loss_falls_in_a_pool_of_four(prior, tmp_path, init):
    """60 images, 100 iterations: the mean loss of the last 8 is below half of that of the first 8."""
    assert len(prior.observers) == 4 and all(m.kind == "prior" for m in prior.observers)

    def falls(losses: list[float]) -> bool:
        return sum(losses[-8:]) < 0.5 * sum(losses[:8])

    # without crops: one crop for the whole batch moves the statistics of 8 x 8 digits by more than there is to gain
    settings = {"init": init, "iterations": 100, "shard_size": 60, "match_weight": 1.0, "ipc": 6, "lr": 0.1}
    settings |= {"crop_min": None, "roll": 0}
    made, losses = synthesise(prior, tmp_path / "ours", **settings)
    assert falls(losses), (sum(losses[:8]) / 8, sum(losses[-8:]) / 8)
    assert made.pixels is None and not torch.equal(made.images, made.initial)  # pixels stay within [0, 1]
    assert not falls(synthesise(prior, tmp_path / "flipped", sign=-1, **settings)[1])


def test_networks_are_the_same_before_and_after(post, tmp_path):
    for name, settings in {
        "statistics": {},
        "both": {"models_per_step": 2},
        "gradient": {"match": "gradient"},
    }.items():
        made, _ = synthesise(post, tmp_path / name, **{**settings, "iterations": 4})
        assert not torch.equal(made.images, made.initial)
        for member in post.observers:
            assert member.model.sha256() == member.sha256 and not member.model.training
            assert all(p.grad is None and not p.requires_grad for p in member.model.parameters())
            assert not any(layer._forward_pre_hooks for layer in member.model.modules())


def test_equal_seeds_make_equal_images_and_other_seeds_others(post, tmp_path):
    first, again, other = (synthesise(post, tmp_path / n, seed=s)[0] for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)


def test_all_networks_in_one_call_make_the_same_images(prior, post, tmp_path):
    one_by_one, losses = synthesise(prior, tmp_path / "loop", models_per_step=4, iterations=4)
    together, same = synthesise(prior, tmp_path / "stack", models_per_step=4, iterations=4, stacked=True)
    assert losses == pytest.approx(same, rel=1e-3)
    # Adam takes steps of full length where a gradient is rounding noise
    assert ((one_by_one.images.int() - together.images.int()).abs() <= 1).float().mean() > 0.99
    with pytest.raises(ModelError, match="equal shapes"):
        synthesise(post, tmp_path / "post", models_per_step=2, stacked=True)


def test_gradient_matching_needs_no_statistics_and_remembers_its_targets(base, tmp_path):
    method = create_method("teddy", match="gradient", shard_size=10)
    assert method.statistics(base) is None
    ready = method.ready(method.plan(10, 1).groups[-1][0], base, None)
    first, second = (method.objective(base, ready) for _ in range(2))
    assert isinstance(first, FirstOrder) and first.targets is second.targets
    context = replace(base, statistics=None)
    for sign in (1, -1):
        settings = {"match": "gradient", "iterations": 40, "lr": 0.1, "init": "noise", "sign": sign}
        losses = synthesise(context, tmp_path / str(sign), **settings)[1]
        assert (sum(losses[-6:]) < 0.9 * sum(losses[:6])) is (sign == 1), losses


def test_settings_that_contradict_each_other_are_refused(base):
    with pytest.raises(ConfigError, match="stacked"):
        create_method("teddy", stacked=True, match="gradient")
    with pytest.raises(ConfigError, match="models_per_step"):
        create_method("teddy", models_per_step=0)
    with pytest.raises(ConfigError, match="models_per_step=2.*at most 1"):
        create_method("teddy", models_per_step=2).objective(base)


class Kept:
    """Bytes that graphs keep for their backward pass: now, and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __enter__(self) -> Kept:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *args) -> None:
        self.hooks.__exit__(*args)

    def _pack(self, tensor: Tensor):
        class Held:
            pass

        held, size = Held(), tensor.numel() * tensor.element_size()
        held.tensor = tensor
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(held, self._free, size)
        return held

    def _free(self, size: int) -> None:
        self.now -= size


def test_memory_of_a_step_does_not_grow_with_the_pool(prior):
    """Nor with steps of training, of which there are none; a loop that is unrolled grows with each of its steps."""

    def step(members: int, per_step: int = 1) -> int:
        context = replace(prior, observers=prior.observers[:members], statistics=prior.statistics[:members])
        objective = create_method("teddy", **{**FAST, "models_per_step": per_step}).objective(context)
        images, labels = to_unit(torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)), torch.arange(20) % 10
        images.requires_grad_(True)
        objective.start(None, images, labels, Key(0))
        with Kept() as kept:
            for term in objective.terms(images, labels, 0, Key(0)):
                term.loss.backward()
                del term
        return kept.most

    def unrolled(steps: int) -> int:
        model, labels = prior.observers[0].model, torch.arange(20) % 10
        images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
        weights = {n: p.detach().requires_grad_(True) for n, p in model.named_parameters()}
        with Kept() as kept:
            for _ in range(steps):
                loss = F.cross_entropy(torch.func.functional_call(model, weights, (images,)), labels)
                grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
                weights = {n: w - 0.1 * g for (n, w), g in zip(weights.items(), grads)}
            F.cross_entropy(torch.func.functional_call(model, weights, (images,)), labels).backward()
        return kept.most

    assert step(1) == step(4) > 0
    assert step(4, per_step=4) < 1.1 * step(4)  # terms are back-propagated one by one
    one, two, four = unrolled(1), unrolled(2), unrolled(4)
    assert four - two == pytest.approx(2 * (two - one), rel=0.1) and two > 1.5 * one and one > step(4)
