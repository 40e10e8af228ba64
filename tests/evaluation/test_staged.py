"""Training in stages: what a student sees when, its rates and momentum, and what that costs."""

from dataclasses import replace

import pytest
import torch
from torch.nn.utils import vector_to_parameters

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import apply_siamese, draw_siamese
from hf_condense.data.whitening import Whitening
from hf_condense.errors import ConfigError
from hf_condense.evaluation.batches import Pixels, student_batches
from hf_condense.evaluation.budget import epochs_budget, replay_budget, student_budget, union_sizes
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.losses import mixed_ce
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import score
from hf_condense.evaluation.staged import stage_rows
from hf_condense.evaluation.student_trainer import StudentTrainer
from hf_condense.evaluation.students import StudentScorer, training_plan
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.files import load_tensors
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.loading import load_model
from hf_condense.models.training import FitRecipe, evaluate_top1, fit

STUDENT = "convnet_w32"
SPEC = ImageSpec(num_classes=3, image_size=8, channels=1, mean=(0.5,), std=(0.25,))
STAGES = torch.tensor([2, 1, 3, 1, 2, 3, 1, 2, 3])  # in no order: a set is never told by its order
UNIONS = {"cumulative": [3, 6, 9], "new_only": [3, 3, 3], "last_only": [9]}


def plain(**changes):
    return get_protocol(
        "pdd-mtt", **{"batch": 4, "stage_epochs": 5, "siamese": (), "learned_rate": False} | changes
    ).resolve(STUDENT, 3)


