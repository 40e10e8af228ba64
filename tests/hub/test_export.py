"""Exported sets are read by the programs they are for, with the same pixels, classes and soft labels."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from hf_condense import export
from hf_condense.cli import main
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.importing import import_set

FORMS = ("imagefolder", "webdataset", "torch", "numpy")


@pytest.fixture
def data(artefact, tmp_path):
    """Rows in no order of their classes; names that do not sort as their numbers, and one that would lead elsewhere."""
    made = artefact(class_names=["plane", "../car", "bird"], float_images=torch.randn(12, 3, 8, 8))
    rows = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    for name in ("images", "labels", "soft_labels"):
        setattr(made, name, getattr(made, name)[rows])
    write_artefact(tmp_path / "set", made)
    return DistilledDataset.load(tmp_path / "set")


def exported(data, to, tmp_path):
    arguments = ["export", str(data.folder), "--to", to, "--output_dir", str(tmp_path / "out"), "--soft_labels"]
    assert main(arguments) == 0
    note = json.loads((tmp_path / "out" / "origin.json").read_text())
    assert note["content_hash"] == data.content_hash and note["method"]["name"] == "edc"
    assert note["source"]["license"] == "mit" and note["class_names"] == data.class_names
    return tmp_path / "out"


def same(data, images, labels, soft):
    """The rows may stand in another order: they are found by their pixels."""
    place = [next(j for j, image in enumerate(images) if torch.equal(image, own)) for own in data.images]
    assert sorted(place) == list(range(12))
    assert [int(labels[j]) for j in place] == data.labels.tolist()
    assert all(torch.equal(torch.as_tensor(soft[j]), own.float()) for j, own in zip(place, data.soft_labels))


def test_torchvision_reads_class_folders(data, tmp_path):
    folder = exported(data, "imagefolder", tmp_path)
    found = ImageFolder(folder / "train")
    assert [name.partition("-")[2] for name in found.classes] == ["plane", "car", "bird"]
    images = [pil_to_tensor(image) for image, _ in found]
    same(data, images, found.targets, np.load(folder / "soft_labels.npy"))
    assert {p.name for p in tmp_path.iterdir()} == {"set", "out"}, "no class name leads out of the folder"


def test_webdataset_reads_shards(data, tmp_path, monkeypatch):
    webdataset = pytest.importorskip("webdataset", reason="the extra `exports` is not installed")
    monkeypatch.setattr("hf_condense.hub.export.SHARD_IMAGES", 5)
    folder = exported(data, "webdataset", tmp_path)
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    assert len(shards) == 3
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("torchrgb8").to_tuple("png", "cls", "npy"))
    same(data, *zip(*rows))


def test_rethinkdc_reads_class_folders_and_the_set_itself(data, tmp_path):
    """Its folder reader takes the first images of each class; the class around it runs with older torchvision only."""
    reader = pytest.importorskip("rethinkdc.imagenet_ipc", reason="the package rethinkdc is not installed")
    folder = exported(data, "imagefolder", tmp_path)
    found = reader.make_dataset(str(folder / "train"), extensions=(".png",), image_number=4)
    images = [pil_to_tensor(Image.open(path)) for path, _ in found]
    same(data, images, [label for _, label in found], np.load(folder / "soft_labels.npy"))
    few = reader.make_dataset(str(folder / "train"), extensions=(".png",), image_number=2)
    assert [label for _, label in few] == [0, 0, 1, 1, 2, 2]
    whole = load_dataset(str(data.folder), cache_dir=str(tmp_path / "cache")).rename_column("label", "class_id")
    rows = reader.HFDatasetAdapter(whole, pil_to_tensor)
    assert all(torch.equal(image, own) for (image, _), own in zip(rows, data.images))
    assert [label for _, label in rows] == data.labels.tolist()


def test_dd_ranking_trains_on_one_file_as_on_our_soft_labels(artefact, tmp_path):
    """Its losses take logits: what softmax makes of the logarithm of a probability is that probability."""
    soft = torch.randn(12, 6, generator=torch.Generator().manual_seed(2)).softmax(1).half()  # it counts the best five
    write_artefact(tmp_path / "set", artefact(class_names=list("abcdef"), soft_labels=soft))
    data = DistilledDataset.load(tmp_path / "set")
    utils = pytest.importorskip("ddranking.utils", reason="the package ddranking is not installed")
    losses = pytest.importorskip("ddranking.loss", reason="the package ddranking is not installed")
    found = torch.load(exported(data, "torch", tmp_path) / "set.pt", weights_only=True)
    images, soft = found["images"] / 255, found["soft_labels"]
    theirs = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6))
    ours = copy.deepcopy(theirs)
    utils.train_one_epoch(
        epoch=0,
        stu_model=theirs,
        loader=DataLoader(utils.TensorDataset(images, soft.clamp_min(1e-8).log()), batch_size=6),
        loss_fn=losses.SoftCrossEntropyLoss(temperature=1.0),
        optimizer=torch.optim.SGD(theirs.parameters(), lr=0.1),
        aug_func=lambda images: images,
        device="cpu",
    )
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    for pixels, labels in zip(images.split(6), soft.split(6)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(ours(pixels), labels).backward()
        optimizer.step()
    assert torch.allclose(theirs[1].weight, ours[1].weight, atol=1e-5)


def test_torch_reads_one_file_without_running_code(data, tmp_path):
    found = torch.load(exported(data, "torch", tmp_path) / "set.pt", weights_only=True)
    assert found["class_names"] == data.class_names and torch.equal(found["float_images"], data.float_images)
    same(data, found["images"], found["labels"], found["soft_labels"])


def test_numpy_reads_one_file_without_running_code(data, tmp_path):
    found = np.load(exported(data, "numpy", tmp_path) / "set.npz", allow_pickle=False)
    assert found["class_names"].tolist() == data.class_names
    same(data, torch.from_numpy(found["images"]), found["labels"], found["soft_labels"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("to", FORMS)
def test_sets_with_class_numbers_alone_are_exported_the_same_each_time(artefact, content_of, tmp_path, to, channels):
    bare = {"soft_labels": None, "soft_label_kind": None}
    write_artefact(tmp_path / "set", artefact(channels, content=content_of(regimes=["hard"]), **bare))
    first, second = (export(tmp_path / "set", to, tmp_path / name) for name in ("a", "b"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == (13 if to == "imagefolder" else 2)
    if to != "numpy":  # a zip file holds the time
        assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    with pytest.raises(ArtefactError, match="no soft labels"):
        export(tmp_path / "set", to, tmp_path / "c", soft_labels=True)
    assert not (tmp_path / "c").exists()


def test_tiles_are_exported_as_the_images_that_students_see(artefact, content_of, tmp_path):
    training = {"protocol": "small", "policy": None, "decode": {"formation": {"factor": 2}}}
    write_artefact(tmp_path / "set", artefact(content=content_of(training=training)))
    found = torch.load(export(tmp_path / "set", "torch", tmp_path / "out") / "set.pt", weights_only=True)
    data = DistilledDataset.load(tmp_path / "set")
    seen = torch.stack([item["pixel_values"] for item in data.torch_dataset()])
    assert found["images"].shape == (48, 3, 8, 8) and found["images"].dtype == torch.uint8
    assert (found["images"] / 255 - seen).abs().max() <= 0.5 / 255 + 1e-6


def test_what_cannot_be_exported_is_refused(data, artefact, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="output_dir.*not there yet"):
        export(data.folder, "torch", tmp_path / "there")
    with pytest.raises(ConfigError, match="imagefolder, webdataset, torch, numpy"):
        export(data.folder, "tfrecord", tmp_path / "out")
    write_artefact(tmp_path / "gap", artefact(class_names=["plane", "car", "bird", "ship"], soft_labels=None))
    with pytest.raises(ConfigError, match="'ship' has no image"):
        export(tmp_path / "gap", "imagefolder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_our_own_repository_is_imported(artefact, tmp_path):
    """Its float images and its label store are Parquet too."""
    made = artefact(float_images=torch.randn(12, 3, 8, 8))
    write_artefact(tmp_path / "set", made)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(made.class_names))
    import_set("parquet", tmp_path / "set", tmp_path / "again", "local", class_names=names)
    again = DistilledDataset.load(tmp_path / "again")
    assert torch.equal(again.images, made.images) and torch.equal(again.labels, made.labels)
