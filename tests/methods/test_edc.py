"""EDC on digits: what synthesis promises, and each gate failing when the objective's sign is flipped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from hf_condense import CondensationTrainer, create_method
from hf_condense.data.formation import decode
from hf_condense.data.pixels import to_unit
from hf_condense.data.randomness import Key
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError
from hf_condense.objectives.base import Term
from tests.profiled import peak_bytes_of_tensors

SEEDS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> CondensationTrainer:
    return CondensationTrainer(
        "edc", "digits", output_dir=str(tmp_path_factory.mktemp("edc")), ipc=5, max_per_class=60, max_test=200,
        base_model="convnet_d1,cifar_wrn16_2", squeeze_epochs=5, squeeze_lr=0.05, threads=1, precision="fp32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def context(base):
    return base.prepare()


def synthesise(context, folder, seed=0, flip_sign=False, ipc=5, **settings):
    method = create_method("edc", **{"iterations": 30, "shard_size": 50, "match_weight": 0.1, **settings})
    if flip_sign:
        objective = method.objective

        def flipped(context, ready=None):
            made = objective(context, ready)
            terms = made.terms
            made.terms = lambda *a: (Term(-t.loss, t.name, t.logs) for t in terms(*a))
            return made

        method.objective = flipped
    changed = replace(context, key=context.key / seed, ipc=ipc)
    return Engine(Accelerator(cpu=True), folder, 10**9).run(method, changed)


@torch.no_grad()
def cross_entropy(context, made, images) -> list[float]:
    return [float(F.cross_entropy(m.model(to_unit(images)), made.labels)) for m in context.observers]


def mismatch(context, made, images) -> float:
    """Matching loss as synthesis sees images: under its crops and flips, averaged over views that it did not draw."""
    settings = {"stat_momentum": 0.0, "flatness_weight": 0.0}
    objective = create_method("edc", **settings).objective(context)
    unit, key = to_unit(images), Key(0, "held-out views")
    objective.start(None, unit, made.labels, key)
    seen = []
    for step in range(40):
        (term,) = objective.terms(unit, made.labels, step, key / step)
        seen.append(float(term.logs["matching"]))
        objective.after(unit, step, key / step)
    return sum(seen) / len(seen)


@pytest.mark.parametrize(
    ("gate", "settings"),
    [
        ("cross_entropy", {"match_weight": 0.01, "iterations": 60}),
        ("mismatch", {"match_weight": 1.0, "iterations": 100}),
    ],
)
def test_optimised_images_are_better_than_first_ones(context, tmp_path, gate, settings):
    """On every observer they are easier to classify, and they match the real statistics better in unseen views."""

    def passes(made) -> bool:
        if gate == "mismatch":
            return mismatch(context, made, made.images) < mismatch(context, made, made.initial)
        pairs = zip(cross_entropy(context, made, made.images), cross_entropy(context, made, made.initial))
        return all(after < before for after, before in pairs)

    for seed in range(SEEDS):
        assert passes(synthesise(context, tmp_path / f"{seed}", seed, **settings)), f"seed {seed}"
        assert not passes(synthesise(context, tmp_path / f"{seed}-flipped", seed, flip_sign=True, **settings))


def test_noise_ends_further_from_the_real_statistics_than_real_images(context, tmp_path):
    for seed in range(SEEDS):
        noise = synthesise(context, tmp_path / f"noise{seed}", seed, init="noise")
        real = synthesise(context, tmp_path / f"real{seed}", seed)
        assert mismatch(context, noise, noise.images) > mismatch(context, real, real.images)


def test_equal_seeds_make_equal_images_and_other_seeds_others(context, tmp_path):
    first, again, other = (synthesise(context, tmp_path / n, s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert (first.origin >= 0).all() and len(set(first.origin.tolist())) == 50


def test_rded_first_images_and_official_variant_run(context, tmp_path):
    made = synthesise(context, tmp_path / "rded", init="rded", rded_factor=2, rded_candidates=20, iterations=2)
    assert made.images.shape == (50, 1, 8, 8)
    official = {"stat_ema_zero_init": True, "stat_ema_persist": True, "flatness_official": True, "shard_size": 20}
    chained = synthesise(context, tmp_path / "official", iterations=2, **official)
    free = synthesise(context, tmp_path / "free", iterations=2, **{**official, "stat_ema_persist": False})
    assert torch.equal(chained.images[:20], free.images[:20]) and not torch.equal(
        chained.images[20:], free.images[20:]
    )


def test_nothing_but_pixels_gets_gradients(context, tmp_path):
    synthesise(context, tmp_path, iterations=2)
    assert all(p.grad is None and not p.requires_grad for m in context.observers for p in m.model.parameters())


def test_peak_memory_does_not_grow_with_ipc(context, tmp_path):
    """At the same shard size, five times the images cost no more memory at once."""

    def peak(ipc: int, shard_size: int) -> int:
        folder = tmp_path / f"{ipc}-{shard_size}"
        return peak_bytes_of_tensors(lambda: synthesise(context, folder, ipc=ipc, iterations=3, shard_size=shard_size))

    few, many, large = peak(10, 100), peak(50, 100), peak(50, 500)
    said = f"{few / 1e6:.1f} MB at IPC 10, {many / 1e6:.1f} MB at IPC 50, {large / 1e6:.1f} MB in one shard"
    assert many < 1.1 * few, said
    assert large > 3 * few, f"the measure sees nothing: {said}"


@pytest.mark.parametrize("init", ["real", "medoids", "easy"])
def test_several_whole_images_fit_into_a_first_one(context, init):
    given = replace(context, ipc=3)
    method = create_method("edc", formation_factor=2, init=init)
    shard = method.plan(10, 3).groups[0][7]
    start = method.start(shard, given)
    rows = start.origin
    assert rows.shape == (3, 4) and len({*rows.flatten().tolist()}) == 12
    assert {*given.train.labels[rows.flatten()]} == {7}
    size = given.image_size
    whole = to_unit(given.train.images(rows[1]))
    shrunk = F.interpolate(whole, (size // 2, size // 2), mode="bilinear", antialias=True)
    cells = to_unit(start.images[1:2]).unfold(2, size // 2, size // 2).unfold(3, size // 2, size // 2)
    cells = cells.flatten(2, 3).transpose(1, 2)[0]
    assert (cells - shrunk).abs().max() < 1 / 255 + 1e-6, "cell k is image k, scaled down with smoothing"
    assert method.real_images_each == 4 and "--formation_factor" in method.fewer


def test_medoids_are_the_coreset_of_that_name(context):
    given = replace(context, ipc=3)
    coreset = create_method("coreset", selection="k_medoids")
    shard = coreset.plan(10, 3).groups[0][4]
    mine = create_method("edc", init="medoids").start(shard, given)
    assert mine.origin.tolist() == coreset.start(shard, given).origin.tolist()


def test_what_students_enlarge_is_optimised_as_they_see_it(context):
    """The loss of stored images is that of the training images that they hold, flatness and its average included."""
    plain, formed = (create_method("edc", match_weight=0.1, formation_factor=f).objective(context) for f in (1, 2))
    key, size = Key(0, "formed"), context.image_size
    images = torch.rand(20, context.train.channels, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 10
    plain.start(None, decode(images, 2), labels.repeat(4), key)
    formed.start(None, images, labels, key)
    for step in range(3):
        seen, stored = decode(images, 2), images.clone().requires_grad_()
        (mine,) = formed.terms(stored, labels, step, key / step)
        (theirs,) = plain.terms(seen, labels.repeat(4), step, key / step)
        assert torch.equal(mine.loss, theirs.loss)
        (moved,) = torch.autograd.grad(mine.loss, stored)
        images = images - 5 * moved
        formed.after(images, step, key / step)
        plain.after(decode(images, 2), step, key / step)
    assert torch.equal(formed.flat_images, plain.flat_images) and len(formed.flat_images) == 80


def test_sets_of_tiles_are_trained_on_enlarged_and_fail_with_the_sign_flipped(context, tmp_path):
    own = {"formation_factor": 2, "init": "easy", "iterations": 60, "crop_min": 1.0, "ipc": 2, "match_weight": 0.01}

    def away(images, labels) -> float:
        with torch.no_grad():
            shown = decode(to_unit(images), 2)
            return float(F.cross_entropy(context.observers[0].model(shown), labels.repeat(4)))

    made = synthesise(context, tmp_path / "a", **own)
    flipped = synthesise(context, tmp_path / "b", flip_sign=True, **own)
    first = away(made.initial, made.labels)
    assert away(made.images, made.labels) < 0.9 * first < first < away(flipped.images, flipped.labels)


def test_titles_name_what_differs_from_the_paper():
    title = create_method("edc").info.title
    assert create_method("edc", init="medoids").info.title == f"{title}, medoids start"
    assert create_method("edc", init="easy", formation_factor=2).info.title == f"{title}, easy start, 4 tiles an image"


@pytest.mark.parametrize("init", ["noise", "rded"])
def test_only_whole_images_are_put_into_tiles(init):
    with pytest.raises(ConfigError, match=f"formation_factor=2.* 1 where init is {init}.*another --init"):
        create_method("edc", init=init, formation_factor=2)


def test_tiles_divide_the_side(context):
    with pytest.raises(ConfigError, match="formation_factor=3.*a divisor of 8"):
        create_method("edc", formation_factor=3).check(replace(context, ipc=1))
