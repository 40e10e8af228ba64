"""PDD: one stage is the base, earlier stages stand still, chains learn them in order, and any base method goes with it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hf_condense import create_method
from hf_condense.config import DataSettings, SqueezeSettings
from hf_condense.data.pixels import to_unit
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.engine import Engine
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.student_trainer import StudentTrainer
from hf_condense.evaluation.students import StudentScorer
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.files import load_tensors
from hf_condense.methods import METHODS, list_methods, method_class
from hf_condense.methods.base import Context
from hf_condense.methods.pdd.chains import ChainedNetworks, Curriculum, ReplayedNetworks, StageData
from hf_condense.methods.pdd.stage import StageContext
from hf_condense.methods.pdd.stage_source import forgetting_counts, harder, kept_rows, narrowed, unused
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.pool import PoolTraining, squeeze
from hf_condense.models.statistics import RealStatistics
from hf_condense.models.statistics_files import write_statistics
from hf_condense.objectives.union import Frozen, Union
from hf_condense.plan import SetSpec
from hf_condense.processes import Processes
from hf_condense.run.resolve import load_preset, preset_names
from hf_condense.selection.scores import forgetting
from tests import forked
from tests.matching import CPU, digits, networks, stopped_and_resumed, synthesise
from tests.matching import context as plain_context
from tests.test_resume import lives_until_done

KEY = Key(0, "test")
TRAJECTORIES = {
    "iterations": 2, "lr": 3.0, "student_steps": 2, "first_epochs": 1, "experts": 2, "expert_lr": 0.05,
    "expert_batch": 40,
}  # fmt: skip
BASES = {  # of every family: distributions, gradients, trajectories, frozen pools, selections
    "dm": {"iterations": 4, "real_batch": 8, "classes_per_shard": 4},
    "dc": {"iterations": 2, "outer_loop": 2, "inner_loop": 1, "real_batch": 8},
    "idc": {"iterations": 2, "inner_steps": 2, "real_batch": 8, "network_images": 8, "lr": 10.0, "lr_side": 8},
    "mtt": TRAJECTORIES | {"lr_lr": 1e-3},
    "tesla": TRAJECTORIES,
    "ncfm": {
        "iterations": 3,
        "real_batch": 8,
        "frequencies": 16,
        "trainings": 2,
        "network_epochs": 1,
        "formation_factor": 1,
    },
    "datm": TRAJECTORIES | {"lr_labels": 1.0},
    "edc": {"iterations": 3, "shard_size": 8},
    "rded": {"rded_candidates": 6, "rded_crops": 2},
    "coreset": {"selection": "herding"},
    "random": {},
}
POOLED = ("edc", "rded", "coreset")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path / "cache"))


def students(source, steps: int = 5) -> StudentTrainer:
    return StudentTrainer(
        get_protocol("small", steps=steps), 4, source.num_classes, source.mean, source.std, CPU, False
    )


@cache
def pool():
    source = digits(12)
    settings = SqueezeSettings(base_model=("convnet_d1",), squeeze_epochs=3, squeeze_batch=16, min_top1_over_chance=0)
    folder = Path(tempfile.mkdtemp())
    return squeeze(PoolTraining(settings, source, source, 8, KEY, CPU, folder, flip=False, progress=False))


def context(base: str, folder, ipc: int = 4, **changes) -> Context:
    """Twelve digits a class, students of five steps, and a pool where the base method needs one."""
    source = digits(12)
    given = replace(
        plain_context(ipc), train=source, fresh=networks(source), student_trainer=students(source), **changes
    )  # fmt: skip
    if base not in POOLED:
        return given
    given = replace(given, observers=pool())
    request = create_method(base, **BASES[base]).statistics(given)
    if request is None:
        return given
    place = folder / "statistics.safetensors"
    write_statistics(
        [place], pool().models, source, request.policy, request.patch, KEY, CPU, mode=request.mode, kinds=request.kinds,
        processes=Processes(),
    )  # fmt: skip
    return replace(given, statistics=[RealStatistics.load(place)])


def staged(base: str, given: Context, folder, **settings):
    return synthesise("pdd", given, folder, base_method=base, **{"stages": 2, "chains": 2, **BASES[base], **settings})


def shard_bytes(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "shards").glob("*.safetensors"))}


@pytest.mark.parametrize("base", BASES)
def test_one_stage_is_the_base_and_later_ones_leave_it_alone(base, tmp_path):
    """Checks C1, C2 and C4 of the specification."""
    given = context(base, tmp_path, ipc=2)
    synthesise(base, given, tmp_path / "base", **BASES[base])
    one = staged(base, given, tmp_path / "one", stages=1)
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "base") and one.stages is None

    two = staged(base, replace(given, ipc=4), tmp_path / "two")
    assert two.stages.tolist() == [1] * 20 + [2] * 20  # 2 images of each of 10 classes
    assert two.labels.tolist() == one.labels.tolist() * 2
    for name, values in one.learned.items():  # one value a stage
        assert two.learned[name][:1] == values and len(two.learned[name]) == 2
    first = two.stages == 1
    assert torch.equal(two.images[first], one.images) and not torch.equal(two.images[~first], one.images)
    for name in ("pixels", "soft_labels"):
        if getattr(one, name) is not None:
            assert torch.equal(getattr(two, name)[first], getattr(one, name))
    assert shard_bytes(tmp_path / "base").items() <= shard_bytes(tmp_path / "two").items()

    again = staged(base, replace(given, ipc=4), tmp_path / "two")  # read back
    assert torch.equal(again.images, two.images) and torch.equal(again.stages, two.stages)
    real = [row for row in two.origin.tolist() if row >= 0]
    assert len(set(real)) == len(real)  # a stage begins with real images that no earlier one began with
    for row, label in zip(two.origin, two.labels):
        assert row < 0 or given.train.labels[row] == label


@pytest.mark.parametrize("base", ["dm", "dc"])
def test_gradients_are_those_of_the_union_for_new_images_and_none_for_old(base, tmp_path):
    """Check C3: the same loss, seen by images that may all move."""
    given, source = context(base, tmp_path), digits(12)
    rows = np.concatenate([source.rows_of(c)[:6] for c in range(10)])
    images, labels = source.images(rows).float() / 255, torch.from_numpy(source.labels[rows])
    place = torch.tensor([c * 6 + k for stage in range(3) for c in range(10) for k in (2 * stage, 2 * stage + 1)])
    images, labels = images[place], labels[place]  # stage after stage, two a class
    shard = create_method("pdd", base_method=base, stages=3, **BASES[base]).plan(10, 6).groups[-1][0]
    new = torch.tensor(shard.rows)
    old = torch.cat([new - 40, new - 20])
    assert sorted(labels[old].unique().tolist()) == sorted(labels[new].unique().tolist())

    frozen = Frozen(images[:40], labels[:40], 2)
    own = images[new].clone().requires_grad_(True)
    union = Union(create_method(base, **BASES[base]).objective(given), frozen)
    union.start(shard, own, labels[new], KEY)
    everything = torch.cat((images[old], images[new])).requires_grad_(True)
    alone = create_method(base, **BASES[base]).objective(given)
    alone.start(shard, everything, torch.cat((labels[old], labels[new])), KEY)
    for term in union.terms(own, labels[new], 0, KEY):
        term.loss.backward()
    for term in alone.terms(everything, torch.cat((labels[old], labels[new])), 0, KEY):
        term.loss.backward()
    moved = everything.grad[len(old) :]
    assert float((own.grad - moved).abs().max()) <= 1e-12 * float(moved.abs().max()) and float(moved.abs().max()) > 0
    assert frozen.images.grad is None and not frozen.images.requires_grad
    assert float(everything.grad[: len(old)].abs().max()) > 0  # they would move if they might


def curriculum(source, stages: int = 2, **changes) -> Curriculum:
    rows = np.concatenate([source.rows_of(c)[:3] for c in range(10)])
    images, labels = source.images(rows), torch.from_numpy(source.labels[rows])
    return Curriculum(
        [StageData(images[: 10 * s], labels[: 10 * s]) for s in range(1, stages + 1)], students(source), **changes
    )


def weights(network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_chain_goes_on_from_itself(tmp_path):
    """Check C6: chain 1 of stage 3 is chain 1 of stage 2 trained on the second data. Chains differ from each other."""
    source = digits(12)
    one, two = curriculum(source, 1), curriculum(source, 2)
    chains = ChainedNetworks(networks(source), two, 3, KEY, tmp_path).make(Processes())
    before = ChainedNetworks(networks(source), one, 3, KEY, tmp_path)
    assert before.place(1, 1).exists() and before.place(1, 1) == chains.place(1, 1)  # kept, and found again

    begun = weights(networks(source).numbered(1, KEY))
    network = before.numbered(1, KEY)
    assert not same(weights(network), begun)
    two.learn(network, 2, KEY / 1)
    third = weights(network)
    assert same(third, weights(chains.numbered(1, KEY))) and not same(third, weights(chains.numbered(0, KEY)))
    drawn = {float(next(chains(KEY / i).parameters()).detach().sum()) for i in range(20)}
    assert len(drawn) == 3  # every chain is drawn
    network = chains(KEY)
    assert network.training and all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", ["convnet_d1", "convnet_bn_w32"])
def test_a_pool_of_one_and_replay_give_the_same_network(name, tmp_path):
    """Check C12."""
    source = digits(12)
    pooled = ChainedNetworks(networks(source, name), curriculum(source), 1, KEY, tmp_path).make(Processes())
    replayed = ReplayedNetworks(networks(source, name), curriculum(source))
    assert same(weights(pooled(Key(7))), weights(replayed(KEY / 0)))
    assert same(weights(pooled.numbered(0, Key(7))), weights(replayed.numbered(0, KEY)))
    assert not same(weights(replayed(KEY / 1)), weights(replayed(KEY / 0)))


def test_what_chains_learn_from_names_their_place():
    source = digits(12)
    known = curriculum(source).fingerprint(2)
    assert curriculum(source).fingerprint(2) == known and curriculum(source).fingerprint(1) != known
    assert curriculum(source, epochs=3).fingerprint(2) != known
    for change in ({"lr": 0.1}, {"soft": torch.full((10, 10), 0.1)}, {"images": source.images(np.arange(10))}):
        other = curriculum(source)
        other.stages[0] = replace(other.stages[0], **change)
        assert other.fingerprint(2) != known and other.fingerprint(1) != curriculum(source).fingerprint(1)
    other = Curriculum(curriculum(source).stages, students(source, steps=6))
    assert other.fingerprint(2) != known


def test_a_learned_rate_and_soft_labels_reach_the_chains(tmp_path):
    """Where the base learns them: each data is at the rate of its stage."""
    source = digits(12)
    plain, networks_of = curriculum(source, 1), networks(source)
    found = []
    soft = torch.full((10, 10), 0.1)
    for change in ({}, {"lr": 1e-4}, {"soft": soft}):
        data = Curriculum([replace(plain.stages[0], **change)], plain.trainer)
        network = networks_of(KEY)
        data.learn(network, 1, KEY)
        found.append(weights(network))
    assert not same(found[0], found[1]) and not same(found[0], found[2])
    begun = weights(networks_of(KEY))
    step = [max(float((w[n] - begun[n]).abs().max()) for n in begun) for w in found]
    assert step[1] < 0.2 * step[0]


def test_forgetting_is_counted():
    """Check C11: a correctness matrix by hand. Rows are epochs."""
    correct = torch.tensor(
        [[1, 0, 1, 0, 0], [0, 0, 1, 0, 1], [1, 0, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 0]], dtype=torch.bool
    )
    assert forgetting(correct).clamp(max=6).tolist() == [2, 6, 0, 1, 2]


def test_counts_of_a_training(tmp_path):
    given = context("dm", tmp_path)
    counts = forgetting_counts(given, 4, KEY)
    assert counts.shape == (len(given.train),) and counts.min() >= 0 and counts.max() <= 5
    assert (forgetting_counts(given, 4, KEY) == counts).all()
    never = forgetting_counts(given, 1, KEY) == 2  # after one epoch most are wrong, and nothing was forgotten
    assert 0 < never.sum() < len(never) and set(forgetting_counts(given, 1, KEY)) == {0, 2}


@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        ("none", [range(100), range(100), range(100)]),
        ("drop_easy", [range(100), range(10, 100), range(20, 100)]),
        ("band", [range(10), range(10, 20), range(20, 100)]),
    ],
)
def test_stages_keep_the_images_they_are_for(mode, kept, monkeypatch, tmp_path):
    """Check C11: which counts each of three stages keeps, with as many images of every count in both classes."""
    counts = np.tile(np.arange(100), 20)
    source = digits(60)
    source = source.subset(np.arange(2000) % len(source))
    source.labels = np.arange(2000) // 1000
    monkeypatch.setattr("hf_condense.methods.pdd.stage_source.forgetting_counts", lambda *_: counts)
    method = create_method("pdd", base_method="dm", stages=3, discard=mode)
    given, groups = replace(context("dm", tmp_path, ipc=3), train=source), method.plan(10, 3).groups
    assert (method.ready(groups[0][0], given, None).context.real_rows is None) == (mode != "band")
    for stage in (1, 2, 3):
        found = harder(method.settings, StageContext.of(given, stage=stage), 4, KEY)
        rows = np.arange(2000) if found.real_rows is None else found.real_rows
        assert set(counts[rows]) == set(kept[stage - 1]) and len(rows) == 20 * len(kept[stage - 1])
        assert (found.train.labels == source.labels[rows]).all()


def test_every_class_keeps_enough():
    outside, labels = np.array([0, 0, 3, 5, 9, 4, 2, 2, 7]), np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    assert kept_rows(outside, labels, 1).tolist() == [0, 1, 6, 7]  # none of class 1 is wanted: the nearest, ties too
    assert kept_rows(outside, labels, 3).tolist() == [0, 1, 2, 5, 6, 7]
    assert kept_rows(outside, labels, 64).tolist() == list(range(9))


def test_rows_of_a_narrowed_source_are_known(tmp_path):
    given = context("dm", tmp_path)
    part = narrowed(narrowed(StageContext.of(given), np.arange(10, 100)), np.arange(0, 90, 2))
    assert part.real_rows.tolist() == list(range(10, 100, 2))
    assert torch.equal(part.train.images(np.arange(5)), given.train.images(part.real_rows[:5]))
    left = unused(StageContext.of(given), np.array([0, 1, 2, -1]), 2)
    assert left.real_rows.tolist() == list(range(3, 120))
    assert (
        len(unused(StageContext.of(given), np.arange(120), 2).train) == 120
    )  # nothing would be left: then they may be used again


def test_chains_become_observers_and_missed_images_count_more(tmp_path):
    """The extension over a frozen pool."""
    source = digits(180)
    given = replace(context("edc", tmp_path), train=source)
    method = create_method("pdd", base_method="edc", stages=2, chains=2, missed_weight=3.0, **BASES["edc"])
    first = replace(given, ipc=2)
    made = Engine(Accelerator(cpu=True), tmp_path / "one").run(create_method("edc", **BASES["edc"]), first)
    earlier = replace(made, stages=None)
    plan = method.plan(10, 4)
    started, optimised = (method.ready(group[0], given, earlier).context for group in plan.groups[2:])
    assert len(started.observers) == 1 and len(optimised.observers) == len(optimised.statistics) == 3
    hashes = [m.sha256 for m in optimised.observers]
    assert len(set(hashes)) == 3 and all(
        not p.requires_grad for m in optimised.observers for p in m.model.parameters()
    )
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.safetensors")}
    again = method.ready(plan.groups[3][0], given, earlier).context
    assert {
        p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.safetensors")
    } == before  # all of it is kept
    assert [m.sha256 for m in again.observers] == hashes
    missed = (tmp_path / "cache").rglob("missed-*.safetensors")
    share = torch.stack([load_tensors(p)[0]["missed"] for p in missed]).double().mean(0).numpy()
    kept = np.isin(np.arange(len(source)), optimised.real_rows)
    assert kept[share == 1].all() and 0 < share.mean() < 1
    right = kept[share == 0].mean()  # wanted: a quarter; classes of which 64 are not left keep more
    assert right < 0.65, right
    assert not set(started.real_rows) & set(earlier.origin.tolist())
    everything = create_method("pdd", base_method="edc", stages=2, chains=2, missed_weight=0.0, **BASES["edc"])
    assert everything.ready(plan.groups[3][0], given, earlier).context.real_rows is None


def test_networks_of_a_later_stage_know_the_earlier_images(tmp_path):
    """And a stage brings the images nearer to the real ones in them; further away with the sign flipped."""
    source = digits(60)
    given = replace(context("dm", tmp_path), train=source, student_trainer=students(source, 60), ipc=2)
    settings = {"base_method": "dm", "stages": 2, "chains": 3, "iterations": 20, "real_batch": 16}
    loss = {}
    for sign in (1, -1):
        made = synthesise("pdd", given, tmp_path / str(sign), sign, **settings)
        method = create_method("pdd", **settings)
        plan, pdd = method.plan(10, 2), Engine(Accelerator(cpu=True), tmp_path / str(sign))
        ready = method.ready(plan.groups[-1][0], given, pdd.earlier(plan, 2))
        network = ready.context.fresh(KEY).eval()
        old = ready.context.frozen.images
        if sign > 0:
            right = (network(old).argmax(1) == ready.context.frozen.labels).float().mean()
            assert right >= 0.9, right
        objective = method.objective(given, replace(ready, context=replace(ready.context, key=KEY / "judge")))
        for images in (made.initial.float() / 255, made.pixels):
            shard = plan.groups[-1][0]
            objective.start(shard, images[10:], made.labels[10:], KEY)
            found = [
                float(t.loss.detach())
                for s in range(5)
                for t in objective.terms(images[10:], made.labels[10:], s, KEY)
            ]
            loss.setdefault(sign, []).append(sum(found))
    assert loss[1][1] < 0.9 * loss[1][0] and loss[-1][1] > 1.1 * loss[-1][0], loss


def test_experts_of_a_later_stage_begin_where_chains_are(tmp_path):
    """Check C7: expert k of stage 2 begins as chain k, and that as expert k of stage 1; all snapshots differ."""
    given = context("mtt", tmp_path)
    method = create_method("pdd", base_method="mtt", stages=2, **BASES["mtt"])
    made = synthesise("pdd", given, tmp_path / "run", base_method="mtt", stages=2, **BASES["mtt"])
    plan, engine = method.plan(10, 4), Engine(Accelerator(cpu=True), tmp_path / "run")
    earlier = engine.earlier(plan, 2)
    stages = [method.ready(plan.groups[g][0], given, e) for g, e in ((1, None), (3, earlier))]
    first, second = (found.base for found in stages)
    least = method.base.settings.first_epochs + method.base.settings.span
    assert first.experts == second.experts == 2 and first.epochs + 1 >= least and second.epochs + 1 >= least
    for number in range(2):
        begun = FlatNetwork(given.fresh.numbered(number, given.key / "experts")).flatten()
        chain = FlatNetwork(stages[1].context.fresh.numbered(number, KEY)).flatten()
        assert torch.equal(first.snapshot(number, 0), begun)
        assert torch.equal(second.snapshot(number, 0), chain) and not torch.equal(chain, begun)
        snapshots = [buffer.snapshot(number, e) for buffer in (first, second) for e in range(buffer.epochs + 1)]
        assert not any(torch.equal(a, b) for a, b in combinations(snapshots, 2))
        # at the rate that was learned with the images
        network = given.fresh.numbered(number, given.key / "experts")
        key = given.key / "experts" / number / "stage" / 1
        half = made.stages == 1
        given.student_trainer.train(network, made.pixels[half], made.labels[half], key=key, lr=made.learned["lr"][0])
        assert torch.equal(FlatNetwork(network).flatten(), chain)


def test_two_stages_of_trajectories_on_digits(tmp_path):
    """The behaviour check of the specification, for one seed: old images stand still, late targets are reached better."""
    splits = open_source(DataSettings("digits", hold_out=500 / 1797), Key(0, "data"))
    source, name = splits.train, "convnet_d2_w16"
    service = StudentTrainer(get_protocol("mtt", epochs=100, siamese=()), 2, 10, source.mean, source.std, CPU, False)
    settings = {
        "base_method": "mtt", "stages": 2, "iterations": 30, "lr": 3.0, "lr_lr": 1e-4, "student_lr": 0.05, "student_steps": 6,
        "first_epochs": 3, "experts": 2, "expert_lr": 0.05, "expert_batch": 64, "families": (),
    }  # fmt: skip
    given = replace(
        plain_context(2, name=name), train=source, fresh=networks(source, name), student_trainer=service, key=Key(0)
    )
    made = synthesise("pdd", given, tmp_path / "run", **settings)
    method = create_method("pdd", **settings)
    plan, engine = method.plan(10, 2), Engine(Accelerator(cpu=True), tmp_path / "run")
    shard = plan.groups[-1][0]
    ready = method.ready(shard, given, engine.earlier(plan, 2))
    second, distance = made.stages == 2, {}
    for moment, images, rate in (("first", to_unit(made.initial), 0.05), ("last", made.pixels, made.learned["lr"][1])):
        method.base.settings = replace(method.base.settings, student_lr=rate)
        objective = method.objective(given, ready)
        objective.start(shard, images[second], made.labels[second], KEY)
        found = [
            t.loss.detach()
            for s in range(16)
            for t in objective.terms(images[second], made.labels[second], s, KEY / s)
        ]
        distance[moment] = float(torch.stack(found).mean())
    assert distance["last"] < 0.95 * distance["first"], distance
    assert abs(made.learned["lr"][1] / 0.05 - 1) < 0.1

    protocol = get_protocol("pdd-mtt", epochs=100, stage_epochs=100, siamese=())
    test_labels = torch.from_numpy(splits.test.labels)
    scorer = StudentScorer(protocol, source.plain_spec, splits.test.decoded(), test_labels, CPU, flip=False)
    top1 = []
    for last in (1, 2):
        seen = made.stages <= last
        found = TrainingSet(
            made.pixels[seen], made.labels[seen], stages=made.stages[seen], rates=made.learned["lr"][:last]
        )
        top1.append(scorer.train(name, found, KEY).top1)
    assert top1[1] >= top1[0] - 0.005 and top1[0] > 0.7, top1


@pytest.mark.parametrize("base", ["dm", "dc"])
def test_stopped_in_stage_2_and_run_again(base, tmp_path):
    """Check C13."""
    given = context(base, tmp_path)
    settings = {"base_method": base, "stages": 2, "chains": 2, **BASES[base]}
    whole = synthesise("pdd", given, tmp_path / "whole", every=2, **settings)
    last = 1 if base == "dc" else 4  # checkpoints of stage 1 come first; dm has three shards a stage
    part = stopped_and_resumed("pdd", given, tmp_path / "part", last + 1, 2, **settings)
    assert (tmp_path / "part" / "shards" / f"{base}-00000.safetensors").exists()
    assert torch.equal(part.pixels, whole.pixels)


def test_killed_at_every_file_of_a_joint_base(tmp_path):
    """Chains, first images, stages: whatever is written last, the next start ends with the same bytes."""
    given = context("dc", tmp_path)
    staged("dc", given, tmp_path / "whole")

    def run():
        os.environ["HF_CONDENSE_CACHE"] = str(tmp_path / "other")
        staged("dc", given, tmp_path / "killed")

    assert lives_until_done(run, tmp_path / "struck") >= 20
    assert shard_bytes(tmp_path / "killed") == shard_bytes(tmp_path / "whole")
    places = [p.relative_to(tmp_path / "cache") for p in (tmp_path / "cache").rglob("chain-*.safetensors")]
    assert len(places) == 2
    for place in places:
        assert (tmp_path / "cache" / place).read_bytes() == (tmp_path / "other" / place).read_bytes()


@pytest.mark.parametrize("base", ["dc", "edc"])
def test_two_processes_make_what_one_makes(base, tmp_path):
    given = context(base, tmp_path)
    staged(base, given, tmp_path / "one")

    def together():
        os.environ["HF_CONDENSE_CACHE"] = str(tmp_path / "other")
        accelerator = Accelerator(cpu=True)
        assert accelerator.num_processes == 2
        settings = {"stages": 2, "chains": 2, **BASES[base]}
        method = create_method("pdd", base_method=base, **settings)
        Engine(accelerator, tmp_path / "two", 10**9).run(method, replace(given, accelerator=accelerator))

    assert forked.run_together(together, 2) == [0, 0]
    assert shard_bytes(tmp_path / "two") == shard_bytes(tmp_path / "one")


def test_chains_that_are_gone_are_trained_again_and_damaged_ones_are_named(tmp_path):
    """Check C14: what is missing is made, what is broken is said; seven chains are as good as ten."""
    given = context("dm", tmp_path)
    whole = staged("dm", given, tmp_path / "whole", chains=7)
    files = sorted((tmp_path / "cache").rglob("chain-*.safetensors"))
    assert len(files) == 7
    for path in files[:3]:
        path.unlink()
    (tmp_path / "whole" / "shards" / "stage2-dm-00001.safetensors").unlink()
    again = staged("dm", given, tmp_path / "whole", chains=7)
    assert torch.equal(again.pixels, whole.pixels)
    files[4].write_bytes(b"no tensors")
    (tmp_path / "whole" / "shards" / "stage2-dm-00001.safetensors").unlink()
    with pytest.raises(ArtefactError, match="chain-00004"):
        staged("dm", given, tmp_path / "whole", chains=7, iterations=40)


@pytest.mark.parametrize("base", [name for name in list_methods() if not METHODS[name].wraps])
def test_every_method_can_be_a_base(base):
    """Its plan, stage after stage: the same shards for the rows of each, under names of their own."""
    method = create_method("pdd", base_method=base, stages=3)
    plan, one = method.plan(5, 6), create_method(base).plan(5, 2)
    assert len(plan.groups) == 3 * len(one.groups) and plan.labels == one.labels * 3
    assert (plan.joint, plan.chained) == (one.joint, one.chained) and plan.groups[: len(one.groups)] == one.groups
    shards = [shard for group in plan.groups for shard in group]
    assert len({shard.id for shard in shards}) == len(shards)
    for shard in shards:
        assert all(10 * (shard.stage - 1) <= row < 10 * shard.stage for row in shard.rows)
        assert all(plan.labels[row] == label for row, label in zip(shard.rows, shard.labels))
    assert method.recipe(None, SetSpec(5, 6, 8)) == create_method(base).recipe(None, SetSpec(5, 2, 8))


@pytest.mark.parametrize("base", ["mtt", "idc"])
def test_published_settings_are_for_the_images_of_a_stage(base):
    aims = {("mtt", "cifar10", 50): 1000.0, ("idc", "cifar10", 10): 2e-3, ("idc", "cifar100", 50): 1e-2}
    for name in preset_names(f"pdd-{base}"):
        dataset, _, ipc = name.partition("-ipc")
        for variant in ("paper", "official"):
            preset = load_preset(f"pdd-{base}", dataset, int(ipc or 10), variant)
            known = method_class("pdd").settings_class(base).__dataclass_fields__
            own = {k: tuple(v) if isinstance(v, list) else v for k, v in preset.values.items() if k in known}
            method = create_method("pdd", base_method=base, **own)
            spec = SetSpec(preset.classes, int(ipc or 10), preset.image_size)
            recipe = method.recipe(None, spec)
            if (base, dataset, int(ipc or 10)) in aims:  # its rule of the rate counts the images of a stage
                assert recipe.lr == pytest.approx(aims[base, dataset, int(ipc or 10)], rel=2e-3)
            assert method.settings.stages == 5 and (method.settings.chains == 0) == (
                base == "idc" and variant == "official"
            )


def test_what_cannot_be_done_is_said():
    method = create_method("pdd", base_method="dm", stages=5)
    with pytest.raises(ConfigError, match="ipc=7.*multiple of the 5 stages.*--ipc 5"):
        method.plan(10, 7)
    with pytest.raises(ConfigError, match="base_method='dmm'"):
        create_method("pdd", base_method="dmm")
    with pytest.raises(ConfigError, match="base_method"):
        create_method("pdd", base_method="pdd")
    with pytest.raises(ConfigError, match="chains=0.*edc, whose observers"):
        create_method("pdd", base_method="edc", chains=0)
    with pytest.raises(ConfigError, match="shard_size=4"):  # a setting of another base
        create_method("pdd", base_method="dm", shard_size=4)
    with pytest.raises(ConfigError, match="iterations=0"):
        create_method("pdd", base_method="dm", iterations=0)


def test_somebody_must_train_the_chains(tmp_path):
    given = replace(context("dm", tmp_path), student_trainer=None)
    with pytest.raises(ConfigError, match="student_trainer"):
        staged("dm", given, tmp_path / "run")
