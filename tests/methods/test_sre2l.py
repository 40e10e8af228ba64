"""SRe2L, CDA and SRe2L++: the identities of their specification, recovery on digits, and that it can be failed."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import resources

import pytest
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from torch import nn

from hf_condense import create_method
from hf_condense.config import DataSettings
from hf_condense.data.pixels import to_unit
from hf_condense.data.randomness import Key, keyed
from hf_condense.data.source import open_source
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.methods.base import Context
from hf_condense.models.image_model import ImageModel
from hf_condense.models.members import ModelPool, PoolMember
from hf_condense.models.statistics import collect_statistics, running_statistics
from hf_condense.models.training import Batch, FitRecipe, fit
from hf_condense.objectives.base import Term
from hf_condense.run.resolve import SOURCES, preset_names, resolve
from hf_condense.selection.noise import gaussian_images

torch.set_num_threads(1)
CPU, FAMILY = torch.device("cpu"), ("sre2l", "cda", "sre2lpp")
FEW = {"iterations": 4, "lr": 0.1, "match_weight": 0.05, "shard_size": 10, "crop_min": 0.3, "roll": 2}


def network(channels: int, classes: int, norm: type[nn.Module] = nn.BatchNorm2d, width: int = 16) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(3):
        conv = nn.Conv2d(width if i else channels, width, 3, padding=1, bias=False)
        layers += [conv, norm(width), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width, classes))


def member(train, test, in_chans: int = 1, epochs: int = 0, norm: type[nn.Module] = nn.BatchNorm2d) -> PoolMember:
    """A small network that has seen the digits for some epochs."""
    with keyed(Key(0, "network")):
        model = ImageModel(
            network(in_chans, train.num_classes, norm), num_classes=train.num_classes, mean=train.mean, std=train.std,
            channels=train.channels, in_chans=in_chans,
        )  # fmt: skip
    images, labels = train.decoded().float() / 255, torch.from_numpy(train.labels)

    def batches(epoch):
        order = torch.from_numpy((Key(0, "order") / epoch).permutation(len(labels)))
        return [Batch(images[rows], labels[rows]) for rows in order.split(50)]

    recipe = FitRecipe(epochs=epochs, lr=0.1, schedule="cosine")
    fit(model, batches, lambda logits, b: F.cross_entropy(logits, b.labels), recipe, device=CPU, key=Key(0, "fit"))
    return PoolMember.measured("small", model.freeze(), test, CPU, train.image_size, epochs=epochs)


def context_of(train, members, ipc: int) -> Context:
    """What the trainer hands to a method, with what BatchNorms remember."""
    images = torch.zeros(2, train.channels, train.image_size, train.image_size)
    found = [running_statistics(m.model, images, train.num_classes) for m in members]
    return Context(train, train.image_size, ipc, Key(0, "condense"), CPU, "fp32", False, ModelPool(members), found)


def digits(classes: int = 10, **settings):
    names = tuple(str(c) for c in range(classes))
    return open_source(DataSettings("digits", classes=names, image_size=16, **settings), Key(0, "data"))


@pytest.fixture(scope="module")
def context() -> Context:
    splits = digits(max_per_class=60, max_test=200)
    found = member(splits.train, splits.test, epochs=6)
    assert found.top1 > 0.9
    return context_of(splits.train, [found], ipc=1)


def condense(context, folder, method="sre2l", wrap=None, ipc=1, seed=0, **settings):
    """Images of a short synthesis; `wrap` changes the terms of the objective."""
    method = create_method(method, **{**FEW, **settings})
    if wrap:
        objective = method.objective

        def wrapped(context, ready=None):
            made = objective(context, ready)
            terms = made.terms
            made.terms = lambda images, *rest: wrap(images, terms(images, *rest))
            return made

        method.objective = wrapped
    changed = replace(context, ipc=ipc, key=context.key / seed)
    return Engine(Accelerator(cpu=True), folder, 10**9).run(method, changed)


def flipped(images, terms):
    return (Term(-t.loss, t.name, t.logs) for t in terms)


# --- the objective, in float64 ---------------------------------------------------------------------------------


class Plain:
    """The formula as it is written: two passes over the input of every BatchNorm."""

    def __init__(self, model: nn.Module) -> None:
        self.norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        self.inputs: dict[nn.Module, torch.Tensor] = {}
        for norm in self.norms:
            norm.register_forward_pre_hook(lambda norm, args: self.inputs.__setitem__(norm, args[0]))

    def distances(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(variance, mean) of each BatchNorm, as distances."""
        found = []
        for norm in self.norms:
            z = self.inputs[norm]
            mean = z.mean((0, 2, 3))
            var = (z - mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))
            found.append(((norm.running_var - var).norm(), (norm.running_mean - mean).norm()))
        return found


