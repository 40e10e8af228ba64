"""G-VBSM: which images meet in a batch, what it asks of the real data, SRe2L as its limit, and learning on digits."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from hf_condense import CondensationTrainer, create_method
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.pixels import to_unit
from hf_condense.data.randomness import Key
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.methods.base import Context
from hf_condense.methods.gvbsm import PROTOCOLS, GVBSMSettings
from hf_condense.models.statistics import collect_statistics
from hf_condense.objectives.base import Term
from hf_condense.objectives.densification import DensifiedStatistics
from hf_condense.objectives.feature_statistics import FeatureStatistics
from hf_condense.plan import SetSpec
from hf_condense.run.resolve import load_preset, preset_names
from tests.objectives.test_feature_statistics import CPU, KEY, Net, Source, some, step

torch.set_num_threads(1)
SETTINGS = {
    "iterations": 150, "lr": 0.1, "shard_size": 30, "crop_min": None, "synthesis_pad": 1, "roll": 1,
    "stat_momentum": 0.8, "drop_rate": 0.4, "match_weight": 0.1,
}  # fmt: skip


# which images meet


def batches(ipc, classes, **settings):
    plan = create_method("gvbsm", **settings).plan(classes, ipc)
    assert sorted(row for shard in plan.groups[1] for row in shard.rows) == list(range(classes * ipc))
    assert all(plan.labels[row] == label for shard in plan.groups[1] for row, label in zip(shard.rows, shard.labels))
    return [[(label, row % ipc) for row, label in zip(shard.rows, shard.labels)] for shard in plan.groups[1]]


def test_batches_are_slices_of_a_class_major_list():
    listed = [(c, k) for c in range(7) for k in range(10)]
    assert batches(10, 7, shard_size=20) == [listed[at : at + 20] for at in range(0, 70, 20)]
    assert batches(10, 7, shard_size=20)[0] == [(c, k) for c in (0, 1) for k in range(10)]


def test_chunks_take_a_part_of_every_class_first():
    listed = [(c, 2 * chunk + k) for chunk in range(5) for c in range(3) for k in range(2)]
    assert batches(10, 3, shard_size=4, id_chunks=5) == [listed[at : at + 4] for at in range(0, 30, 4)]
    assert batches(10, 3, shard_size=4, id_chunks=5) != batches(10, 3, shard_size=4)


def test_chunks_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="id_chunks=10.*divides ipc, which is 15.*--id_chunks 1"):
        create_method("gvbsm", id_chunks=10).plan(200, 15)


def test_only_persisting_statistics_make_a_chain():
    assert not create_method("gvbsm").plan(10, 2).chained
    assert create_method("gvbsm", stat_ema_persist=True).plan(10, 2).chained


# what it is made of


class Train(Source):
    """The source of the tests of statistic matching, with what a method asks of one."""

    channels, mean, std = 3, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)


def small_context(observers=(), **changes) -> Context:
    source = Train()
    members = [type("Member", (), {"model": model})() for model in observers]
    statistics = collect_statistics(observers, source, None, 4, Key(0), CPU) if observers else None
    return Context(source, 8, 4, KEY, CPU, "fp32", True, members, statistics, **changes)


def test_views_and_statistics():
    method = create_method("gvbsm", crop_min=None, synthesis_pad=1, roll=2)
    view = ViewPolicy(8, pad=1, fill=Train.mean, roll=2, per="image")
    exact, context = method.statistics(small_context()), small_context([Net(0).eval()])
    assert (exact.patch, exact.policy, exact.mode, exact.kinds) == (4, view, "exact", ("conv", "norm"))
    assert method.objective(context).policy == replace(view, per="batch")
    official = create_method("gvbsm", statistics_mode="official", crop_min=None, synthesis_pad=1, roll=2)
    request = official.statistics(small_context())
    assert (request.policy, request.mode) == (ViewPolicy(8, pad=1, per="image"), "official")
    cropped = create_method("gvbsm", crop_min=0.08, roll=32, patch=2).statistics(small_context())
    assert (cropped.patch, cropped.policy) == (2, ViewPolicy(8, crop=(0.08, 1.0), roll=32, per="image"))
    assert create_method("gvbsm").statistics(replace(small_context(), flip=False)).policy.flip == 0


def test_observers_take_turns_and_the_official_counter_is_never_reset():
    observers = [Net(seed).eval() for seed in range(3)]
    for persist in (False, True):
        objective = create_method("gvbsm", crop_min=None, stat_ema_persist=persist).objective(small_context(observers))
        turns = []
        for _ in range(2):  # two shards of four steps
            images, labels = some()
            objective.start(None, images.requires_grad_(True), labels, KEY)
            for number in range(4):
                turns += objective.whose_turn()
                step(objective, images, labels, number)
        assert turns == ([0, 1, 2, 0, 1, 2, 0, 1] if persist else [0, 1, 2, 0] * 2)


def test_images_and_labels_of_a_batch_only_meet_in_cross_entropy_and_densification():
    """Targets are those of all data: matching is the same whatever classes a batch has."""
    matching = []
    for labels in (torch.arange(8) % 4, torch.zeros(8, dtype=torch.long)):
        objective = create_method("gvbsm", crop_min=None).objective(small_context([Net(0).eval()]))
        images = some()[0].requires_grad_(True)
        objective.start(None, images, labels, KEY)
        logs, _ = step(objective, images, labels)
        matching.append(logs["matching"])
        assert set(logs) == {"ce", "matching", "densification", "densification_inactive"}
    assert matching[0] == matching[1]


class NormFirst(nn.Module):
    """A network whose first layer is a batch norm, so that the weight of the first layer falls on a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(5, 4),
        ).double()  # fmt: skip

    def forward(self, x):
        return self.layers(x.double())


