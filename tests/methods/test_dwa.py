"""DWA: how far and where weights are moved, what stays as it is, and what it learns, with its gate failing."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from hf_condense import create_method
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key, keyed
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.models.frozen import freeze
from hf_condense.models.statistics import running_statistics
from hf_condense.objectives.matching import Matching
from hf_condense.objectives.moved import MovedStatistics
from hf_condense.objectives.settings import MatchingSettings
from hf_condense.run.resolve import resolve
from tests.matching import stopped_and_resumed, synthesise
from tests.observers import CPU, observed

FEW = {
    "iterations": 4, "lr": 0.1, "match_weight": 0.05, "shard_size": 10, "crop_min": 0.3, "roll": 2, "ascent_steps": 3,
    "rho": 0.5,
}  # fmt: skip
KEY = Key(0, "dwa")


@pytest.fixture(scope="module")
def given():
    return observed(2, ipc=2)


# --- the move by itself ---------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A convolution, a norm whose running statistics are not those of a new one, and a linear layer, in float64."""

    def __init__(self) -> None:
        super().__init__()
        with keyed(KEY / "net"):
            self.layers = nn.Sequential(
                nn.Conv2d(1, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 3),
            ).double()
            self.layers[1].running_mean.normal_(0, 0.1)
            self.layers[1].running_var.uniform_(0.5, 1.5)

    def forward(self, x):
        return self.layers(x)


IMAGES = torch.from_numpy((KEY / "images").uniform(9, 1, 8, 8))
LABELS = torch.arange(3).repeat(3)


def mover(rho: float = 0.1, steps: int = 1, view: str = "first", policy: ViewPolicy | None = None):
    model = Net().eval()
    statistics = [running_statistics(model, torch.zeros(2, 1, 8, 8, dtype=torch.float64), 10)]
    settings = MatchingSettings(alpha=1.0, stat_momentum=0.0, flatness_weight=0.0)
    made = MovedStatistics(
        observers=[model], statistics=statistics, settings=settings, policy=policy, rho=rho, ascent_steps=steps,
        ascent_view=view,
    )  # fmt: skip
    return made, model


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def loss_of(model: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    return F.cross_entropy(model(images), LABELS)


def gradient(model: nn.Module) -> torch.Tensor:
    model = copy.deepcopy(model).requires_grad_(True)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(model), list(model.parameters()))])


def test_one_step_goes_rho_along_the_gradient_of_all_weights():
    made, model = mover()
    away = flat(made.moved(model, IMAGES, LABELS, KEY)) - flat(model)
    up = gradient(model)
    assert float(away.norm()) == pytest.approx(0.1, abs=1e-11)
    torch.testing.assert_close(away, 0.1 * up / up.norm(), rtol=0, atol=1e-11)
    affine = [name for name, _ in model.named_parameters() if name.startswith("layers.1.")]
    assert affine and away[40:44].any() and away[44:48].any(), "weights of BatchNorm are among them"


def test_several_steps_are_equal_parts_of_the_way():
    ways = []
    for steps in range(1, 6):  # the first steps of five are those of fewer, at the length of a fifth
        made, model = mover(rho=0.1 * steps / 5, steps=steps)
        ways.append(flat(made.moved(model, IMAGES, LABELS, KEY)) - flat(model))
    parts = [ways[0]] + [later - before for before, later in itertools.pairwise(ways)]
    for part in parts:
        assert float(part.norm()) == pytest.approx(0.02, abs=1e-11)
    assert float(ways[-1].norm()) <= 0.1
    assert F.cosine_similarity(parts[0], parts[4], dim=0) < 1 - 1e-6, "each from where the one before has led"


def test_the_loss_rises_as_the_gradient_says():
    made, model = mover(rho=1e-4)
    rise = (loss_of(made.moved(model, IMAGES, LABELS, KEY)) - loss_of(model)).detach()
    assert float(rise) / (1e-4 * float(gradient(model).norm())) == pytest.approx(1, abs=1e-3)
    away = mover(rho=0.3, steps=4)[0].moved(model, IMAGES, LABELS, KEY)
    assert loss_of(away) > loss_of(model)


