"""DATM: stretches that grow, labels that are learned, first images that an expert knows; its gates with the sign flipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_condense import create_method
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.files import load_tensors
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.inner_loop import Batch, InnerLoop, end_distance
from hf_condense.objectives.learned_labels import LearnedLabels, right_logits
from hf_condense.objectives.trajectory import TrajectorySegments
from hf_condense.plan import Recipe, SetSpec
from hf_condense.selection.real import CHUNK, preferred_rows
from hf_condense.shard_optimiser import make_optimiser
from tests.matching import context, digits, stopped_and_resumed, synthesise
from tests.methods.test_mtt import NETWORK, SHORT

OWN = SHORT | {"lr_labels": 1.0, "first_epochs": 3, "threshold": None}
CPU, KEY = torch.device("cpu"), Key(0, "datm")


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
    """Experts are trained once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_CONDENSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def begun(method: str = "datm", dtype=torch.float32, ipc: int = 2, **settings):
    """An objective at its first step, and images and labels for it."""
    own = (OWN if method == "datm" else SHORT | {"first_epochs": 3}) | settings
    made, given = create_method(method, **own), context(ipc=ipc, name=NETWORK)
    shard = made.plan(10, ipc).groups[-1][0]
    objective, labels = made.objective(given, made.ready(shard, given, None)), torch.tensor(shard.labels)
    images = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    objective.start(shard, images, labels, KEY)
    return objective, images, labels


def pulled(objective, images, labels, step: int = 0) -> dict[str, torch.Tensor]:
    """The loss of a step, and its gradients."""
    shown, total = images.clone().requires_grad_(True), 0.0
    for value in objective.learnables().values():
        value.grad = None
    for term in objective.terms(shown, labels, step, KEY):
        term.loss.backward()
        total = total + term.loss.detach()
    return {"loss": total, "images": shown.grad} | {n: v.grad for n, v in objective.learnables().items()}


def test_without_its_parts_it_is_mtt():
    plain = {"learn_labels": False, "init": "real", "threshold": None}
    mtt, datm = (pulled(*begun(method, **own)) for method, own in (("mtt", {}), ("datm", plain)))
    assert mtt.keys() == datm.keys() and all(torch.equal(mtt[name], datm[name]) for name in mtt)
    # labels that are the classes are those classes
    objective, images, labels = begun()
    with torch.no_grad():
        objective.learnables()["soft_logits"].copy_(1e4 * F.one_hot(labels, 10))
    learned = pulled(objective, images, labels)
    for name in mtt:
        torch.testing.assert_close(learned[name], mtt[name], rtol=1e-4, atol=1e-6)
    made = create_method("datm", **plain)
    assert (made.labels_by, made.protocol("digits"), made.recipe(None, SetSpec(10, 1, 8)).momenta) == (None, "mtt", {})
    assert create_method("datm").protocol("digits") == create_method("datm").staged_protocol("digits") == "datm"


def test_stretches_begin_where_they_may_and_grow():
    late = TrajectorySegments(60, 2, 1, 1, skipped_epochs=40)
    assert late.starts(0) == late.starts(10**6) == range(40, 60)
    drawn = [int((KEY / i / "epoch").numpy().integers(40, 60)) for i in range(10_000)]
    counts = np.bincount(drawn, minlength=60)
    assert counts[:40].sum() == 0
    assert ((counts[40:] - 500) ** 2 / 500).sum() < 43.8  # the 99.9 % point of chi-square with 19 degrees of freedom
    grown = TrajectorySegments(20, 2, 1, 1, grow_from=10, grow_steps=1000)
    tops = [grown.starts(step).stop for step in range(1100)]
    assert (tops[0], tops[100], tops[999], tops[1000], tops[-1]) == (10, 11, 19, 20, 20) and tops == sorted(tops)