def objective_on(model, images, labels, **settings):
    method = create_method("sre2l", **{**FEW, "crop_min": None, "roll": 0, "mirror": False, **settings})
    context = Context(None, 16, 1, Key(0), CPU, "fp32", False, ModelPool([type("Member", (), {"model": model})()]))
    context = replace(context, statistics=[running_statistics(model, images.detach(), 10)])
    objective = method.objective(context)
    objective.start(None, images, labels, Key(0))
    return objective


def float64_batch(n=30):
    stream = Key(0, "images").numpy()
    images = torch.from_numpy(stream.random((n, 1, 16, 16))).requires_grad_(True)
    return images, torch.from_numpy(stream.integers(0, 10, n))


def test_what_batch_norms_have_just_seen_differs_by_their_unbiased_variance_only():
    model, (images, labels) = network(1, 10).double().eval(), float64_batch()
    plain, expected = Plain(model), 0.0
    for i, norm in enumerate(plain.norms):  # from the first to the last: what it remembers changes what the next sees
        norm.momentum = 1.0
        norm.train()
        model(images.detach())
        norm.eval()
        z = plain.inputs[norm].detach()
        expected += (10 if i == 0 else 1) * float((z.var((0, 2, 3), unbiased=False) / (z[:, 0].numel() - 1)).norm())
    (term,) = objective_on(model, images, labels).terms(images, labels, 0, Key(0))
    assert float(term.logs["matching"]) == pytest.approx(expected, rel=1e-9) and expected > 1e-5


@pytest.mark.parametrize("first_layer_weight", [10.0, 3.0])
def test_loss_and_gradient_are_those_of_the_plain_formula(first_layer_weight):
    model, (images, labels) = network(1, 10).double(), float64_batch()
    stream = Key(0, "statistics").numpy()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean = torch.from_numpy(stream.normal(size=len(norm.running_mean)))
        norm.running_var = torch.from_numpy(stream.uniform(0.5, 2, len(norm.running_var)))
    plain = Plain(model.eval())
    ce = F.cross_entropy(model(images), labels)
    weights = [first_layer_weight, 1.0, 1.0]
    matching = sum(w * (v + m) for w, (v, m) in zip(weights, plain.distances()))
    (wanted,) = torch.autograd.grad(ce + 0.05 * matching, images)
    objective = objective_on(model, images, labels, first_layer_weight=first_layer_weight)
    (term,) = objective.terms(images, labels, 0, Key(0))
    (found,) = torch.autograd.grad(term.loss, images)
    assert float(term.logs["matching"]) == pytest.approx(float(matching.detach()), rel=1e-12)
    assert float(term.loss.detach()) == pytest.approx(float((ce + 0.05 * matching).detach()), rel=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-14)
    assert (objective.matching[0].weight == first_layer_weight).nonzero().flatten().tolist() == [0]


# --- curriculum ------------------------------------------------------------------------------------------------


def test_curriculum_is_that_of_the_paper():
    cda = create_method("cda", iterations=1000).settings
    assert (cda.smallest_crop(0), cda.smallest_crop(500)) == (1.0, pytest.approx(0.54))
    assert cda.smallest_crop(999) == pytest.approx(0.08, abs=1e-5) and cda.smallest_crop(1000) == 0.08
    half = create_method("cda", iterations=1000, milestone=0.5).settings
    for t in (0, 17, 250, 499):
        assert half.smallest_crop(t) == pytest.approx(0.08 + 0.92 * (1 + math.cos(math.pi * t / 500)) / 2)
    assert {half.smallest_crop(t) for t in (500, 600, 999)} == {0.08}
    linear = create_method("cda", iterations=1000, curriculum="linear").settings
    assert linear.smallest_crop(250) == pytest.approx(0.08 + 0.92 * 0.75)
    step = create_method("cda", iterations=1000, curriculum="step", milestone=0.3).settings
    assert [step.smallest_crop(t) for t in (0, 299, 300)] == [1.0, 1.0, 0.08]
    assert {create_method("sre2l").settings.smallest_crop(t) for t in (0, 10, 4000)} == {0.08}


def test_the_crop_of_a_step_follows_the_curriculum(context):
    policy = create_method("cda", **{**FEW, "iterations": 100, "crop_min": 0.08}).objective(context).policy
    assert [policy(t).crop for t in (0, 50)] == [(1.0, 1.0), (pytest.approx(0.54), 1.0)]
    assert policy(0).per == "batch" and policy(0).roll == 2 and policy(0).flip == 0.0