def test_what_norms_remember_and_the_observer_itself_stay():
    made, model = mover(steps=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made.start(None, IMAGES, LABELS, KEY)
    moved = made.observers[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, dict(model.named_buffers())[name]) for name, value in moved.named_buffers())
    assert not any(weight.requires_grad for weight in moved.parameters())
    assert all(weight.grad is None for net in (model, moved) for weight in net.parameters())
    x = IMAGES.clone().requires_grad_(True)
    sum(term.loss for term in made.terms(x, LABELS, 0, KEY)).backward()
    assert x.grad.abs().sum() > 0 and all(weight.grad is None for weight in moved.parameters())


def test_a_net_whose_norms_alone_have_weights_moves_by_rho():
    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3).double()
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)

        def forward(self, x):
            return self.norm(x.expand(-1, 3, -1, -1)).square().mean((2, 3))

    made, _ = mover(rho=0.2)
    with keyed(KEY / "affine"):
        model = Affine().eval()
    away = flat(made.moved(model, IMAGES, LABELS, KEY)) - flat(model)
    assert float(away.norm()) == pytest.approx(0.2, abs=1e-11)


def test_the_move_follows_from_the_first_images_and_the_key():
    policy = ViewPolicy(8, crop=(0.3, 1.0), roll=2, per="batch")
    for view in ("first", "each"):
        made, model = mover(steps=3, view=view, policy=policy)
        mine = flat(made.moved(model, IMAGES, LABELS, KEY)) - flat(model)
        again = flat(made.moved(model, IMAGES, LABELS, KEY)) - flat(model)
        assert torch.equal(mine, again)
        for images, key in ((IMAGES.flip(0), KEY), (IMAGES, KEY / "other")):
            other = flat(made.moved(model, images, LABELS, key)) - flat(model)
            assert F.cosine_similarity(mine, other, dim=0) < 1 - 1e-9


def test_the_view_of_the_move_is_that_of_the_first_step():
    policy = ViewPolicy(8, crop=(0.3, 1.0), roll=2, per="batch")
    made, model = mover(policy=policy)
    seen = made.look(IMAGES, 0, KEY / "step" / 0)(IMAGES)
    shown = []
    hook = made.observers[0].register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].detach()))
    made.rho = 0.0
    made.start(None, IMAGES, LABELS, KEY)
    shown.clear()
    list(made.terms(IMAGES, LABELS, 0, KEY / "step" / 0))
    hook.remove()
    assert torch.equal(shown[0], seen) and not torch.equal(seen, IMAGES)
    up = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss_of(model.requires_grad_(True), seen), list(model.parameters()))]
    )
    freeze(model)
    made.rho = 0.1
    away = flat(made.moved(model, IMAGES, LABELS, KEY)) - flat(model)
    torch.testing.assert_close(away, 0.1 * up / up.norm(), rtol=0, atol=1e-11)


# --- variances ------------------------------------------------------------------------------------------------------


def test_variances_have_a_weight_beside_means():
    """Loss = v V + M, for moments by hand."""
    statistics = mover()[0].statistics[0]
    size = statistics.layout.size
    first, second = (torch.from_numpy((KEY / name).uniform(size, high=2.0)) for name in ("first", "second"))
    settings = MatchingSettings(alpha=1.0, stat_momentum=0.0, flatness_weight=0.0, first_layer_weight=1.0)

    def loss(weight: float) -> torch.Tensor:
        matching = Matching(statistics, replace(settings, variance_weight=weight), CPU)
        matching.start(LABELS, torch.float64)
        return matching.loss(first, second)

    mean, variance = statistics.global_moments()
    parts = [(first - mean).norm(), (second - first.square() - variance).norm()]
    assert len(statistics.layout.lengths) == 1
    for weight in (0.0, 0.5, 1.0, 11.0):
        torch.testing.assert_close(loss(weight), parts[0] + weight * parts[1])


# --- a synthesis ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [{"rho": 0.0}, {"ascent_steps": 0}])
def test_without_a_move_it_is_sre2l_from_real_images(given, tmp_path, nothing):
    mine = synthesise("dwa", given, tmp_path / "a", **{**FEW, **nothing})
    own = {name: value for name, value in FEW.items() if name not in ("rho", "ascent_steps")}
    plain = synthesise("sre2l", given, tmp_path / "b", **own, init="real", variance_weight=2.0)
    assert torch.equal(mine.images, plain.images)
    assert not torch.equal(synthesise("dwa", given, tmp_path / "c", **FEW).images, plain.images)