def test_the_objective_draws_from_these_stretches():
    objective, _, _ = begun(skipped_epochs=1, grow_from=2, grow_steps=10)
    known = {objective.experts.snapshot(e, t).sum().item(): t for e in range(2) for t in range(4)}

    def first(step: int) -> set[int]:
        return {known[objective._segment(step, KEY / i, CPU)[0].sum().item()] for i in range(40)}

    assert first(0) == {1} and first(10) == {1, 2}


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_the_gradient_of_the_logits_is_that_of_the_unroll_and_of_finite_differences(steps):
    """Batches of 8 of 20 images, so that images share them; a constant added to an image's logits changes nothing."""
    found = {}
    for kind in ("adjoint", "unroll"):
        objective, images, labels = begun(dtype=torch.float64, student_steps=steps, gradient=kind)
        found[kind] = pulled(objective, images, labels)
    adjoint, unroll = found["adjoint"]["soft_logits"], found["unroll"]["soft_logits"]
    assert float((adjoint - unroll).norm() / unroll.norm()) < 1e-10
    assert float(adjoint.sum(1).abs().max()) < 1e-12 * float(adjoint.abs().max()) * 1e3
    logits, ends = objective.learnables()["soft_logits"], []
    place = divmod(int(unroll.abs().argmax()), 10)
    for moved in (1e-5, -1e-5):
        with torch.no_grad():
            logits[place] += moved
        ends.append(float(pulled(objective, images, labels)["loss"]))
        with torch.no_grad():
            logits[place] -= moved
    numeric = (ends[0] - ends[1]) / 2e-5
    assert abs(numeric - float(unroll[place])) < 1e-4 * abs(numeric)
    with torch.no_grad():
        logits[3] += 5.0
    torch.testing.assert_close(pulled(objective, images, labels)["loss"], found["unroll"]["loss"], rtol=1e-12, atol=0)


def test_one_step_of_a_linear_network_by_hand():
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).double()
    network = FlatNetwork(ImageModel(body, num_classes=3, channels=1))
    draw = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 12, generator=draw, dtype=torch.float64)
    images = torch.randn(5, 1, 2, 2, generator=draw, dtype=torch.float64)
    logits = torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    loop, rate = InnerLoop(network, start, target, [Batch(torch.arange(5), lambda x: x)]), torch.tensor(0.3).double()
    end_distance(loop, images, logits.softmax(1), rate, "adjoint").backward()
    x, said = images.flatten(1), logits.detach().softmax(1)
    weights = start.view(3, 4)
    moved = weights - rate * ((x @ weights.T).softmax(1) - said).T @ x / 5
    pull = 2 * (moved - target.view(3, 4)) / (start - target).square().sum()
    to_said = rate / 5 * x @ pull.T
    by_hand = said * (to_said - (said * to_said).sum(1, keepdim=True))
    torch.testing.assert_close(logits.grad, by_hand, rtol=1e-12, atol=1e-14)


def test_labels_begin_with_the_logits_of_experts_that_are_right():
    class Told:
        """An expert's weights are its logits."""

        def logits(self, weights, images):
            return weights

    a, b = torch.tensor([[3.0, 1], [2, 0], [5, 4]]), torch.tensor([[1.0, 2], [4, 0], [9, 2]])
    found = right_logits(Told(), (a, b), torch.zeros(3, 1), torch.tensor([0, 0, 1]))
    # the first is right about image 0, both about image 1, none about image 2
    assert torch.equal(found, torch.tensor([[3.0, 1], [3, 0], [7, 3]]))


def test_what_begins_is_in_the_objective():
    objective, images, labels = begun(label_epoch=2)
    seen = objective.network.network.normalise(images)
    said = torch.stack([objective.network.logits(objective.experts.snapshot(e, 2), seen) for e in range(2)])
    right = (said.argmax(2) == labels)[..., None]
    assert 0 < right.sum() < right.numel()
    wanted = torch.where(right.any(0), (said * right).sum(0) / right.sum(0).clamp(min=1), said.mean(0))
    torch.testing.assert_close(objective.learnables()["soft_logits"].detach(), wanted)
    (term,) = objective.terms(images.requires_grad_(True), labels, 0, KEY)
    assert term.logs["relabelled"] == (wanted.argmax(1) != labels).sum()