def test_without_a_milestone_cda_is_sre2l_to_the_last_bit(context, tmp_path):
    sre2l = condense(context, tmp_path / "sre2l")
    at_zero = condense(context, tmp_path / "cda0", "cda", milestone=0.0)
    assert torch.equal(sre2l.images, at_zero.images)
    assert not torch.equal(sre2l.images, condense(context, tmp_path / "cda1", "cda").images)


# --- synthesis -------------------------------------------------------------------------------------------------


def right(context, made) -> float:
    """Share of images whose class the network that they were recovered from tells."""
    model = context.observers[0].model
    with torch.no_grad():
        return float((model(to_unit(made.images)).argmax(1) == made.labels).float().mean())


def test_the_network_recognises_what_was_recovered_from_it(context, tmp_path):
    logs: list[dict] = []

    def watched(images, terms):
        for term in terms:
            logs.append({k: float(v) for k, v in term.logs.items()})
            yield term

    settings = {"ipc": 5, "shard_size": 50, "iterations": 80}
    made = condense(context, tmp_path / "recovered", wrap=watched, **settings)
    start, end = logs[0], {k: sum(row[k] for row in logs[-10:]) / 10 for k in logs[0]}
    assert (
        right(context, made) >= 0.98 and end["ce"] < 0.2 * start["ce"] and end["matching"] < 0.75 * start["matching"]
    )
    assert (made.origin == -1).all()
    wrong = condense(context, tmp_path / "flipped", wrap=flipped, **settings)
    assert right(context, wrong) < 0.5


def test_pixels_start_beyond_the_range_and_never_leave_it_again(context, tmp_path):
    ranges = []

    def watched(images, terms):
        ranges.append((float(images.detach().min()), float(images.detach().max())))
        return terms

    condense(context, tmp_path, wrap=watched)
    (low, high), *later = ranges
    assert low < -0.1 and high > 1.1, "noise is not cut off before the first step"
    assert len(later) == 3 and all(low >= -1e-6 and high <= 1 + 1e-6 for low, high in later)


@pytest.mark.parametrize("init", ["noise", "real"])
def test_fewer_images_are_the_first_of_more(context, tmp_path, init):
    few, many = (condense(context, tmp_path / f"{n}", ipc=n, init=init) for n in (2, 3))
    for c in range(10):
        assert torch.equal(few.images[few.labels == c], many.images[many.labels == c][:2])
    assert (few.origin >= 0).all() == (init == "real")


def test_first_images_may_be_the_coreset_of_medoids(context):
    given = replace(context, ipc=3)
    method, coreset = create_method("sre2l", init="medoids"), create_method("coreset", selection="k_medoids")
    shard = method.plan(10, 3).groups[0][4]
    mine, theirs = method.start(shard, given), coreset.start(shard, given)
    assert mine.origin.tolist() == theirs.origin.tolist() and torch.equal(mine.images, theirs.images)
    assert {*given.train.labels[mine.origin]} == {4} and len({*mine.origin.tolist()}) == 3
    assert method.real_images_each == 1 and method.images_looked_at(60, 3) == 60


def test_noise_has_the_spread_of_the_data_and_a_larger_set_begins_with_the_smaller(context):
    train = context.train
    images = gaussian_images(train, 50, 16, Key(1))
    assert float(images.mean()) == pytest.approx(train.mean[0], abs=0.02)
    assert float(images.std()) == pytest.approx(train.std[0], rel=0.05)
    assert torch.equal(gaussian_images(train, 7, 16, Key(1)), images[:7])