def test_shards_do_not_depend_on_their_order_and_observers_are_shared(given, tmp_path):
    before = [flat(m.model).clone() for m in given.observers]
    whole = synthesise("dwa", given, tmp_path / "a", **FEW)
    made = create_method("dwa", **FEW)
    plan = made.plan(10, 2)
    made.plan = lambda *_: replace(plan, groups=tuple(group[::-1] for group in plan.groups))
    assert len(plan.optimised) == 2
    turned = Engine(Accelerator(cpu=True), tmp_path / "b").run(made, given)
    assert torch.equal(whole.images, turned.images)
    assert all(torch.equal(flat(m.model), weights) for m, weights in zip(given.observers, before))
    assert all(weight.grad is None for m in given.observers for weight in m.model.parameters())


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_resumed_shard_moves_the_weights_again(given, tmp_path, stop_at):
    whole = synthesise("dwa", given, tmp_path / "a", **FEW)
    assert torch.equal(stopped_and_resumed("dwa", given, tmp_path / "b", stop_at, 1, **FEW).images, whole.images)


def test_it_learns_and_fails_with_the_sign_flipped(given, tmp_path):
    def loss(images) -> float:
        labels = torch.arange(10).repeat_interleave(2)
        with torch.no_grad():
            return sum(float(F.cross_entropy(m.model(images / 255), labels)) for m in given.observers)

    long = {**FEW, "iterations": 24, "match_weight": 0.0, "crop_min": None, "roll": 0, "rho": 0.1}
    made = synthesise("dwa", given, tmp_path / "a", **long)
    assert loss(made.images) < loss(made.initial) < loss(synthesise("dwa", given, tmp_path / "b", -1, **long).images)


def test_in_half_precision_the_move_is_made_in_single(given):
    made = create_method("dwa", **FEW)
    parts = {**made.parts(given, None), "rho": 0.5, "ascent_steps": 3, "ascent_view": "first"}
    images = torch.from_numpy((KEY / "ten").uniform(10, 1, 8, 8)).float()
    found = {}
    for precision in ("fp32", "bf16"):
        objective = MovedStatistics(**{**parts, "precision": precision})
        found[precision] = objective.moved(objective.originals[0], images, torch.arange(10), KEY)
    assert torch.equal(flat(found["fp32"]), flat(found["bf16"])) and flat(found["bf16"]).dtype == torch.float32


@pytest.mark.parametrize(("wrong", "message"), [({"rho": -0.1}, "rho=-0.1"), ({"variance_weight": -1.0}, "variance")])
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        create_method("dwa", **{**FEW, **wrong})


# --- presets and protocols ------------------------------------------------------------------------------------------

PUBLISHED = {
    "imagenet-1k": {"iterations": 2000, "lr": 0.25, "shard_size": 100, "ascent_steps": 15, "variance_weight": 2.0, "roll": 32},
    "tiny-imagenet": {"iterations": 2000, "lr": 0.1, "shard_size": 200, "ascent_steps": 12, "variance_weight": 11.0, "roll": 4},
    "cifar100": {"iterations": 1000, "lr": 0.25, "shard_size": 100, "ascent_steps": 12, "variance_weight": 11.0, "roll": 4},
}  # fmt: skip


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_presets_and_students_hold_the_numbers_of_the_scripts(dataset):
    def no_facts(data):
        raise AssertionError

    found = resolve({"method": "dwa", "dataset": dataset, "ipc": 50}, no_facts)
    wanted = {**PUBLISHED[dataset], "rho": 0.015, "match_weight": 0.01, "first_layer_weight": 10.0, "init": "real"}
    assert {name: getattr(found.method, name) for name in wanted} == wanted
    assert found.method.crop_min == (0.08 if dataset == "imagenet-1k" else None)
    assert found.evaluation.protocol == create_method("dwa").protocol(dataset)
    student = get_protocol(found.evaluation.protocol).resolve("cifar_resnet18", 50)
    budget = {"imagenet-1k": (300, 128), "tiny-imagenet": (200, 64), "cifar100": (400, 128)}[dataset]
    assert (student.epochs, student.batch, student.regime) == (*budget, "online")
