"""The protocols of the matching family: their values, their rates, and what their batches go through."""

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.data.siamese import apply_siamese, draw_siamese
from hf_condense.errors import ConfigError
from hf_condense.evaluation.batches import Pixels, student_batches
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.losses import mixed_ce, protocol_loss
from hf_condense.evaluation.protocols import get_protocol, list_protocols
from hf_condense.evaluation.run import score
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import view_batches

SHARED = {
    "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "decay_all": True, "regime": "hard", "ema": None,
    "crop": None, "pad": 0, "flip": 0.0, "val_resize": "none", "warmup_epochs": 0, "accumulation": 1, "steps": None,
}  # fmt: skip
DSA = {"epochs": 1001, "batch": 256, "mix": "none", "siamese": ("color", "crop", "cutout", "flip", "scale", "rotate"),
    "siamese_mode": "single", "siamese_params": {}, "best_every": 0}  # fmt: skip
VALUES = {
    "dc": {"epochs": 301, "batch": 256, "mix": "none", "siamese": (), "restart": True, "best_every": 0},
    "dc-mnist": {"epochs": 1001, "batch": 256, "mix": "none", "siamese": ("crop", "scale", "rotate"), "restart": True,
        "siamese_mode": "single", "best_every": 0},
    "dsa": {"epochs": 1001, "batch": 256, "mix": "none", "siamese": ("color", "crop", "cutout", "flip", "scale", "rotate"),
        "siamese_mode": "single", "siamese_params": {}, "restart": True, "best_every": 0},
    "idc": {"epochs": 1000, "batch": 64, "mix": "cutmix", "mix_probability": 0.5, "mix_alpha": 1.0, "restart": False,
        "siamese": ("color", "crop", "flip", "scale", "rotate"), "siamese_mode": "combined", "siamese_params": {},
        "best_every": 250},
    "idc-mnist": {"epochs": 1000, "batch": 64, "mix": "none", "restart": False, "siamese": ("color", "crop", "scale", "rotate"),
        "siamese_mode": "combined", "siamese_params": {}, "best_every": 250},
    "mtt": {**DSA, "learned_rate": True, "zca": False, "restart": True},
    "mtt-zca": {**DSA, "learned_rate": True, "zca": True, "restart": True},
    "tesla": {**DSA, "learned_rate": True, "regime": "stored", "label_per": "image", "loss": "soft_ce", "temperature": 1.0,
        "restart": True},
    "datm-zca": {**DSA, "batch": 128, "learned_rate": True, "regime": "stored", "label_per": "image", "loss": "soft_ce",
        "temperature": 1.0, "restart": True, "zca": True},
    "ncfm": {"epochs": 2000, "batch": 128, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "mix": "cutmix",
        "mix_probability": 0.5, "siamese": DSA["siamese"], "siamese_mode": "combined", "restart": False, "best_every": 100,
        "schedule_params": {"milestones": (0.2, 0.4, 0.6, 0.8), "factor": 0.5}},
    "pdd-mtt": {**DSA, "learned_rate": True, "restart": False, "reset_between": False, "mode": "cumulative",
        "stage_epochs": 501},
    "pdd-mtt-equal-zca": {**DSA, "learned_rate": True, "restart": False, "stage_epochs": None, "zca": True},
    "pdd-idc": {"epochs": 1000, "batch": 64, "mix": "cutmix", "mix_probability": 0.5, "restart": False, "stage_epochs": 500,
        "schedule_params": {"milestones": (2 / 3, 5 / 6), "factor": 0.2}, "siamese_mode": "combined"},
    "pdd-idc-equal": {"epochs": 1000, "batch": 64, "stage_epochs": None, "learned_rate": False},
}  # fmt: skip


@pytest.mark.parametrize("name", list(VALUES))
def test_values_are_those_of_the_sources(name):
    assert name in list_protocols()
    resolved, wanted = get_protocol(name).resolve("convnet_w128", 10), SHARED | VALUES[name]
    assert {field: getattr(resolved, field) for field in wanted} == wanted
    assert protocol_loss(resolved, "hard") is mixed_ce
    assert (resolved.batch_size(10), resolved.batch_size(5000)) == (10, resolved.batch)