def test_without_momentum_convolutions_and_densification_it_is_sre2l():
    """Against one plain hook for each batch norm: cross-entropy + r * sum of |mean - m| + |var - v|, the first ten times."""
    model = NormFirst().eval()
    context = small_context([model])
    method = create_method(
        "gvbsm", stat_momentum=0.0, drop_rate=1.0, densification_weight=0.0, match_weight=0.05, crop_min=None,
        synthesis_pad=0, roll=0,
    )  # fmt: skip
    objective = method.objective(replace(context, flip=False))
    assert type(objective) is FeatureStatistics
    images, labels = some()
    images.requires_grad_(True)
    objective.start(None, images, labels, KEY)
    layout = context.statistics[0].layout
    aims = {s.layer: [m[s.start : s.stop] for m in context.statistics[0].global_moments()] for s in layout.segments}
    found = []

    def hook(name, weight):
        def measure(_, args):
            z = args[0]
            mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
            found.append(weight * ((mean - aims[name][0]).norm() + (var - aims[name][1]).norm()))

        return measure

    plain = copy.deepcopy(model)
    for name, weight in (("layers.0", 10.0), ("layers.2", 1.0)):
        plain.get_submodule(name).register_forward_pre_hook(hook(name, weight))
    for number in range(2):
        logs, gradient = step(objective, images, labels, number)
        found.clear()
        x = images.detach().clone().requires_grad_(True)
        (F.cross_entropy(plain(x), labels) + 0.05 * sum(found)).backward()
        torch.testing.assert_close(gradient, x.grad, rtol=1e-6, atol=1e-9)
        with torch.no_grad():
            images -= 0.1 * gradient
    with_convolutions = create_method("gvbsm", **{**asdict(method.settings), "drop_rate": 0.0})
    other = with_convolutions.objective(replace(context, flip=False))
    other.start(None, images, labels, KEY)
    assert not torch.allclose(step(other, images, labels)[1], gradient)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id_chunks", 0), ("shard_size", 0), ("densification_every", 0), ("densification_weight", -1.0),
        ("densification_temperature", 0.0), ("crop_min", 0.0), ("drop_rate", 1.5), ("stat_momentum", -0.1),
        ("init", "rded"), ("roll", -1), ("patch", 0),
    ],
)  # fmt: skip
def test_settings_are_checked(name, value):
    with pytest.raises(ConfigError, match=name):
        GVBSMSettings(**{name: value})


def test_presets_and_protocols():
    known = set(GVBSMSettings.__dataclass_fields__)
    assert set(PROTOCOLS) < set(preset_names("gvbsm"))
    for dataset in preset_names("gvbsm"):
        for variant in ("paper", "official"):
            preset = load_preset("gvbsm", dataset, 10, variant)
            method = create_method("gvbsm", **{k: v for k, v in preset.values.items() if k in known})
            assert get_protocol(preset.values["protocol"]).name == method.protocol(dataset)
            official = variant == "official" and dataset in PROTOCOLS
            assert method.plan(preset.classes, 10).chained is official
            assert (method.settings.statistics_mode == "official") is official
            recipe = method.recipe(None, SetSpec(10, 10, 32))
            assert recipe.betas == (0.5, 0.9) and recipe.clamp_every == 1
    assert load_preset("gvbsm", "imagenet-1k", 10, "official").values["shard_size"] == 40
    assert get_protocol(PROTOCOLS["imagenet-1k"]).average == "normalised"