def numbered(count):
    """Images that say which they are."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()


@pytest.mark.parametrize("mode", UNIONS)
def test_each_stage_sees_its_images_once_an_epoch(device, mode):
    """C5: the ids that every batch of a staged training is made of."""
    protocol, recipe = training_plan(plain(mode=mode, epochs=5), 9, STAGES)
    x, y = numbered(9), torch.arange(9) % 3
    batches = student_batches(TrainingSet(x, y, stages=STAGES), protocol, protocol.policy(8), Key(0), device)
    seen = [torch.cat([(b.images[:, 0, 0, 0] * 255).round().long() for b in batches(e)]) for e in range(recipe.epochs)]
    assert len(seen) == 5 * len(UNIONS[mode])
    orders = {tuple(ids.tolist()) for ids in seen}
    for epoch, ids in enumerate(seen):
        stage = epoch // 5 + 1
        wanted = {"cumulative": stage >= STAGES, "new_only": stage == STAGES, "last_only": STAGES > 0}[mode]
        assert ids.sort().values.tolist() == wanted.nonzero().flatten().tolist()
        for batch in batches(epoch):
            assert torch.equal(batch.labels, y[(batch.images[:, 0, 0, 0] * 255).round().long()])
    assert len(orders) > len(seen) / 2  # new orders all the time


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


@pytest.mark.parametrize("reset", [False, True])
def test_momentum_is_carried_or_not(data, device, model, tmp_path, reset):
    """C8: the first update of stage 2, from the gradient there and the velocity that stage 1 left."""
    protocol, recipe = training_plan(plain(reset_between=reset, stage_epochs=4, batch=9), 9, STAGES)
    x, y = data(9, 1)
    network, found = model(1).double(), {}
    single = student_batches(TrainingSet(x, y, stages=STAGES), protocol, protocol.policy(8), Key(0), device)

    def of(epoch):
        return (replace(b, images=b.images.double()) for b in single(epoch))

    def batches(epoch):
        if epoch == 4:
            kept = load_tensors(tmp_path / "fit.safetensors")[0]
            count = len(list(network.parameters()))
            found["velocity"] = flat(kept[f"optimizer/{i}/momentum_buffer"] for i in range(count))
            found["before"] = flat(network.parameters())
        elif epoch == 5:
            found["after"] = flat(network.parameters())
        return of(epoch)

    fit(network, batches, mixed_ce, recipe, device=device, key=Key(3), state_folder=tmp_path, save_every=0)
    (batch,), before, velocity = of(4), found["before"], found["velocity"]
    vector_to_parameters(before.clone(), network.parameters())
    loss = mixed_ce(network.train()(batch.images).float(), batch)
    gradient = flat(torch.autograd.grad(loss, list(network.parameters()))) + recipe.weight_decay * before
    assert velocity.abs().max() > 1e-6
    expected = before - recipe.rate(4) * (gradient if reset else recipe.momentum * velocity + gradient)
    torch.testing.assert_close(found["after"], expected, rtol=0, atol=1e-12)


def test_rates_begin_again_in_each_stage(data, device, model):
    """C9: every stage has its own learned rate and the whole schedule, and E * ceil(images / batch) steps."""
    learned = (0.02, 0.04, 0.005)
    protocol, recipe = training_plan(plain(learned_rate=True, stage_epochs=501), 9, STAGES, learned)
    assert recipe.epochs == 3 * 501 and recipe.rates == learned
    for stage, rate in enumerate(learned):
        found = [recipe.rate(stage * 501 + e) for e in range(501)]
        assert found == pytest.approx([rate] * 252 + [rate / 10] * 249)
    assert not any(recipe.forgets(e) for e in range(recipe.epochs))
    carried = replace(recipe, restart=True)
    assert [e for e in range(recipe.epochs) if carried.forgets(e)] == [252, 501 + 252, 1002 + 252]
    between = replace(recipe, reset_between=True)
    assert [e for e in range(recipe.epochs) if between.forgets(e)] == [501, 1002]

    short, recipe = training_plan(plain(stage_epochs=3), 9, STAGES)
    x, y = data(9, 1)
    batches = student_batches(TrainingSet(x, y, stages=STAGES), short, short.policy(8), Key(0), device)
    result = fit(model(1), batches, mixed_ce, recipe, device=device, key=Key(3))
    assert result.steps == 3 * (1 + 2 + 3) == student_budget(plain(stage_epochs=3), [3, 6, 9]).steps
    assert [row["lr"] for row in result.history] == pytest.approx([0.01, 0.001, 0.001] * 3)


def test_a_stopped_staged_training_goes_on(data, device, model, tmp_path):
    protocol, recipe = training_plan(plain(stage_epochs=3), 9, STAGES)
    x, y = data(9, 1)
    batches = student_batches(TrainingSet(x, y, stages=STAGES), protocol, protocol.policy(8), Key(0), device)

    def go(folder, stop=None):
        def until(epoch):
            if epoch == stop:
                raise KeyboardInterrupt
            return batches(epoch)

        return fit(model(1), until, mixed_ce, recipe, device=device, key=Key(3), state_folder=folder, save_every=0)

    whole = go(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "b", stop=4)
    again = go(tmp_path / "b")
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_learned_rates_are_taken_by_protocols_that_want_them():
    rates = (0.03, 0.05, 0.07)
    assert training_plan(plain(learned_rate=True), 9, STAGES, rates)[1].rates == rates
    assert training_plan(plain(), 9, STAGES, rates)[1].rates == (0.01,) * 3
    once = training_plan(plain(learned_rate=True, mode="last_only"), 9, STAGES, rates)[1]
    assert (once.lr, once.rates, once.epochs) == (0.07, None, 1001)
    alone = training_plan(plain(learned_rate=True), 9, None, rates[:1])[1]
    assert (alone.lr, alone.rates) == (0.03, None)
    with pytest.raises(ConfigError, match="rate for each of 3 stages"):
        training_plan(plain(learned_rate=True), 9, STAGES, rates[:2])
    with pytest.raises(ConfigError, match="multiple of 2 stages"):
        FitRecipe(5, 0.1, rates=(0.1, 0.2))


# (protocol, batch of images a stage makes, stages) -> SGD steps of the base and of the stages, as computed from the
# released scripts (the spec's section 6)
STEPS = {
    ("mtt", "pdd-mtt", 20): (1001, 2505),  # CIFAR-10, 10 images a class
    ("mtt", "pdd-mtt", 100): (2002, 4008),
    ("mtt", "pdd-mtt", 200): (4004, 7014),  # CIFAR-100, 10
    ("mtt", "pdd-mtt", 1000): (20020, 30060),
    ("idc", "pdd-idc", 80): (7000, 10500),  # decoded images
    ("idc", "pdd-idc", 400): (32000, 48000),
    ("idc", "pdd-idc", 800): (63000, 94500),
    ("idc", "pdd-idc", 4000): (313000, 469500),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps_of_the_released_budgets(case):
    """C10, section 6."""
    base, staged, images = case
    one, many = (get_protocol(name).resolve("convnet_w128", 10) for name in (base, staged))
    at_once, in_stages = student_budget(one, [5 * images]), student_budget(many, union_sizes(images, 5))
    assert (at_once.steps, in_stages.steps) == STEPS[case]
    assert at_once.samples == one.epochs * 5 * images
    assert in_stages.samples == many.stage_epochs * 3 * 5 * images  # E (P + 1) / 2 for each image: 1.5 times 1000
    equal = student_budget(get_protocol(f"{staged}-equal").resolve("convnet_w128", 10), union_sizes(images, 5))
    assert equal.samples == 333 * 3 * 5 * images <= at_once.samples


@pytest.mark.parametrize(
    "images, steps",  # of one new network at the start of stages 1 to 5 (the spec's section 9)
    [(80, [0, 400, 1000, 1800, 2800]), (400, [0, 1400, 4000, 7800, 12800]), (4000, [0, 12600, 37600, 75200, 125200])],
)
def test_steps_of_chain_replay(images, steps):
    """C10, section 9: 200 epochs on each earlier union."""
    assert [replay_budget(images, stage, 200, 64).steps for stage in range(1, 6)] == steps


def test_protocols_by_steps_keep_their_steps():
    small = get_protocol("small").resolve(STUDENT, 10)
    assert student_budget(small, [100]).steps == 500
    for stages in (2, 5):
        assert student_budget(small, union_sizes(100 // stages, stages)).steps == pytest.approx(500, rel=0.02)
    assert epochs_budget([20, 30], 2, 25).samples == 100
    with pytest.raises(ConfigError, match="hard_share"):
        get_protocol("small", hard_share=0.5).resolve(STUDENT, 10).staged([10, 20])


def test_other_epochs_change_the_stages_in_proportion():
    short = get_protocol("pdd-mtt", epochs=100)
    assert (short.epochs, short.stage_epochs) == (100, 50)
    assert get_protocol("pdd-mtt", epochs=100, stage_epochs=7).stage_epochs == 7
    assert get_protocol("pdd-mtt-equal", epochs=100).stage_epochs is None
    steps = get_protocol("pdd-mtt", steps=60)
    assert (steps.epochs, steps.stage_epochs, steps.steps) == (None, None, 60)
    assert student_budget(steps.resolve(STUDENT, 10), [3, 6, 9]).steps == 60


def test_rows_of_stages():
    assert [rows.tolist() for rows in stage_rows(torch.tensor([2, 5, 2]))] == [[0, 2], [0, 1, 2]]
    assert [rows.tolist() for rows in stage_rows(torch.tensor([2, 5, 2]), "new_only")] == [[0, 2], [1]]


# --- labels of images ---


def teach(data, device, soft, labels=None, regime="stored", **changes):
    x, y = data(30, 1)
    tx, ty = data(90, 2)
    protocol = get_protocol("tesla", **{"epochs": 60, "batch": 10, "siamese": ("color",)} | changes)
    found = TrainingSet(x, y if labels is None else labels, regime, soft=soft, rates=(0.05,))
    return StudentScorer(protocol, SPEC, tx, ty, device).train(STUDENT, found, Key(0))


def test_labels_of_images_teach_whatever_the_class_numbers_say(data, device):
    _, y = data(30, 1)
    soft = torch.nn.functional.one_hot(y, 3) * 0.8 + 0.2 / 3
    wrong = (y + 1) % 3
    assert teach(data, device, soft.half(), wrong).top1 > 0.9
    assert teach(data, device, soft.roll(1, 1).half()).top1 < 0.1
    with pytest.raises(ConfigError, match="soft labels of 30 images, not none"):
        teach(data, device, None)


def test_labels_of_images_follow_their_rows_and_mix(data, device):
    x, y = numbered(9), torch.arange(9) % 3
    share = (torch.arange(9) + 1) / 10  # of the first class, in step with the pixels: so it is in mixed images
    soft = torch.stack((share, 1 - share, 0 * share), 1).half()
    for mix in ("none", "mixup"):
        protocol, recipe = training_plan(plain(label_per="image", mix=mix), 9, STAGES)
        shared = (protocol, protocol.policy(8), Key(0), device)
        found = student_batches(TrainingSet(x, y, "stored", soft=soft, stages=STAGES), *shared)
        plainly = student_batches(TrainingSet(x, y, stages=STAGES), *shared)
        for epoch in range(0, recipe.epochs, 2):
            for batch, hard in zip(found(epoch), plainly(epoch), strict=True):
                assert torch.equal(batch.images, hard.images)
                shares = (batch.images[:, 0, 0, 0] * 255 + 1) / 10
                torch.testing.assert_close(batch.soft.softmax(1)[:, 0], shares, rtol=0, atol=1e-3)


# --- the grid of students ---


def test_staged_and_plain_rows_in_one_table(data, device, tmp_path):
    """A staged set and the same images at once: equal budgets, other students; stages are part of a cell's name."""
    x, y = data(18, 1)
    tx, ty = data(60, 2)
    stages = torch.arange(18) // 9 + 1
    protocol = get_protocol("pdd-mtt-equal", epochs=30, batch=9, siamese=("color",))

    def go(rows, regimes=("hard",), protocol=protocol, **more):
        table = score(
            rows, protocol=protocol, students=[STUDENT], regimes=regimes, seeds=1, ipc=6, test_images=tx,
            test_labels=ty, spec=SPEC, key=Key(1), device=device, scores_folder=tmp_path, **more,
        )  # fmt: skip
        return {(c["row"], c["regime"]): c for c in table.cells}

    found = go({
        "random": ImageSet(x, y), "pdd": ImageSet(x, y, stages=stages, rates=(0.05, 0.03)),
        "other": ImageSet(x, y, stages=stages, rates=(0.05, 0.04)),
    })  # fmt: skip
    assert found["random", "hard"]["steps"] == found["pdd", "hard"]["steps"] == 60  # 30 x 2, 20 x (1 + 2)
    assert found["pdd", "hard"]["top1"] > 0.9
    assert len(list((tmp_path / "cells").glob("*.json"))) == 3
    soft = torch.nn.functional.one_hot(y, 3).half()
    rows = {"tesla": ImageSet(x, y, stages=stages, soft=soft)}
    found = go(rows | {"random": ImageSet(x, y)}, ("hard", "stored"), replace(protocol, label_per="image"))
    assert found.keys() == {("tesla", "hard"), ("tesla", "stored"), ("random", "hard")}  # random ones have no labels
    assert (found["tesla", "stored"]["label_bytes"], found["tesla", "stored"]["steps"]) == (18 * 3 * 2, 60)
    for wrong, regimes, word in (
        ({"pdd": ImageSet(x, y, stages=stages)}, ("stored",), "stages of the set"),
        ({"plain": ImageSet(x, y)}, ("stored",), "teacher, or labels of their own"),
    ):
        with pytest.raises(ConfigError, match=word):
            go(
                wrong,
                regimes,
                get_protocol("small") if wrong.keys() == {"pdd"} else replace(protocol, label_per="image"),
            )
    with pytest.raises(ConfigError, match="one row per image"):
        ImageSet(x, y, stages=stages[:3])


