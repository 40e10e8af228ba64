"""What is written is what `load_dataset` reads, bit for bit, and it appears whole or not at all."""

import json
import os

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Image, List, Value, get_dataset_config_names, load_dataset

from hf_condense import files
from hf_condense.errors import ArtefactError
from hf_condense.hub import artefact as artefact_module
from hf_condense.hub.artefact import decode_png, encode_png, write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.hashes import content_hash, pixels_hash


def read_with_datasets(folder, cache, config=None):
    return load_dataset(str(folder), config, split="train", cache_dir=str(cache))


@pytest.mark.parametrize("channels", [1, 3])
def test_load_dataset_gives_equal_data(artefact, tmp_path, channels):
    made = artefact(channels)
    write_artefact(tmp_path / "dataset", made)
    data = read_with_datasets(tmp_path / "dataset", tmp_path / "cache")
    assert data.features["image"] == Image()
    assert data.features["label"] == ClassLabel(names=made.class_names)
    assert data.features["soft_label"] == List(Value("float16"), length=3)
    assert data["label"][:] == made.labels.tolist()
    pixels = np.stack([np.asarray(picture) for picture in data["image"]])
    wanted = made.images.numpy()[:, 0] if channels == 1 else made.images.numpy().transpose(0, 2, 3, 1)
    assert (pixels == wanted).all()
    assert torch.equal(torch.tensor(data["soft_label"][:], dtype=torch.float16), made.soft_labels)