# learning on digits


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    trainer = CondensationTrainer(
        "gvbsm", "digits", output_dir=str(tmp_path_factory.mktemp("gvbsm")), ipc=3, max_per_class=40, max_test=50,
        base_model="convnet_d1,convnet_d2", squeeze_epochs=6, squeeze_lr=0.05, threads=1, precision="fp32", **SETTINGS,
    )  # fmt: skip
    return trainer.prepare()


def synthesise(context, folder, seed=0, flip_sign=False, **settings):
    method = create_method("gvbsm", **{**SETTINGS, **settings})
    if flip_sign:
        objective = method.objective

        def flipped(context, ready=None):
            made = objective(context, ready)
            terms = made.terms
            made.terms = lambda *a: (Term(-t.loss, t.name, t.logs) for t in terms(*a))
            return made

        method.objective = flipped
    return Engine(Accelerator(cpu=True), folder, 10**9).run(method, replace(context, key=context.key / seed))


@torch.no_grad()
def right(context, made) -> float:
    """Smallest share of images, over the observers, that are taken for their class."""
    return min(
        float((member.model(to_unit(made.images)).argmax(1) == made.labels).float().mean())
        for member in context.observers
    )


@torch.no_grad()
def losses(context, made, images) -> tuple[float, float]:
    """(cross-entropy, matching) over views that synthesis did not draw."""
    objective = create_method("gvbsm", **{**SETTINGS, "stat_momentum": 0.0, "drop_rate": 0.0}).objective(context)
    unit, key, seen = to_unit(images), Key(0, "held-out views"), []
    objective.start(None, unit, made.labels, key)
    for number in range(10):
        (term,) = objective.terms(unit, made.labels, number, key / number)
        seen.append([float(term.logs[name]) for name in ("ce", "matching")])
        objective.after(unit, number, key / number)
    return tuple(torch.tensor(seen).mean(0).tolist())


def test_noise_becomes_images_that_all_observers_know(context, tmp_path):
    """Cross-entropy and the distance to the real statistics fall, in unseen views; with a flipped sign they do not."""

    def passes(made) -> bool:
        (ce_before, matching_before), (ce, matching) = (losses(context, made, i) for i in (made.initial, made.images))
        return ce < 0.3 * ce_before and matching < 0.8 * matching_before and right(context, made) >= 0.9

    for seed in range(2):
        made = synthesise(context, tmp_path / f"{seed}", seed)
        assert passes(made), (losses(context, made, made.initial), losses(context, made, made.images))
        assert (made.origin == -1).all()
        assert not passes(synthesise(context, tmp_path / f"{seed}-flipped", seed, flip_sign=True))


def test_variants_run(context, tmp_path):
    few = {"iterations": 3, "shard_size": 15}
    plain = synthesise(context, tmp_path / "plain", **few)
    assert torch.equal(plain.images, synthesise(context, tmp_path / "again", **few).images)
    chained = synthesise(context, tmp_path / "chained", stat_ema_persist=True, **few)
    assert torch.equal(plain.images[:15], chained.images[:15])
    assert not torch.equal(plain.images[15:], chained.images[15:])
    real = synthesise(context, tmp_path / "real", init="real", **few)
    assert (real.origin >= 0).all() and torch.equal(real.initial, context.train.images(real.origin))
    normalised = synthesise(context, tmp_path / "normalised", densification_normalised=True, **few)
    assert not torch.equal(plain.images, normalised.images)


def test_densification_keeps_images_of_a_class_apart(context, tmp_path):
    """Normalised and with a large weight it is at work: images of a class are less alike than without it."""

    def alike(made) -> float:
        rows = to_unit(made.images).flatten(1)
        rows = F.normalize(rows - rows.mean(0))
        return float(torch.stack([(r @ r.T).mean() for r in rows.split(3)]).mean())

    with_it, without = (
        synthesise(context, tmp_path / name, densification_weight=weight, densification_normalised=True)
        for name, weight in (("with", 10.0), ("without", 0.0))
    )
    assert alike(with_it) < 0.8 * alike(without)
    assert right(context, with_it) >= 0.9


def test_objectives_have_the_term_only_where_it_weighs(context):
    for weight, kind in ((1.0, DensifiedStatistics), (0.0, FeatureStatistics)):
        assert type(create_method("gvbsm", densification_weight=weight).objective(context)) is kind