def test_a_teacher_labels_the_images_of_rows_without_labels(data, device, model, tmp_path):
    x, y = data(9, 1)
    protocol = get_protocol("tesla", epochs=2, siamese=("color",))
    found = ImageSet(x, y)
    score(
        {"random": found}, protocol=protocol, students=[STUDENT], regimes=("stored",), seeds=1, ipc=3, test_images=x,
        test_labels=y, spec=SPEC, key=Key(1), device=device, scores_folder=tmp_path, teacher=Ensemble([model(7)]),
    )  # fmt: skip
    assert found.soft.shape == (9, 3) and not (tmp_path / "stores").exists()


# --- the service ---


def service(device, **changes):
    return StudentTrainer(
        get_protocol("mtt", batch=10, epochs=20, siamese=("color",)), 10, 3, (0.4,), (0.3,), device, **changes
    )


def test_the_service_trains_a_given_network_from_its_weights(data, device, model):
    x, y = data(30, 1)
    tx, ty = data(90, 2)
    network, students = model(1), service(device)
    before = flat(network.parameters()).clone()
    back = students.train(network, x, y, key=Key(5), lr=0.05)
    assert back is network and not network.training
    assert (flat(network.parameters()) - before).abs().max() > 1e-3
    assert evaluate_top1(network, tx, ty, device) > 0.9
    again = students.train(model(1), x.float() / 255, y, key=Key(5), lr=0.05)
    assert torch.equal(flat(again.parameters()), flat(network.parameters()))
    on = students.train(network, x, (y + 1) % 3, key=Key(6), lr=0.05)  # goes on from what it has learned
    assert evaluate_top1(on, tx, ty, device) < 0.1
    soft = torch.nn.functional.one_hot((y + 2) % 3, 3).float()
    assert evaluate_top1(students.train(network, x, y, key=Key(7), lr=0.05, soft=soft), tx, (ty + 2) % 3, device) > 0.9