def test_every_config_loads(artefact, tmp_path):
    floats = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = artefact(float_images=floats, stages=torch.arange(12) // 4)
    folder, cache = tmp_path / "dataset", tmp_path / "cache"
    write_artefact(folder, made)
    assert get_dataset_config_names(str(folder)) == ["default", "tensors"]
    stages = read_with_datasets(folder, cache)["pdd_stage"][:]
    assert stages == [0] * 4 + [1] * 4 + [2] * 4
    tensors = read_with_datasets(folder, cache, "tensors").with_format("numpy")["tensor"][:]
    assert (np.stack(tensors) == floats.numpy()).all()


def test_many_files_make_one_dataset(artefact, tmp_path, monkeypatch):
    monkeypatch.setattr(artefact_module, "SHARD_BYTES", 1000)  # 12 images of 192 bytes: three files
    made = artefact()
    write_artefact(tmp_path / "dataset", made)
    names = [f.name for f in sorted((tmp_path / "dataset" / "data").iterdir())]
    assert names == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    data = read_with_datasets(tmp_path / "dataset", tmp_path / "cache")
    assert data["label"][:] == made.labels.tolist()
    assert (np.asarray(data[11]["image"]) == made.images[11].permute(1, 2, 0).numpy()).all()
    assert torch.equal(DistilledDataset.load(tmp_path / "dataset").soft_labels, made.soft_labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_exact(channels):
    image = np.random.default_rng(0).integers(0, 256, (channels, 5, 9), dtype=np.uint8)
    assert (decode_png(encode_png(image), channels) == image).all()


@pytest.mark.parametrize("part", ["images", "labels", "soft_labels", "stages", "float_images"])
def test_the_hash_of_pixels_sees_one_value_of_every_part(artefact, part):
    """Of each that is published, and whether it is there at all."""
    made = artefact(stages=torch.arange(12) // 4, float_images=torch.rand(12, 3, 8, 8))
    parts = {name: getattr(made, name) for name in ("images", "labels", "soft_labels", "stages", "float_images")}

    def hashed(images, labels, soft_labels=None, **more):
        return pixels_hash(images, labels, soft_labels, **more)

    base, other = hashed(**parts), parts[part].clone()
    other[(7,) + (0,) * (other.ndim - 1)] += 1
    assert hashed(**parts | {part: other}) != base
    if part not in ("images", "labels"):
        assert hashed(**parts | {part: None}) != base
    swapped = parts[part][[1, 0, *range(2, 12)]]
    assert torch.equal(swapped, parts[part]) == (hashed(**parts | {part: swapped}) == base)


def test_the_hash_of_pixels_sees_every_part_and_the_order_of_rows(artefact):
    made = artefact()
    parts = (made.images, made.labels, made.soft_labels)
    base = pixels_hash(*parts)
    assert base == pixels_hash(*(p.clone() for p in parts))
    for i, change in enumerate((lambda t: t ^ 1, lambda t: (t + 1) % 3, lambda t: t + 0.01)):
        other = [p.clone() for p in parts]
        other[i][3:4] = change(other[i][3:4])
        assert pixels_hash(*other) != base
    assert pixels_hash(*(p.flip(0) for p in parts)) != base
    assert pixels_hash(made.images, made.labels) != base
    assert pixels_hash(made.images.reshape(12, 3, 4, 16), *parts[1:]) != base


def test_the_content_hash_sees_all_that_a_student_needs(artefact, tmp_path):
    """And nothing else: scores, titles and the place of a network are not training."""
    content = write_artefact(tmp_path / "dataset", artefact())
    manifest = {"settings": {"epochs": 2}, "files": {"a": {"sha256": "1"}}, "record": {"torch": "2"}}
    pixels = content["pixels_hash"]
    base = content_hash(content, pixels, manifest)
    assert content["content_hash"] == content_hash(content, pixels)
    for name in ("class_names", "images", "labels", "soft_label", "training"):
        assert content_hash({**content, name: None}, pixels, manifest) != base, name
    for name in ("name", "roles", "sha256"):
        models = [{**content["models"][0], name: "other"}]
        assert content_hash({**content, "models": models}, pixels, manifest) != base, name
    assert content_hash(content, "sha256:0", manifest) != base and content_hash(content, pixels) != base
    for changed in ({"settings": {"epochs": 3}}, {"files": {"a": {"sha256": "2"}}}):
        assert content_hash(content, pixels, manifest | changed) != base
    assert content_hash({**content, "scores": 1, "method": 1}, pixels, manifest | {"record": 1}) == base


def test_content_is_the_same_bytes_on_every_run(artefact, tmp_path):
    first = write_artefact(tmp_path / "one", artefact())
    later = artefact()
    later.record = {**later.record, "created": "another day", "versions": {}}
    second = write_artefact(tmp_path / "two", later)
    assert files.canonical_json(first) == files.canonical_json(second)
    written = json.loads((tmp_path / "two" / "condensation.json").read_text())
    assert files.canonical_json(written["content"]) == files.canonical_json(second)
    assert str(tmp_path) not in json.dumps(written["content"])
    assert written["record"]["created"] == "another day"


def test_recorded_checksums_are_those_of_the_files(artefact, tmp_path):
    write_artefact(tmp_path / "dataset", artefact())
    recorded = files.read_json(tmp_path / "dataset" / "condensation.json")["record"]["files"]
    assert set(recorded) == {"data/train-00000-of-00001.parquet", "preview.png"}
    for name, facts in recorded.items():
        assert facts["sha256"] == files.sha256_file(tmp_path / "dataset" / name)


def test_a_run_killed_before_the_replacement_leaves_the_old_set(artefact, tmp_path, monkeypatch):
    folder = tmp_path / "dataset"
    write_artefact(folder, artefact())
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    seen = []

    def kill(when, path):
        seen.append((when, path))
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "on_replace", kill)
    other = artefact()
    other.images = 255 - other.images
    with pytest.raises(KeyboardInterrupt):
        write_artefact(folder, other)
    assert seen == [("before", folder)]  # the folder appears in one replacement
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before
    assert [f.name for f in tmp_path.iterdir()] == ["dataset"]


def test_store_files_are_published_without_leftovers(artefact, tmp_path):
    store = tmp_path / "labels"
    (store / ".epoch-00001.part").mkdir(parents=True)
    (store / "views-00000.parquet").write_bytes(b"")
    write_artefact(tmp_path / "dataset", artefact(store_folder=store))
    published = sorted(os.listdir(tmp_path / "dataset" / "soft_labels"))
    assert published == ["views-00000.parquet"]


@pytest.mark.parametrize(
    "field, value",
    [
        ("images", torch.rand(12, 3, 8, 8)),
        ("images", torch.zeros(12, 2, 8, 8, dtype=torch.uint8)),
        ("labels", torch.zeros(11, dtype=torch.int64)),
        ("labels", torch.full((12,), 3)),
        ("soft_labels", torch.zeros(12, 4, dtype=torch.float16)),
        ("soft_labels", torch.zeros(12, 3)),
        ("soft_label_kind", None),
        ("stages", torch.zeros(3, dtype=torch.int64)),
        ("float_images", torch.zeros(12, 1, 8, 8)),
    ],
)
def test_what_does_not_fit_is_refused_by_name(artefact, field, value):
    with pytest.raises(ArtefactError) as caught:
        artefact(**{field: value})
    assert caught.value.field in (field, "images")
