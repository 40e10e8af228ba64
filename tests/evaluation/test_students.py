from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError, ModelError
from hf_condense.evaluation import students
from hf_condense.evaluation.batches import student_batches
from hf_condense.evaluation.looks import validation_images
from hf_condense.evaluation.losses import protocol_loss
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels.store import write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.norm_relu_pool import available
from hf_condense.models.training import FitRecipe, fit

STUDENT, KEY = "convnet_w32", Key(0)


@pytest.fixture
def train(data, scorer, quick):
    """Trains a student on 30 easy images and scores it on 90 others."""

    def run(regime="hard", labels=None, images=None, key=KEY, protocol=None, state_folder=None, labelled=None, **more):
        x, y = data(30, 1)
        found = TrainingSet(x if images is None else images, y if labels is None else labels, regime, **labelled or {})
        scored = scorer(protocol or quick(), *data(90, 2), **more)
        return scored.train(STUDENT, found, key, state_folder=state_folder)

    return run


@pytest.fixture
def taught(data, device, model, quick):
    """A teacher that knows the stripes."""
    x, y = data(60, 3)
    network = model(7)
    protocol = quick().resolve(STUDENT, 20)
    batches = student_batches(TrainingSet(x, y), protocol, protocol.policy(8), Key(8), device)
    fit(network, batches, protocol_loss(protocol, "hard"), FitRecipe(8, 5e-3, "adamw"), device=device, key=Key(9))
    return Ensemble([network])


def test_a_student_learns_what_labels_say(train, data):
    _, y = data(30, 1)
    assert train().top1 > 0.9
    assert train(labels=(y + 1) % 3).top1 < 0.1  # the gate: wrong labels must not pass


def test_soft_labels_teach_and_their_negation_does_not(train, taught, quick):
    protocol = quick(gamma=0.0)
    assert train("online", labelled={"teacher": taught}, protocol=protocol).top1 > 0.9
    wrong = Ensemble([taught.models[0]])
    wrong.forward = lambda images: -taught(images)
    assert train("online", labelled={"teacher": wrong}, protocol=protocol).top1 < 0.2


def test_same_key_same_student(train):
    a, b, c = train(), train(), train(key=Key(1))
    assert (a.top1, a.steps) == (b.top1, b.steps) and np.array_equal(a.predictions, b.predictions)
    assert not np.array_equal(a.predictions, c.predictions) or a.top1 > 0.99
    assert a.seconds > 0 and a.peak_memory > 2**20 and a.steps == 39  # 13 passes of 3 batches


def test_average_of_rate_zero_is_the_network_itself(train, quick):
    itself, plain = (train(protocol=quick(ema=ema, steps=10)) for ema in (0.0, None))
    assert np.array_equal(itself.predictions, plain.predictions)
    assert train(protocol=quick(ema=0.999)).top1 < train(protocol=quick()).top1  # the average has not left its start


@pytest.mark.skipif(not available(), reason="no C compiler")
def test_a_long_training_fuses_blocks_and_hands_back_a_plain_network(train, data, monkeypatch):
    kept = []
    plain = train(keep=kept.append)
    monkeypatch.setattr(students, "FUSE_FROM", 0)
    fused = train(keep=kept.append)
    assert fused.fused and not plain.fused  # 39 steps are too few to earn the compilation back
    assert (fused.predictions == plain.predictions).mean() > 0.95
    assert not any(getattr(module, "fused", False) for network in kept for module in network.modules())
    for a, b in zip(kept[0].parameters(), kept[1].parameters()):
        # a bias before a norm has no gradient but rounding, which Adam scales up, and no effect
        assert a.ndim == 1 or (a - b).norm() < 0.02 * a.norm()
    assert not train(precision="bf16").fused
    _, y = data(30, 1)
    assert train(labels=(y + 1) % 3).top1 < 0.1  # the gate


@pytest.mark.skipif(not available(), reason="no C compiler")
def test_a_fused_training_goes_on_where_it_stopped(train, monkeypatch, tmp_path):
    monkeypatch.setattr(students, "FUSE_FROM", 0)
    whole, taken = [], []
    train(keep=whole.append)

    def interrupted(*args, on_epoch, **more):
        def stop(epoch, *seen):
            if epoch == 6:
                raise KeyboardInterrupt
            on_epoch(epoch, *seen)

        return fit(*args, on_epoch=stop, save_every=0.0, **more)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(students, "fit", interrupted)
        train(state_folder=tmp_path)
    assert list(tmp_path.iterdir())
    train(keep=taken.append, state_folder=tmp_path)
    assert all(map(torch.equal, whole[0].parameters(), taken[0].parameters()))