def test_the_service_is_the_training_of_students(data, device):
    """A student that the service trains in one go is the one that a table scores."""
    x, y = data(30, 1)
    students = service(device)
    spec = replace(SPEC, mean=(0.4,), std=(0.3,))
    network = load_model(STUDENT, spec, key=Key(2) / "init")
    students.train(network, x, y, key=Key(2))
    scored = StudentScorer(students.protocol, spec, x, y, device).train(STUDENT, TrainingSet(x, y), Key(2))
    assert evaluate_top1(network, x, y, device) == scored.top1
    assert students.fingerprint == service(device).fingerprint != service(device, flip=False).fingerprint


def test_the_service_stops_and_goes_on_and_gives_averaged_weights(data, device, model, tmp_path):
    x, y = data(30, 1)
    averaged = replace(service(device), protocol=get_protocol("small", steps=30, batch=10, ema=1 - 1e-9))
    network = model(1)
    before = flat(network.parameters()).clone()
    torch.testing.assert_close(flat(averaged.train(network, x, y, key=Key(5)).parameters()), before)
    with pytest.raises(ConfigError, match="teacher"):
        averaged.train(network, x, y, key=Key(5), regime="online")
    taught = averaged.train(network, x, y, key=Key(5), regime="online", teacher=Ensemble([model(3)]), epochs=1)
    assert taught is network