@pytest.mark.parametrize(
    "name, changes",  # the epochs, counted from 0, in which another rate begins
    [
        ("dc", {152: 0.1}),
        ("dc-mnist", {502: 0.1}),
        ("dsa", {502: 0.1}),
        ("idc", {666: 0.2, 833: 0.2}),
        ("idc-mnist", {666: 0.2, 833: 0.2}),
        ("mtt", {502: 0.1}),
        ("tesla-zca", {502: 0.1}),
        ("pdd-idc", {666: 0.2, 833: 0.2}),
    ],
)
def test_rates_drop_where_the_scripts_drop_them(name, changes):
    recipe = get_protocol(name).fit_recipe("convnet_w128", 10, 100)
    assert recipe.restart is ("idc" not in name) and recipe.decay_all
    rate = 0.01
    for epoch in range(recipe.epochs):
        rate *= changes.get(epoch, 1.0)
        assert recipe.rate(epoch) == pytest.approx(rate), epoch


def test_ncfm_trains_large_sets_of_tiny_imagenet_for_less():
    """By the training images of a class: four in each stored one."""
    protocol = get_protocol("ncfm-tiny-imagenet")
    assert [protocol.resolve("convnet_d4", ipc).epochs for ipc in (4, 40, 200)] == [2000, 300, 40]


def test_changed_epochs_keep_the_shape():
    recipe = get_protocol("dc", epochs=10).fit_recipe("convnet_w128", 10, 100)
    assert [recipe.rate(e) for e in (4, 5)] == pytest.approx([0.01, 0.001])


def test_policies():
    assert get_protocol("dc").siamese_policy() is None
    dsa, mnist, idc = (get_protocol(name).siamese_policy() for name in ("dsa", "dc-mnist", "idc"))
    assert dsa.family_per == idc.family_per == "call" and mnist.family_per == "group"
    assert dsa.drawn == ("flip", "color", "crop", "scale", "rotate", "cutout") and idc.drawn == mnist.drawn
    shifts = draw_siamese(mnist, Key(0), 500, 28, 28).shifts
    assert (shifts.min(), shifts.max(), mnist.angle) == (-4, 4, 45.0)
    assert get_protocol("dsa").siamese_policy(flip=False).families == ("color", "crop", "cutout", "scale", "rotate")
    assert get_protocol("dsa", siamese=("flip",)).siamese_policy(flip=False) is None
    assert get_protocol("idc").policy(28).mix_probability == 0.5


def batches_of(data, device, name, regime="hard", teacher=None, count=30, **pixels):
    x, y = data(count, 1)
    protocol = get_protocol(name).resolve("convnet_w32", 10)
    found = TrainingSet(x, y, regime, teacher)
    found = student_batches(found, protocol, protocol.policy(8), Key(0), device, Pixels(**pixels))
    return x.float() / 255, y, found


def test_a_batch_goes_through_one_family_with_numbers_for_each_image(data, device):
    x, y, found = batches_of(data, device, "dsa", mean=(0.3,), std=(0.2,))
    policy, seen = get_protocol("dsa").siamese_policy(), set()
    for epoch in range(12):
        (batch,) = found(epoch)
        rows = torch.from_numpy((Key(0) / "views" / "order" / epoch).permutation(30))
        draw = draw_siamese(policy, Key(0) / "siamese" / epoch / 0, 30, 8, 8)
        wanted = apply_siamese((x[rows] - 0.3) / 0.2, draw, policy) * 0.2 + 0.3
        torch.testing.assert_close(batch.images, wanted)
        assert torch.equal(batch.labels, y[rows]) and batch.partner is None
        seen.add(int(draw.family[0]))
        assert len(draw.family.unique()) == 1 < len(draw.angles.unique())
    assert len(seen) > 3