def test_test_labels_do_not_reach_the_training(data, scorer, spec, quick):
    """With two classes, flipped test labels give exactly the complement, even where the protocol looks every epoch."""
    x, y = data(20, 1, classes=2, noise=250.0)
    tx, ty = data(90, 2, classes=2, noise=250.0)

    def top1(labels):
        protocol = quick(steps=6, best_every=1)
        scored = scorer(protocol, tx, labels, replace(spec, num_classes=2))
        return scored.train(STUDENT, TrainingSet(x, y), Key(0)).top1

    assert top1(ty) == pytest.approx(1 - top1(1 - ty))


def test_best_over_the_test_set_is_extra(train, quick):
    looking = train(protocol=quick(best_every=1))
    assert looking.best_top1 >= looking.top1 == train(protocol=quick()).top1
    assert train(protocol=quick()).best_top1 is None


def test_no_look_at_the_test_set_is_the_same_student(train, quick):
    unseen = train(protocol=quick(best_every=1), best_seen=False)
    assert unseen.best_top1 is None and unseen.top1 == train(protocol=quick(best_every=1)).top1


def test_the_last_epoch_is_one_of_those_of_which_the_best_is_told(train, quick):
    """Where the protocol looks only then, and where it has looked at worse ones before."""
    last = train(protocol=get_protocol("small", epochs=4, batch=10, ema=None, best_every=4))
    assert last.best_top1 == last.top1
    learned = train(protocol=quick(best_every=1))
    short = train(protocol=quick(best_every=1, lr=1e-9))  # of no use at any time
    assert learned.best_top1 >= learned.top1 > short.best_top1


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0.0), ("float16", 1e-3)])
def test_stored_and_online_labels_give_the_same_student(
    data, device, model, taught, quick, tmp_path, dtype, tolerance
):
    x, y = data(30, 1)
    protocol = quick(mix="cutmix", crop=(0.5, 1.0)).resolve(STUDENT, 10)
    policy, key = protocol.policy(8), Key(4)
    store = write_store(tmp_path, x, y, taught, policy, key / "views", 2, 10, device, dtype=dtype)

    def weights(regime):
        batches = student_batches(TrainingSet(x, y, regime, taught, store), protocol, policy, key, device)
        result = fit(
            model(2), batches, protocol_loss(protocol, regime), FitRecipe(2, 1e-3, "sgd"), device=device, key=key
        )
        assert result.steps == 6
        return torch.cat([p.detach().flatten() for p in result.model.parameters()])

    online, stored = weights("online"), weights("stored")
    assert (online - stored).abs().max() <= tolerance
    assert (online - weights("hard")).abs().max() > 1e-3
    assert all(p.grad is None for p in taught.parameters())


def test_accumulation_slices_soft_batches(data, device, taught, quick):
    x, y = data(30, 1)
    protocol = quick(accumulation=2, mix="cutmix").resolve(STUDENT, 10)
    for regime, sizes in (("online", [5] * 6), ("hard", [10] * 3)):
        batches = student_batches(TrainingSet(x, y, regime, taught), protocol, protocol.policy(8), Key(0), device)
        assert [len(b.labels) for b in batches(0)] == sizes


def test_a_store_with_fewer_epochs_starts_again(train, data, taught, device, quick, tmp_path):
    x, y = data(30, 1)
    protocol = quick(steps=12)
    store = write_store(tmp_path, x, y, taught, protocol.policy(8), Key(4), 2, 10, device)
    assert train("stored", labelled={"store": store}, protocol=protocol).steps == 12