# --- whitened pixels ---


def test_students_of_whitened_pixels_learn_and_need_the_whitening(data, device):
    x, y = data(60, 1)
    tx, ty = data(90, 2)
    whitening = Whitening.fit(x)
    protocol = get_protocol("mtt-zca", epochs=40, batch=10, siamese=("color",))

    def top1(labels, protocol=protocol, whitening=whitening):
        scorer = StudentScorer(protocol, SPEC, tx, ty, device, whitening=whitening)
        return scorer.train(STUDENT, TrainingSet(x, labels), Key(0)).top1

    assert top1(y) > 0.9 and top1((y + 1) % 3) < 0.1
    with pytest.raises(ConfigError, match="Fit a whitening"):
        top1(y, whitening=None)


def test_augmentation_acts_on_what_the_network_sees(data, device):
    x, y = data(60, 1)
    whitening, policy = Whitening.fit(x), get_protocol("mtt-zca").siamese_policy()
    protocol = get_protocol("mtt-zca").resolve(STUDENT, 20)
    found = student_batches(
        TrainingSet(x, y), protocol, protocol.policy(8), Key(0), device, Pixels(whitening=whitening)
    )
    for epoch in range(4):
        (batch,) = found(epoch)
        rows = torch.from_numpy((Key(0) / "views" / "order" / epoch).permutation(60))
        draw = draw_siamese(policy, Key(0) / "siamese" / epoch / 0, 60, 8, 8)
        wanted = apply_siamese(whitening(x[rows].float() / 255), draw, policy)
        torch.testing.assert_close(whitening(batch.images), wanted, rtol=0, atol=1e-4)
