"""Official soft-label folders become a store that replays the views and logits of their makers."""

import os

import pytest
import torch
from datasets import load_dataset

from hf_condense.errors import ArtefactError
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.importing import import_set
from hf_condense.hub.importing.fkd import FkdFolder, agreement, sampler_orders, write_fkd_store
from tests.hub.foreign import digits, nearest_mean, write_fkd, write_folder
from tests.hub.test_imports_restricted import Trap

IPC = 4


@pytest.fixture(scope="module")
def images():
    return digits(IPC)[0]


@pytest.fixture(scope="module")
def labels():
    return digits(IPC)[1]


def largest_gap(store, images, labels, teacher, epochs=3):
    """Between the stored logits and the teacher's answer to the views that we make."""
    gaps = []
    for epoch in range(epochs):
        batches = list(store.replay(epoch, images, labels))
        assert sum(len(b.labels) for b in batches) == len(images)
        gaps += [(teacher(b.images) - b.soft).abs().max().item() for b in batches]
    return max(gaps)


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
@pytest.mark.parametrize("index", [False, True])
def test_replay_gives_the_views_that_were_labelled(tmp_path, images, labels, mix, index):
    source = write_fkd(tmp_path / "fkd", images, labels, mix=mix, index=index)
    store = write_fkd_store(source, tmp_path / "store", images, labels, 10)
    assert (store.epochs, store.batch_size, store.settings["views"]) == (3, 16, "explicit")
    assert largest_gap(store, images, labels, nearest_mean(images, labels)) < 0.02  # half precision of logits up to 30
    stored = [logits for _, _, logits in store.batches(1)]
    files = [torch.load(source / "epoch_1" / f"batch_{b}.tar", weights_only=False)[5] for b in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(stored, files)) and len(stored) == len(files)


def test_the_order_of_older_samplers_is_found_and_a_wrong_one_would_not_do(tmp_path, images, labels):
    source = write_fkd(tmp_path / "fkd", images, labels, draws=1)
    teacher = nearest_mean(images, labels)
    store = write_fkd_store(source, tmp_path / "store", images, labels, 10)
    assert largest_gap(store, images, labels, teacher) < 0.02
    right = [rows for rows, _, _ in store.batches(2)]
    newer = sampler_orders(len(images), 3, 2)[2]
    assert not torch.equal(torch.cat(right), newer)
    assert torch.equal(torch.cat(right), sampler_orders(len(images), 3, 1)[2])


def test_a_set_with_labels_loads_verifies_and_trains(tmp_path, images, labels):
    place = write_folder(tmp_path / "syn_data", images, labels, "new{:03d}".format)
    source = write_fkd(tmp_path / "fkd", images, labels)
    folder = import_set("folder", place, tmp_path / "out", "digits", method="sre2l", soft_labels=source)
    data = DistilledDataset.load(folder)
    assert data.content["labels"]["regimes"] == ["hard", "stored"] and data.store.epochs == 3
    batches = list(data.training_batches("stored", 1))
    teacher = nearest_mean(images, labels)
    assert all((teacher(b.images) - b.soft).abs().max() < 0.02 for b in batches)
    rows = load_dataset(str(folder), "soft_labels", split="train")
    assert len(rows) == 3 * len(images) and len(rows[0]["logits"]) == 10
    assert sorted(data.content["imported"]["sha256"]["soft_labels"]) == [f"epoch_{e}/" for e in range(3)]
    assert not list(tmp_path.glob(".out*"))


def test_labels_of_other_images_are_refused_by_name(tmp_path, images, labels):
    source = write_fkd(tmp_path / "fkd", images, labels)

    def refused(match, x=images, y=labels, classes=10, place=source):
        with pytest.raises(ArtefactError, match=match):
            write_fkd_store(place, tmp_path / "store", x, y, classes)
        assert not (tmp_path / "store").exists()

    refused("labels='of 40 images'.*of 39 images", images[1:], labels[1:])
    refused(r"logits=\[16, 10\].*11 classes", classes=11)
    # forty images of the same classes in another order: only classes tell
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    refused("labels=.*would be by chance", images[shuffled], labels[shuffled])
    indexed = write_fkd(tmp_path / "indexed", images.repeat(2, 1, 1, 1), labels.repeat(2), index=True)
    (indexed / "epoch_0" / "batch_4.tar").unlink()
    (indexed / "epoch_0" / "batch_3.tar").unlink()
    refused("of 48 images", place=indexed)


def test_gaps_damage_and_traps_in_the_files_are_named(tmp_path, images, labels):
    def refused(match, change):
        change(write_fkd(tmp_path / "fkd", images, labels, epochs=3))
        with pytest.raises(ArtefactError, match=match):
            write_fkd_store(tmp_path / "fkd", tmp_path / "store", images, labels, 10)
        os.rename(tmp_path / "fkd", tmp_path / f"done-{len(list(tmp_path.iterdir()))}")

    def edit(place, value):
        def change(root):
            file = root / "epoch_1" / "batch_1.tar"
            fields = torch.load(file, weights_only=False)
            fields[place] = value(fields[place])
            torch.save(fields, file)

        return change

    refused("epoch_1='missing'", lambda root: os.rename(root / "epoch_1", root / "epoch_7"))
    refused("batch_1.tar", lambda root: (root / "epoch_2" / "batch_1.tar").unlink())
    refused("batch_1.tar", lambda root: (root / "epoch_2" / "batch_1.tar").write_bytes(b"half"))
    refused("batch_1.tar: coordinates", edit(0, lambda crops: crops + 0.5))
    refused("batch_1.tar: partners", edit(2, torch.zeros_like))
    refused("batch_1.tar: box", edit(4, lambda box: [0, 0, 9, 9]))
    refused("batch_1.tar: logits", edit(5, lambda logits: logits / 0))
    refused("batch_1.tar=.*could not convert", edit(3, lambda lam: "much"))
    refused("batch_1.tar=.*not enough values", edit(4, lambda box: box[:2]))
    refused("posix.system", edit(3, lambda lam: Trap(tmp_path / "ran")))
    assert not (tmp_path / "ran").exists()


def test_agreement_counts_the_class_of_the_image_or_of_its_partner(tmp_path, images, labels):
    source = write_fkd(tmp_path / "fkd", images, labels, mix="none")
    store = write_fkd_store(source, tmp_path / "store", images, labels, 10)
    hits = [(logits.argmax(1) == labels[rows]).double() for rows, _, logits in store.batches(0)]
    fkd = FkdFolder(source, 40, 10, 8)
    assert agreement([fkd.read(fkd.epochs[0])], sampler_orders(40, 1, 2), labels) == torch.cat(hits).mean().item()
