"""Which epochs see which labels, and that a student learns from both."""

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.evaluation import students
from hf_condense.evaluation.batches import Pixels
from hf_condense.evaluation.losses import protocol_loss
from hf_condense.evaluation.phases import soft_hard_soft
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels.store import write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import view_batches
from hf_condense.models.training import Batch, FitRecipe, fit


def test_soft_epochs_stand_around_the_hard_ones_and_none_is_skipped():
    seen = soft_hard_soft(lambda e: ("soft", e), lambda e: ("hard", e), range(2, 5))
    assert [seen(e) for e in range(7)] == [
        ("soft", 0), ("soft", 1), ("hard", 2), ("hard", 3), ("hard", 4), ("soft", 2), ("soft", 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "epochs, share, middle", [(300, 0.5, range(75, 225)), (5, 0.5, range(1, 3)), (7, 0.0, range(3, 3)), (1, 0.4, range(0))]
)  # fmt: skip
def test_hard_epochs_are_the_share_in_the_middle(epochs, share, middle):
    protocol = get_protocol("small", epochs=epochs, hard_share=share)
    assert list(protocol.hard_epochs(epochs)) == list(middle)
    assert protocol.soft_epochs(100) == epochs - len(middle)


def test_what_the_phases_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="hard_share"):
        get_protocol("small", hard_share=1.0)
    with pytest.raises(ConfigError, match="accumulation"):
        get_protocol("small-hald", accumulation=2)
    with pytest.raises(ConfigError, match="stages"):
        get_protocol("small-hald", batch=10).staged([10, 20])


@pytest.fixture
def labelled(data, model, tmp_path, device):
    """(images, labels, a store of two epochs, its teacher, which knows the stripes)."""
    images, labels = data(60, 0)
    recipe = FitRecipe(40, 5e-3, "adamw")
    pairs = lambda epoch: [Batch(images.float() / 255, labels)]  # noqa: E731
    known = fit(
        model(1), pairs, lambda x, b: torch.nn.functional.cross_entropy(x, b.labels), recipe, device=device, key=Key(1)
    )
    teacher, policy = Ensemble([known.model]), get_protocol("small", crop=None, mix="none").policy(8)
    return images, labels, write_store(tmp_path / "store", images, labels, teacher, policy, Key(2), 2, 20, device)


def watched(labelled, device, protocol, monkeypatch):
    """The batches that `fit` asks for, by epoch."""
    images, labels, store = labelled
    found = []

    def look(model, batches, loss, recipe, **more):
        found.extend(list(batches(e)) for e in range(recipe.epochs))

    monkeypatch.setattr(students, "fit", look)
    resolved, recipe = students.training_plan(protocol, len(images))
    training = TrainingSet(images, labels, "stored", store=store)
    students.fit_student(None, training, resolved, recipe, size=8, key=Key(3), device=device, pixels=Pixels())
    return found, store


def test_a_training_on_stored_labels_sees_every_stored_epoch_and_new_views_between(labelled, device, monkeypatch):
    images, labels, _ = labelled
    protocol = get_protocol("small-hald", epochs=5, hard_share=0.4, batch=20)
    epochs, store = watched(labelled, device, protocol, monkeypatch)
    assert [epoch[0].soft is not None for epoch in epochs] == [True, False, False, True, True]
    for place, stored in ((0, 0), (3, 1), (4, 0)):  # two stored epochs, in turn
        for batch, want in zip(epochs[place], store.replay(stored, images, labels)):
            assert torch.equal(batch.images, want.images) and torch.equal(batch.soft, want.soft)
    policy = protocol.policy(8)
    for place in (1, 2):
        drawn = view_batches(images, labels, policy, Key(3, "hard", "views"), place, 20)
        for batch, (_, _, want) in zip(epochs[place], drawn):
            assert torch.equal(batch.images, want.images) and torch.equal(batch.labels, want.labels)
            assert batch.partner is not None  # whole batches: hard labels of mixed images need both classes


@pytest.mark.parametrize("name", ["small-gift", "small-hald"])
def test_a_student_learns_and_with_the_sign_flipped_it_does_not(name, labelled, data, scorer, monkeypatch):
    images, labels, store = labelled
    protocol = get_protocol(name, steps=40, batch=20, crop=None, mix="none", ema=None)

    def top1():
        training = TrainingSet(images, labels, "stored", store=store)
        return scorer(protocol, *data(150, 9)).train("convnet_w32", training, Key(4)).top1

    assert top1() > 0.9
    monkeypatch.setattr(
        students, "protocol_loss", lambda p, regime: lambda x, batch: -protocol_loss(p, regime)(x, batch)
    )
    assert top1() < 0.5