def test_equal_seeds_make_equal_images_and_other_seeds_others(context, tmp_path):
    first, again, other = (condense(context, tmp_path / n, seed=s).images for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_shards_mix_classes(context):
    plan = create_method("sre2l", shard_size=20).plan(10, 5)
    assert [len(s.rows) for s in plan.groups[1]] == [20, 20, 10]
    assert all(sorted(set(s.labels)) == list(range(10)) for s in plan.groups[1])
    plan = create_method("sre2l", shard_size=5).plan(7, 2)
    assert [s.labels for s in plan.groups[1]] == [(0, 1, 2, 3, 4), (5, 6)] * 2
    assert sorted(r for s in plan.groups[1] for r in s.rows) == list(range(14))
    assert [s.labels for s in create_method("sre2l", shard_size=4).plan(1, 6).groups[1]] == [(0,) * 4, (0,) * 2]


@pytest.mark.parametrize(("classes", "shard_size"), [(7, 5), (2, 1)])
def test_shards_of_any_number_of_classes(classes, shard_size, tmp_path):
    splits = digits(classes, max_per_class=5, max_test=7)
    context = context_of(splits.train, [member(splits.train, splits.test)], 1)
    made = condense(context, tmp_path, ipc=2, shard_size=shard_size)
    assert made.labels.tolist() == sorted([*range(classes)] * 2) and made.images.shape == (2 * classes, 1, 16, 16)
    assert not torch.equal(made.images, made.initial)


def test_grey_images_before_a_network_that_needs_colours_stay_grey(tmp_path):
    splits = digits(2, max_per_class=5, max_test=4)
    context = context_of(splits.train, [member(splits.train, splits.test, in_chans=3)], 1)
    assert condense(context, tmp_path).images.shape == (2, 1, 16, 16)


def test_observers_take_turns_and_networks_without_batch_norm_are_measured(context, tmp_path):
    splits = digits(max_per_class=5, max_test=10)
    without = member(splits.train, splits.test, norm=lambda width: nn.GroupNorm(width, width))
    assert running_statistics(without.model, torch.zeros(2, 1, 16, 16), 10) is None
    request = create_method("sre2l", **FEW).statistics(context)
    assert request.mode == "running"
    measured = collect_statistics(
        [without.model], splits.train, request.policy, request.patch, Key(0), CPU, kinds=request.kinds
    )
    pool = ModelPool([context.observers[0], without])
    both = replace(context, observers=pool, statistics=[context.statistics[0], *measured])
    layers = []

    def watched(images, terms):
        for term in terms:
            layers.append(float(term.logs["matching"]))
            yield term

    made = condense(both, tmp_path / "both", wrap=watched)
    assert len(layers) == 4 and not torch.equal(made.images, condense(context, tmp_path / "one").images)


def test_sre2l_plus_plus_starts_from_real_patches(context, tmp_path):
    made = condense(context, tmp_path, "sre2lpp", ipc=2, rded_candidates=10, rded_crops=2)
    assert (made.origin >= 0).all() and len(set(made.origin.tolist())) == 20
    assert (context.train.labels[made.origin] == made.labels.numpy()).all()


def test_networks_stay_as_they_are(context, tmp_path):
    before = context.observers[0].model.sha256()
    condense(context, tmp_path)
    model = context.observers[0].model
    assert model.sha256() == before and all(p.grad is None and not p.requires_grad for p in model.parameters())


# --- settings, presets and protocols ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_min": 0.0}, "crop_min"),
        ({"milestone": 1.5}, "milestone"),
        ({"match_weight": -1.0}, "match_weight"),
        ({"shard_size": 0}, "shard_size"),
        ({"roll_back": -1}, "roll_back"),
        ({"init": "fog"}, "noise, real, medoids, patches"),
        ({"curriculum": "cosine", "crop_min": None}, "Give a --crop_min"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        create_method("sre2l", **settings)


def test_protocols():
    names = {m: {d: create_method(m).protocol(d) for d in ("cifar10", "imagenet-1k", "my/photos")} for m in FAMILY}
    assert names["sre2l"] == {"cifar10": "sre2l-cifar10", "imagenet-1k": "sre2l-in1k", "my/photos": "small"}
    assert names["cda"] == {"cifar10": "sre2l-cifar10", "imagenet-1k": "cda-in1k", "my/photos": "small"}
    assert names["sre2lpp"] == {"cifar10": "sre2lpp-cifar10", "imagenet-1k": "sre2lpp-in1k", "my/photos": "small-bssl"}
    small, bssl = get_protocol("small"), get_protocol("small-bssl")
    assert replace(bssl, name="small", citation="", note=small.note, teacher_bn="running") == small
    assert bssl.teacher_bn == "batch"


@pytest.mark.parametrize("name", [f"{m}/{d}" for m in FAMILY for d in preset_names(m)])
def test_every_preset_value_says_where_it_comes_from_and_resolves(name):
    method, dataset = name.split("/")
    content = yaml.safe_load((resources.files("hf_condense") / "presets" / f"{name}.yaml").read_text())
    assert all(entry["source"] in SOURCES for entry in content["settings"].values())
    for variant in ("paper", "official"):
        found = resolve({"method": method, "dataset": dataset, "variant": variant}, None)
        assert found.preset == name
        fits = create_method(method).protocol(dataset)
        assert get_protocol(found.evaluation.protocol).name == fits
        assert {"iterations", "lr", "match_weight", "init"} <= content["settings"].keys()