@pytest.mark.parametrize("regime", ["hard", "online", "stored"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_short_last_batch_is_a_step_too(train, data, taught, device, tmp_path, regime, accumulation):
    """25 images in batches of 10 (or two halves of 5) take 3 steps a pass, whatever set they are trained like."""
    (x, y), own = data(25, 1), {"batch": 10, "accumulation": accumulation, "ema": None, "mix": "none"}
    for changes, steps in (({"epochs": 2}, 6), ({"steps": 7}, 6), ({"steps": 8}, 9)):  # whole passes
        protocol = get_protocol("small", **own, **changes)
        folder = tmp_path / "-".join(map(str, changes.values()))
        store = write_store(folder, x, y, taught, protocol.policy(8), Key(4), 2, 10, device)
        labelled = {"teacher": taught, "store": store if regime == "stored" else None}
        assert train(regime, y, x, protocol=protocol, labelled=labelled).steps == steps
        if regime != "stored":
            (many, classes), labelled = data(60, 1), labelled | {"train_as_if_images": 25}
            assert train(regime, classes, many, protocol=protocol, labelled=labelled).steps == steps


def test_an_odd_batch_is_cut_into_a_larger_and_a_smaller_half(data, device, taught, quick):
    x, y = data(30, 1)
    protocol = quick(batch=5, accumulation=2).resolve(STUDENT, 10)
    batches = student_batches(TrainingSet(x, y, "online", taught), protocol, protocol.policy(8), Key(0), device)
    assert [len(b.labels) for b in batches(0)] == [3, 2] * 6


def test_more_images_can_train_for_as_long_as_few(data, scorer, quick):
    x, y = data(90, 1)
    for protocol in (quick(), get_protocol("small", epochs=7, batch=10)):
        sets = [TrainingSet(x[:count], y[:count], train_as_if_images=30) for count in (90, 30)]
        results = [scorer(protocol, x, y).train(STUDENT, found, Key(0)) for found in sets]
        assert results[0].steps == results[1].steps


def test_double_update_is_another_student(data, scorer, quick):
    x, y = data(30, 1)
    few = {"steps": 4, "lr": 1e-9, "weight_decay": 0.0}  # weights stand still, so only batch norms tell them apart
    one, two = (
        scorer(quick(bn_double_update=double, **few), x, y).train("cifar_wrn16_2", TrainingSet(x, y), Key(0))
        for double in (False, True)
    )
    assert one.steps == two.steps == 3
    assert one.top1 != two.top1


def test_validation_rule():
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    assert validation_images(images, 64, "8/7").shape[-1] == 72
    assert validation_images(images, 32, "none") is images
    assert validation_images(images[..., :32, :32], 32, "8/7").shape[-1] == 32  # 32 // 7 * 8


def test_what_is_missing_is_said(train, quick):
    with pytest.raises(ConfigError, match="label store"):
        train("stored")
    with pytest.raises(ConfigError, match="teacher"):
        train("online")
    with pytest.raises(ConfigError, match="hard, stored, online"):
        train("soft")
    with pytest.raises(ConfigError, match="images"):
        train(labels=torch.zeros(4, dtype=torch.int64))


def test_trained_weights_are_no_student(data, scorer, model, quick, tmp_path):
    x, y = data(30, 1)
    write_checkpoint(model(7), tmp_path / "own", 8)
    with pytest.raises(ModelError, match=model(7).build["architecture"]) as caught:
        scorer(quick(), x, y).train(str(tmp_path / "own"), TrainingSet(x, y), Key(0))
    assert caught.value.field == "students"


def test_a_last_batch_of_one_image_does_not_stop_batch_norms(data, device, scorer, model, quick, tmp_path):
    x, y = data(26, 1)
    protocol, teacher = quick(batch=25, steps=4).resolve("cifar_mobilenetv2", 8), Ensemble([model(7)])
    (epochs, limit), policy = protocol.duration(26), protocol.policy(8)
    store = write_store(tmp_path / "store", x, y, teacher, policy, Key(5), epochs, 25, device, limit=limit)
    for regime in ("hard", "stored", "online"):
        found = TrainingSet(x, y, regime, teacher, store)
        assert scorer(protocol, x, y).train("cifar_mobilenetv2", found, Key(0)).steps == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_student_whose_loss_is_no_number_is_an_error(train, data, value):
    images = data(30, 1)[0].float() / 255
    images[3, 0, 0, 0] = value
    with pytest.raises(
        ModelError, match=f"^invalid students={STUDENT!r}.*loss.*it is (nan|inf) in epoch 1 of .*small"
    ):
        train(images=images)