def test_batches_repeat_and_other_epochs_differ(data, device):
    _, _, found = batches_of(data, device, "idc")
    first, again, other = (torch.cat([b.images for b in found(e)]) for e in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_without_siamese_families_batches_are_plain_views(data, device):
    x, y, found = batches_of(data, device, "dc")
    policy = get_protocol("dc").policy(8)
    for (_, _, plain), batch in zip(view_batches(x, y, policy, Key(0) / "views", 2, 30), found(2), strict=True):
        assert torch.equal(plain.images, batch.images)
    assert torch.isin(batch.images, x).all()  # nothing but the images themselves


def test_mirroring_is_left_out_where_it_changes_the_class(data, device):
    x, y = data(30, 1)
    x[:, :, :, :4] = 0  # all that is bright is on the right
    protocol = get_protocol("dsa", siamese=("flip",)).resolve("convnet_w32", 10)
    for flip in (True, False):
        found = student_batches(TrainingSet(x, y), protocol, protocol.policy(8), Key(0), device, Pixels(flip=flip))
        (batch,) = found(0)
        assert (batch.images[..., :4].sum((1, 2, 3)) > 1).any().item() is flip


def test_idc_mixes_half_of_the_batches_after_augmentation(data, device):
    """Flips only, so that what a mixed pixel comes from can be told: the partner's image as it was augmented."""
    protocol = get_protocol("idc", siamese=("flip",), batch=10).resolve("convnet_w32", 10)
    x, y = data(30, 1)
    found, mixed = student_batches(TrainingSet(x, y), protocol, protocol.policy(8), Key(0), device), 0
    alone = get_protocol("idc", siamese=("flip",), batch=10, mix="none").resolve("convnet_w32", 10)
    plain = student_batches(TrainingSet(x, y), alone, alone.policy(8), Key(0), device)
    for epoch in range(40):
        for batch, unmixed in zip(found(epoch), plain(epoch), strict=True):
            own = (batch.images == unmixed.images).flatten(1)
            partner = (batch.images == unmixed.images[batch.partner]).flatten(1)
            assert (own | partner).all()
            assert own.all() or batch.lam < 1
            mixed += batch.lam < 1
    assert 40 < mixed < 75  # of 120 batches a half, less boxes without a pixel


def test_idc_on_mnist_mixes_nothing(data, device):
    for name, mixed in (("idc", True), ("idc-mnist", False)):
        _, _, found = batches_of(data, device, name)
        assert any(batch.partner is not None for epoch in range(20) for batch in found(epoch)) is mixed


def test_a_teacher_labels_the_augmented_images(data, device, model):
    teacher = Ensemble([model(1)])
    _, _, found = batches_of(data, device, "dsa", "online", teacher)
    _, _, hard = batches_of(data, device, "dsa")
    for epoch in range(3):
        (batch,), (same,) = found(epoch), hard(epoch)
        assert torch.equal(batch.images, same.images)
        torch.testing.assert_close(batch.soft, teacher.logits(batch.images))


def test_stored_labels_are_refused_before_any_work(data, device, spec, tmp_path):
    x, y = data(30, 1)
    with pytest.raises(ConfigError, match=r"stored.*hard or online.*dsa.*--regimes hard"):
        score(
            {"random": ImageSet(x, y)}, protocol=get_protocol("dsa"), students=["convnet_w32"], regimes=["hard", "stored"],
            seeds=1, ipc=10, test_images=x, test_labels=y, spec=spec, key=Key(0), device=device, scores_folder=tmp_path,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="--regimes hard"):
        batches_of(data, device, "idc", "stored")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["dc", "idc"])
def test_a_student_learns_what_labels_say(data, scorer, name):
    (x, y), (tx, ty) = data(30, 1), data(90, 2)
    # of the families those that leave the stripes, whose place is the class, where they are
    protocol = get_protocol(name, epochs=30, batch=10, **({"siamese": ("color", "flip")} if name == "idc" else {}))
    right, wrong = (
        scorer(protocol, tx, ty).train("convnet_w32", TrainingSet(x, labels), Key(0)).top1
        for labels in (y, (y + 1) % 3)
    )
    assert right > 0.9 and wrong < 0.1  # the gate: wrong labels must not pass