def test_labels_of_earlier_stages_stay():
    objective, images, labels = begun()
    known = torch.rand(6, 10).softmax(1)
    objective.earlier_labels = known
    objective.start(None, images, labels, KEY)
    assert objective.learnables()["soft_logits"].shape == (14, 10)
    said = objective._said(labels, None, images, 0)
    assert torch.equal(said[:6], known) and said.shape == (20, 10)
    assert all(grad.abs().sum() > 0 for grad in pulled(objective, images, labels).values())


def test_a_segment_beyond_the_threshold_pulls_nothing():
    loss = float(pulled(*begun())["loss"])
    near, far = (pulled(*begun(threshold=loss * share)) for share in (1.01, 0.99))
    assert all(value.abs().sum() > 0 for value in near.values())
    assert all(value.abs().sum() == 0 for value in far.values())


def test_momenta_are_those_of_two_optimisers():
    made = create_method("datm", lr=3.0, lr_labels=2.0, lr_lr=0.1)
    recipe = made.recipe(None, SetSpec(10, 1, 8))
    draw = torch.Generator().manual_seed(0)
    first = {name: torch.randn(4, generator=draw) for name in ("z", "lr", "soft_logits")}
    mine, other = ({n: v.clone().requires_grad_(True) for n, v in first.items()} for _ in range(2))
    one = make_optimiser(mine["z"], {n: mine[n] for n in ("lr", "soft_logits")}, recipe)
    rates = {"z": (3.0, 0.5), "lr": (0.1, 0.5), "soft_logits": (2.0, 0.9)}
    apart = [torch.optim.SGD([other[n]], rate, momentum=m) for n, (rate, m) in rates.items()]
    for _ in range(4):
        for name in first:
            mine[name].grad = torch.randn(4, generator=draw)
            other[name].grad = mine[name].grad.clone()
        for optimiser in (one, *apart):
            optimiser.step()
    assert all(torch.equal(mine[name], other[name]) for name in first)
    assert Recipe(1, 1.0).momenta == {}


def test_first_images_are_those_that_the_expert_knows():
    given, method = context(ipc=5, name=NETWORK), create_method("datm", **OWN)
    shard = method.plan(10, 5).groups[0][8]
    experts = method.ready(shard, given, None)
    assert experts.experts == 1
    begun = method.start(shard, given, experts)
    network = method.architecture(given)
    seen = network.network.normalise(begun.images / 255)
    right = network.logits(experts.snapshot(0, experts.epochs), seen).argmax(1) == 8
    every = torch.cat([given.train.images(given.train.rows_of(8))]) / 255
    known = network.logits(experts.snapshot(0, experts.epochs), network.network.normalise(every)).argmax(1) == 8
    assert right.all() and 5 <= known.sum() < len(known), "else any choice would do"
    assert (given.train.labels[begun.origin] == 8).all() and len({*begun.origin.tolist()}) == 5
    real = create_method("datm", **OWN, init="real")
    plain = create_method("mtt").start(shard, given)
    assert real.ready(shard, given, None) is None and torch.equal(real.start(shard, given).images, plain.images)


def test_other_images_fill_a_class_that_has_too_few():
    source, seen = digits(), []
    rows = source.rows_of(3)

    def third(part):
        seen.append(len(part))
        return part % 3 == 0

    liked = [r for r in rows.tolist() if r % 3 == 0]
    few, none = preferred_rows(source, 3, 4, KEY, third)
    assert none == 0 and set(few.tolist()) <= set(liked) and seen == [len(rows)] and len(rows) <= CHUNK
    many, others = preferred_rows(source, 3, len(liked) + 2, KEY, third)
    assert others == 2 and set(liked) <= set(many.tolist()) and len({*many.tolist()}) == len(liked) + 2


