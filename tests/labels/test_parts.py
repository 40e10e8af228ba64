"""Batches that are labelled in the parts in which students are given them: each with the statistics of its own images."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from hf_condense.config import LabelSettings
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError
from hf_condense.evaluation.batches import student_batches
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels import store as store_module
from hf_condense.labels.formats import store_format
from hf_condense.labels.store import LabelStore, write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import epoch_batches
from hf_condense.models.image_model import ImageModel

POLICY, KEY, CPU = ViewPolicy(8, crop=(0.3, 1.0)), Key(5), torch.device("cpu")
FORMS = {
    "full": {},
    "int8": {},
    "pruned": {"keep_every": 2},
    "packed": {"views_per_image": 2, "top_k": 1},
    "virtual": {},
}


def network(seed: int) -> ImageModel:
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return ImageModel(body, num_classes=3, channels=1)


@pytest.fixture
def bssl() -> Ensemble:
    return Ensemble([network(1), network(2)], bn="batch")


@pytest.fixture
def write(tmp_path, bssl, images):
    def make(kind="full", parts=2, n=32, teacher=bssl, x=None, dtype="float32", batch=16, folder=None, policy=POLICY):
        x = images(n) if x is None else x
        y, form = torch.arange(len(x)) % 3, store_format(LabelSettings(kind, **FORMS[kind]), parts=parts)
        folder = tmp_path / (folder or f"{kind}-{parts}-{len(list(tmp_path.iterdir()))}")
        return write_store(folder, x, y, teacher, policy, KEY, 2, batch, CPU, form=form, dtype=dtype), x, y

    return make


def by_itself(teacher: Ensemble, images: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    return torch.cat([teacher.logits(part) for part in images.split(sizes)])


@pytest.mark.parametrize("parts", [1, 2])
def test_a_label_depends_on_the_images_of_its_part_and_on_no_others(write, images, parts):
    """The first image of a batch of 16, where one image of either half is another."""
    rows = epoch_batches(KEY, 0, 16, 16)[0].tolist()

    def first(changed: int | None) -> torch.Tensor:
        x = images(16)
        if changed is not None:
            x[rows[changed]] = 255 - x[rows[changed]]
        store, x, y = write(parts=parts, x=x)
        return next(iter(store.replay(0, x, y))).soft[0]

    plain = first(None)
    assert not torch.equal(first(7), plain)
    assert torch.equal(first(8), plain) == (parts == 2)


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("n", [32, 25, 19])
def test_every_store_holds_the_labels_of_its_parts(write, bssl, kind, n):
    """And the teacher of virtual labels makes them again in the same ones. No image is by itself: it has no statistics."""
    store, x, y = write(kind, n=n)
    assert store.settings["accumulation"] == 2
    for batch in store.replay(0, x, y, teacher=bssl):
        wanted = by_itself(bssl, batch.images, {16: [8, 8], 9: [7, 2], 3: [3]}[len(batch.labels)])
        whole, error = bssl.logits(batch.images), 1e-6
        if kind == "packed":  # of 3 classes it keeps 1
            top = wanted.argmax(1, keepdim=True)
            wanted, whole, kept = (logits.gather(1, top) for logits in (wanted, whole, batch.soft))
        else:
            kept = batch.soft
        if kind in ("int8", "packed"):
            error = float(wanted.max() - wanted.min()) / 100
        assert (kept - wanted).abs().max() < error
        assert (kept - whole).abs().max() > 2 * error or len(kept) == 3
    if kind == "virtual":
        assert store.regeneration(bssl, x, y).verdict == "equal"


def test_parts_make_no_difference_where_labels_do_not_depend_on_the_batch(write):
    """Such labels are made in one pass, and are the same to the bit."""
    running = Ensemble([network(1)])
    (one, x, y), (two, *_) = write(parts=1, teacher=running), write(parts=2, teacher=running)
    for a, b in zip(one.replay(0, x, y), two.replay(0, x, y), strict=True):
        assert torch.equal(a.soft, b.soft)
    assert get_protocol("gvbsm-tiny").accumulation == 2 and get_protocol("gvbsm-tiny").label_parts == 1
    assert store_format(LabelSettings(), None, 1) == store_format(LabelSettings())


def test_norms_of_an_ensemble_are_taken_in_the_part_too(bssl, images):
    teacher, x = Ensemble([network(1), network(2)], "normalised"), images(6) / 255
    assert torch.equal(teacher.logits(x, [3, 3]), by_itself(teacher, x, [3, 3]))
    assert not torch.allclose(teacher.logits(x, [3, 3]), teacher.logits(x), atol=1e-6)


@pytest.mark.parametrize("n", [30, 26, 9])
def test_students_are_given_the_parts_that_were_labelled(bssl, images, tmp_path, n):
    """Stored and online labels are those of the very batch that passes the student at once; 9 images make 5 and 4."""
    x, y = images(n), torch.arange(n) % 3
    protocol = get_protocol("sre2lpp-cifar10", epochs=2, lr=1e-3, mix="none").resolve("convnet_w32", 1)
    policy = protocol.policy(8)
    assert protocol.label_parts == protocol.accumulation == 2
    form = store_format(LabelSettings(), 20.0, protocol.label_parts)
    store = write_store(
        tmp_path, x, y, bssl, policy, KEY / "views", 2, protocol.batch_size(n), CPU, form=form, dtype="float32"
    )
    for regime in ("stored", "online"):
        batches = student_batches(TrainingSet(x, y, regime, bssl, store), protocol, policy, KEY, CPU)
        found = list(batches(1))
        assert [len(b.labels) for b in found] == {30: [8, 8, 8, 6], 26: [8, 8, 8, 2], 9: [5, 4]}[n]
        for batch in found:
            assert torch.equal(batch.soft, bssl.logits(batch.images))


def test_a_store_of_whole_batches_is_read_as_before(write, bssl, monkeypatch):
    """Which says nothing of parts; a store of format 4 is one of parts."""
    store, x, y = write(parts=1, folder="old")
    assert "accumulation" not in store.settings
    path = store.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["format"] = 2
    del manifest["settings"]["epochs_per_group"]
    again = LabelStore.open(store.folder, x)
    for batch in again.replay(0, x, y):
        assert torch.equal(batch.soft, bssl.logits(batch.images))
    for changes, word in (
        ({"accumulation": 2}, "accumulation=2"), ({"format": 4}, "accumulation=1"),
        ({"format": 6, "epochs_per_group": 1}, "Install a newer"), ({"format": 5}, "epochs_per_group"),
        ({"format": 4, "accumulation": 17}, "accumulation=17"), ({"format": 4, "accumulation": "2"}, "accumulation"),
        ({"format": 4, "accumulation": True}, "accumulation"),
    ):  # fmt: skip
        path.write_text(json.dumps({**manifest, "settings": {**manifest["settings"], **changes}}))
        with pytest.raises(ArtefactError, match=word):
            LabelStore.open(store.folder)


def test_a_store_of_parts_is_not_gone_on_with_as_one_of_whole_batches(write, monkeypatch):
    monkeypatch.setattr(store_module, "GROUP_BYTES", 1)
    monkeypatch.setattr(store_module, "FILE_BYTES", 1)
    store, *_ = write(folder="one")
    next(store.folder.glob("views-*")).unlink()
    with pytest.raises(ArtefactError, match=r"accumulation|format"):
        write(parts=1, folder="one")
    kept, x, y = write(folder="one")
    assert kept.fingerprint == store.fingerprint and len(list(kept.replay(0, x, y))) == 2
