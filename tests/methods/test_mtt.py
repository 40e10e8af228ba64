"""MTT and TESLA: learning that fails with the sign flipped, assigned labels, segments, exact resume and shares."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hf_condense import create_method
from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.errors import ConfigError
from hf_condense.models.training import Batch, FitRecipe, evaluate_top1, fit
from hf_condense.objectives import inner_loop
from hf_condense.objectives.inner_loop import unroll_bytes
from hf_condense.plan import SetSpec
from tests.matching import CPU, context, networks, stopped_and_resumed, synthesise

NETWORK = "convnet_d2_w16"
SMALL = {
    "lr": 3.0, "lr_lr": 1e-4, "student_lr": 0.05, "student_steps": 10, "span": 2, "first_epochs": 6, "experts": 3,
    "expert_lr": 0.05, "expert_batch": 64, "families": (),
}  # fmt: skip
SHORT = {
    "iterations": 6, "lr": 30.0, "lr_lr": 1e-3, "student_steps": 5, "student_batch": 8, "first_epochs": 2, "span": 1,
    "experts": 2, "expert_lr": 0.05, "expert_batch": 100,
}  # fmt: skip


def ready(method: str, ipc: int = 2, **settings):
    """A method, the context, what is ready for its objective, and the shard."""
    made, given = create_method(method, **{**SHORT, **settings}), context(ipc=ipc, name=NETWORK)
    shard = made.plan(10, ipc).groups[-1][0]
    return made, given, made.ready(shard, given, None), shard


def begun(method: str, ipc: int = 2, **settings):
    """An objective at its first step, and images and labels for it."""
    made, given, experts, shard = ready(method, ipc, **settings)
    objective, labels = made.objective(given, experts), torch.tensor(shard.labels)
    images = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    objective.start(shard, images, labels, given.key)
    return objective, images, labels


def test_the_unroll_is_taken_where_its_graph_fits(monkeypatch):
    """The bound lies just below the estimate of five steps."""
    objective = begun("mtt")[0]
    assert objective.segments.gradient == "unroll"
    whole = unroll_bytes(objective.network, 8, objective.segments.batch, 5)
    monkeypatch.setattr(inner_loop, "UNROLL_BYTES", whole - 1)
    for settings, taken in (({}, "adjoint"), ({"student_steps": 4}, "unroll"), ({"gradient": "unroll"}, "unroll")):
        assert begun("mtt", **settings)[0].segments.gradient == taken
    assert begun("tesla", student_steps=1)[0].segments.gradient == "adjoint"


def test_defaults_are_those_of_the_scripts():
    mtt, tesla = create_method("mtt"), create_method("tesla")
    assert (mtt.settings.gradient, mtt.settings.iterations, mtt.labels_by, mtt.protocol("digits")) == (
        "auto", 5000, None, "mtt",
    )  # fmt: skip
    assert (tesla.settings.gradient, tesla.settings.iterations, tesla.labels_by) == (
        "adjoint",
        10000,
        "the last expert",
    )
    assert tesla.protocol("cifar10") == "tesla" and create_method("tesla", zca=True).protocol("cifar10") == "tesla-zca"
    recipe = create_method("mtt", zca=True).recipe(None, SetSpec(10, 1, 32))
    assert (recipe.space, recipe.optimizer, recipe.clamp_every, recipe.rates) == ("whitened", "sgd", 0, {"lr": 1e-5})
    assert mtt.recipe(None, SetSpec(10, 1, 32)).space == "normalised" and mtt.settings.trained_epochs == 21


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"expert_epochs": 20}, "expert_epochs=20: expected 21 or more"),
        ({"gradient": "eq6"}, "gradient"),
        ({"pairs": 0}, "pairs"),
        ({"families": ("shear",)}, "families"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        create_method("mtt", **wrong)


def test_students_trained_on_the_images_gain_ten_points_and_lose_with_the_sign_flipped(tmp_path):
    """The whole check, of four seeds and 120 iterations, is `benchmarks.study mtt-digits`."""
    splits = open_source(DataSettings("digits"), Key(0, "data"))
    given = replace(context(ipc=1, name=NETWORK), train=splits.train, fresh=networks(splits.train, NETWORK))
    test = splits.test.images(), torch.from_numpy(splits.test.labels)

    def student(images, labels, rate: float) -> float:
        network = given.fresh(Key(0, "student"))
        fit(
            network, lambda epoch: [Batch(images, labels)], lambda logits, batch: F.cross_entropy(logits, batch.labels),
            FitRecipe(100, rate), device=CPU, key=Key(0),
        )  # fmt: skip
        return evaluate_top1(network, *test, CPU)

    right, wrong = (
        synthesise("mtt", given, tmp_path / str(sign), sign, iterations=steps, **SMALL)
        for sign, steps in ((1, 45), (-1, 15))
    )
    gained = student(right.pixels, right.labels, right.learned["lr"][0])
    random = student(right.initial.float() / 255, right.labels, SMALL["student_lr"])
    lost = student(wrong.pixels, wrong.labels, wrong.learned["lr"][0])
    said = f"random {random:.3f}, MTT {gained:.3f}, flipped {lost:.3f}; rate {right.learned['lr'][0]:.3f}"
    assert gained > random + 0.1, said
    assert lost < random, said


@pytest.mark.parametrize("method", ["mtt", "tesla"])
def test_a_run_stopped_between_two_steps_goes_on_exactly(method, tmp_path):
    given, long = context(ipc=2, name=NETWORK), SHORT | {"iterations": 20}
    whole, twin = (synthesise(method, given, tmp_path / name, **long) for name in ("whole", "twin"))
    again = stopped_and_resumed(method, given, tmp_path / "again", 1, every=8, **long)
    for other in (twin, again):
        assert torch.equal(other.pixels, whole.pixels) and other.learned == whole.learned
    assert whole.learned["lr"] != [0.01] and not torch.equal(whole.images, whole.initial)
    if method == "tesla":
        assert torch.equal(again.soft_labels, whole.soft_labels)
        assert torch.allclose(whole.soft_labels.sum(1), torch.ones(20)) and whole.soft_labels.max() < 1
    else:
        assert whole.soft_labels is None


def test_processes_share_the_stretches_of_a_step():
    objective, images, labels = begun("tesla", pairs=3)
    found = {}
    for share in ((0, 1), (0, 2), (1, 2), (3, 4)):
        objective.share = share
        shown = images.clone().requires_grad_(True)
        objective.learnables()["lr"].grad = None
        for term in objective.terms(shown, labels, 0, Key(7)):
            term.loss.backward()
        found[share] = shown.grad, objective.learnables()["lr"].grad
        if share == (0, 1):
            assigned = objective.learnables()["soft_labels"].clone()
        elif share == (0, 2):  # the process that publishes them
            assert torch.equal(objective.learnables()["soft_labels"], assigned)
    for whole, a, b in zip(found[0, 1], found[0, 2], found[1, 2]):
        largest = float(whole.abs().max())
        assert torch.allclose(whole, a + b, rtol=1e-5, atol=1e-5 * largest)
        assert not torch.allclose(whole, a, rtol=1e-5, atol=1e-2 * largest)
    assert found[3, 4] == (None, None)  # more processes than segments


def test_stretches_begin_and_end_where_they_should():
    objective, _, _ = begun("mtt", first_epochs=2, span=2)
    known = {objective.experts.snapshot(e, t).sum().item(): (e, t) for e in range(2) for t in range(4)}
    drawn = {
        tuple(known[w.sum().item()] for w in objective._segment(0, Key(i), torch.device("cpu"))) for i in range(60)
    }
    assert drawn == {((e, t), (e, t + 2)) for e in (0, 1) for t in (0, 1)}


def test_a_student_goes_through_the_images_pass_after_pass():
    objective, images, _ = begun("mtt", student_batch=8, student_steps=7)
    rows = [batch.rows for batch in objective._batches(images, Key(0))]
    assert [len(r) for r in rows] == [8, 8, 4, 8, 8, 4, 8]
    passes = torch.cat(rows[:3]), torch.cat(rows[3:6])
    assert all(torch.equal(p.sort().values, torch.arange(20)) for p in passes) and not torch.equal(*passes)
    # images of earlier stages are seen in between, in batches of the same size
    assert [len(b.rows) for b in objective._batches(torch.cat((images, images)), Key(0))] == [8, 8, 8, 8, 8, 8, 8]
    assert len(begun("mtt", student_batch=None)[0]._batches(images, Key(0))[0].rows) == 20


def test_assigned_labels_are_what_the_target_says_of_the_images_as_they_are():
    objective, images, labels = begun("tesla")
    next(iter(objective.terms(images.clone().requires_grad_(True), labels, 0, Key(3))))
    target = objective._segment(0, Key(3) / "stretch" / 0, torch.device("cpu"))[1]
    objective.network.load_(target)
    with torch.no_grad():
        said = objective.network.network(images).softmax(1)
    assert torch.allclose(objective.learnables()["soft_labels"], said, atol=1e-5)
    assert "soft_labels" not in begun("mtt")[0].learnables()


def test_training_of_experts_is_part_of_the_estimate():
    assert create_method("mtt", experts=4, first_epochs=3, span=2).images_before(100) == 4 * 4 * 100
    assert create_method("mtt", experts=4, expert_folder="there").images_before(100) == 0
    staged = create_method("pdd", base_method="mtt", stages=3, experts=4, expert_epochs=10, first_epochs=3)
    assert staged.images_before(100) == 3 * 4 * 10 * 100
    assert create_method("edc").images_before(100) == 0