def judged(given, made, soft: torch.Tensor) -> float:
    """Mean distance on segments that synthesis did not draw, from these images with these labels."""
    method = create_method("datm", **OWN)
    objective = method.objective(given, method.ready(method.plan(10, 1).groups[-1][0], given, None))
    objective.start(None, made.pixels, made.labels, KEY)
    with torch.no_grad():
        objective.learnables()["soft_logits"].copy_(soft.log())
        objective.learnables()["lr"].copy_(torch.tensor(0.05))
    terms = (t for i in range(12) for t in objective.terms(made.pixels, made.labels, 0, KEY / "judge" / i))
    return sum(float(t.loss.detach()) for t in terms) / 12


@pytest.mark.parametrize("what", ["images", "labels"])
def test_students_come_nearer_to_experts_and_farther_away_with_the_sign_flipped(what, tmp_path):
    given = context(ipc=1, name=NETWORK)
    own = OWN | {"student_lr": 0.05, "iterations": 10, "lr_lr": 0.0}
    own |= {"lr": 30.0, "lr_labels": 0.0} if what == "images" else {"lr": 1e-9, "lr_labels": 1.0}
    right, wrong = (synthesise("datm", given, tmp_path / str(sign), sign, **own) for sign in (1, -1))
    first = synthesise("datm", given, tmp_path / "first", **own | {"iterations": 1, "lr": 1e-9, "lr_labels": 0.0})
    near, begin, far = (judged(given, made, made.soft_labels) for made in (right, first, wrong))
    assert near < 0.98 * begin < begin < far, f"{near:.4f} {begin:.4f} {far:.4f}"


def test_a_run_stopped_between_two_steps_goes_on_exactly(tmp_path):
    given, own = context(ipc=2, name=NETWORK), OWN | {"iterations": 12, "grow_from": 1, "grow_steps": 8}
    whole = synthesise("datm", given, tmp_path / "whole", **own)
    again = stopped_and_resumed("datm", given, tmp_path / "again", 1, every=5, **own)
    assert torch.equal(again.pixels, whole.pixels) and torch.equal(again.soft_labels, whole.soft_labels)
    logits = load_tensors(tmp_path / "whole" / "shards" / "datm-00000.safetensors")[0]["learnable.soft_logits"]
    assert torch.equal(whole.soft_labels, logits.softmax(1)) and whole.learned.keys() == {"lr"}


def test_the_learned_labels_are_published_and_students_learn_them(tmp_path):
    from hf_condense import CondensationTrainer, DistilledDataset
    from tests.test_resume import OWN as REGISTERED
    from tests.test_resume import TINY

    own = TINY | REGISTERED["datm"] | {"regimes": "hard,stored", "protocol": "datm", "baselines": "random"}
    run = CondensationTrainer("datm", output_dir=str(tmp_path), **own)
    folder = run.run()
    data = DistilledDataset.load(folder)
    logits = load_tensors(tmp_path / "shards" / "datm-00000.safetensors")[0]["learnable.soft_logits"]
    torch.testing.assert_close(data.soft_labels, logits.softmax(1).half(), rtol=0, atol=0)
    assert data.content["soft_label"]["by"] == "learned with the images"
    rows = {(row["row"], row["regime"]) for row in data.content["scores"]["table"]}
    assert {("datm", "hard"), ("datm", "stored")} <= rows, rows


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"first_epochs": 4, "skipped_epochs": 4}, "invalid skipped_epochs=4: expected 0 to 3"),
        ({"first_epochs": 9, "skipped_epochs": 4, "grow_from": 4}, "invalid grow_from=4: expected 5 to 9"),
        ({"assign_labels": True}, "assign_labels.*tesla"),
        ({"label_epoch": 99}, "invalid label_epoch=99: expected 0 to 21"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        create_method("datm", **wrong)


def test_learned_labels_are_an_objective_of_their_own():
    assert isinstance(begun()[0], LearnedLabels) and not isinstance(begun(learn_labels=False)[0], LearnedLabels)
    assert replace(TrajectorySegments(1, 1, 1, 1)).threshold is None
