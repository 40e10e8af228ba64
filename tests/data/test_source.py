"""From a person's words to images: what is found by itself, what can be named, what is refused."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import encoded, image_dataset, picture

from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.errors import DataError

LABELS = [0, 1, 2, 1, 2, 0, 0, 1, 2, 0]


def opened(dataset, key=0, **settings):
    return open_source(DataSettings(**settings), Key(key), dataset=dataset)


def refused(dataset, field, **settings):
    with pytest.raises(DataError) as caught:
        opened(dataset, **settings)
    assert caught.value.field == field, str(caught.value)
    return str(caught.value)


def test_a_dataset_without_test_split_is_held_out_by_class():
    data = image_dataset([0, 1, 2] * 20)
    found, again = opened(data, hold_out=0.25), opened(data, hold_out=0.25)
    assert found.info.held_out
    assert np.bincount(found.test.labels).tolist() == [5, 5, 5]
    assert np.bincount(found.train.labels).tolist() == [15, 15, 15]
    assert not set(found.train.rows) & set(found.test.rows)
    assert found.info.fingerprint == again.info.fingerprint
    assert opened(data, key=1, hold_out=0.25).info.fingerprint != found.info.fingerprint


def test_a_named_or_usual_test_split_is_taken():
    from datasets import DatasetDict

    data = DatasetDict(train=image_dataset(LABELS), validation=image_dataset([0, 1]), extra=image_dataset([2, 1, 0]))
    assert opened(data).info.test_split == "validation"
    assert opened(data, test_split="extra").test.labels.tolist() == [2, 1, 0]
    assert not opened(data).info.held_out
    assert "extra" in refused(data, "test_split", test_split="tset")
    assert "train" in refused(data, "train_split", train_split="trian")
    refused(data, "test_split", test_split="train")


def test_an_unlabelled_test_split_is_not_scored_on():
    from datasets import DatasetDict

    data = DatasetDict(train=image_dataset(LABELS), test=image_dataset([-1, -1]), val=image_dataset([0, 2]))
    assert opened(data).info.test_split == "val"
    assert "-1" in refused(data, "test_split", test_split="test")
    assert opened(DatasetDict(train=data["train"], test=data["test"])).info.held_out


def test_an_unlabelled_training_split_is_refused():
    assert "2 of its 4 rows" in refused(image_dataset([0, -1, 1, -1]), "train_split")


def test_a_class_without_images_is_named():
    assert "emu" in refused(image_dataset([0, 1, 0, 1]), "classes")
    assert opened(image_dataset([0, 1, 0, 1]), classes=("cat", "dog")).train.num_classes == 2


def test_classes_are_numbered_as_asked_for():
    from datasets import DatasetDict

    data = DatasetDict(train=image_dataset(LABELS), test=image_dataset([0, 1, 2]))
    found = opened(data, classes=("emu", "0"))
    assert found.info.class_names == ("emu", "cat")
    assert found.train.labels.tolist() == [1, 0, 0, 1, 1, 0, 1]
    assert found.test.labels.tolist() == [1, 0]
    whole = opened(data)
    assert torch.equal(found.train.images([1]), whole.train.images([2]))
    refused(data, "classes", classes=("cat", "unicorn"))


@pytest.mark.parametrize("feature", ["string", "int64", "bool"])
def test_labels_without_names_are_sorted(feature):
    from datasets import DatasetDict

    values = {"string": ["b", "a", "b", "a"], "int64": [7, 3, 7, 3], "bool": [True, False, True, False]}[feature]
    data = DatasetDict(train=image_dataset(values, feature), test=image_dataset(values[:1], feature))
    found = opened(data)
    assert found.info.class_names == {"string": ("a", "b"), "int64": ("3", "7"), "bool": ("False", "True")}[feature]
    assert found.train.labels.tolist() == [1, 0, 1, 0]
    assert found.test.labels.tolist() == [1]  # numbered by the training split, though it sees one class only


def test_test_labels_are_mapped_by_name():
    from datasets import ClassLabel, DatasetDict

    data = DatasetDict(
        train=image_dataset(LABELS), test=image_dataset([0, 1, 2], ClassLabel(names=["emu", "cat", "dog"]))
    )
    assert opened(data).test.labels.tolist() == [2, 0, 1]
    data["test"] = image_dataset([0, 1], ClassLabel(names=["cat", "yak"]))
    assert "yak" in refused(data, "label")


def test_a_label_outside_the_names_is_refused():
    from datasets import ClassLabel, Dataset, Features, Image

    data = image_dataset([0, 1, 2, 1], "int64")
    names = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    broken = Dataset(data.data, info=data.info.copy())
    broken.info.features = names
    assert "label=2: expected" in refused(broken, "label")


def test_columns_are_found_or_named():
    data = image_dataset(LABELS)
    two = data.add_column("shade", LABELS).cast_column("shade", data.features["label"])
    assert "label, shade" in refused(two, "label_column")
    assert opened(two, label_column="shade").train.num_classes == 3
    assert "shade" in refused(two, "label_column", label_column="shda")
    assert "image" in refused(data.remove_columns("label"), "label_column")
    twice = data.add_column("mask", list(data.cast_column("image", _raw())["image"])).cast_column("mask", _image())
    assert "image, mask" in refused(twice, "image_column")
    assert opened(twice, image_column="mask").train.channels == 3
    refused(data, "image_column", image_column="label")
    refused(data, "image_column", image_column="picture")
    refused(data.remove_columns("image"), "image_column")
    renamed = data.rename_columns({"image": "scan", "label": "kind"})
    assert "kind" in refused(renamed.cast_column("kind", _whole()), "label_column")
    assert len(opened(renamed).train) == len(opened(data).train)  # found by type whatever they are called


def test_encoded_bytes_in_a_binary_column_are_images():
    from datasets import Dataset

    data = Dataset.from_dict({"image": [encoded(picture(i)) for i in range(4)], "label": ["a", "b", "a", "b"]})
    assert opened(data).train.images([0]).shape == (1, 3, 12, 12)


def test_caps_are_stratified_and_seeded():
    from datasets import DatasetDict

    data = DatasetDict(train=image_dataset([0, 1, 2] * 10), test=image_dataset([0, 1, 2] * 10))
    found = opened(data, max_per_class=4, max_test=9)
    assert np.bincount(found.train.labels).tolist() == [4, 4, 4]
    assert np.bincount(found.test.labels).tolist() == [3, 3, 3]
    assert not np.array_equal(found.train.rows, opened(data, key=1, max_per_class=4).train.rows)


@pytest.mark.parametrize(
    ("size", "mode", "settings", "shape"),
    [
        (8, "L", {}, (1, 8, 8)), (12, "RGB", {}, (3, 12, 12)), (130, "RGB", {}, (3, 256, 256)),
        (12, "L", {"channels": "3"}, (3, 12, 12)), (12, "RGB", {"channels": "1"}, (1, 12, 12)),
        (12, "RGB", {"image_size": 16}, (3, 16, 16)), (12, "RGB", {"image_size": 128}, (3, 146, 146)),
    ],
)  # fmt: skip
def test_channels_and_size_settle_by_themselves_or_as_set(size, mode, settings, shape):
    found = opened(image_dataset([0, 1, 2] * 2, width=size, height=size, mode=mode), **settings)
    assert found.train.shape[1:] == shape
    assert len(found.train.mean) == len(found.train.std) == shape[0]


def test_mean_and_std_are_measured_on_small_images():
    found = opened(image_dataset([0, 1, 2] * 10))
    pixels = found.train.decoded().double() / 255
    assert found.train.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert found.train.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-4)
    assert found.test.mean == found.train.mean


def test_a_single_colour_image_among_grey_ones_makes_the_set_rgb():
    from datasets import DatasetDict, concatenate_datasets

    grey = image_dataset([0, 1, 2] * 3, mode="L")
    mixed = DatasetDict(train=concatenate_datasets([grey, image_dataset([0])]), test=grey)
    assert opened(DatasetDict(train=grey, test=grey)).train.channels == 1
    assert opened(mixed).train.channels == opened(mixed).test.channels == 3


DAMAGED = object()


def test_colours_are_found_wherever_they_stand(caplog):
    """Folders come sorted by class, so the first rows are one class."""
    from datasets import concatenate_datasets

    caplog.set_level("INFO")

    grey, colour = image_dataset([0] * 100, mode="L"), image_dataset([1, 2] * 50)
    for parts in ([grey, colour], [colour, grey]):
        caplog.clear()
        assert opened(concatenate_datasets(parts), hold_out=0.1).train.channels == 3
        assert "grey" in caplog.text and "--channels" in caplog.text
    caplog.clear()
    opened(concatenate_datasets([grey, colour]), hold_out=0.1, channels="1")
    opened(colour.select(range(20)), classes=("dog", "emu"))
    assert "grey" not in caplog.text


def test_the_size_is_that_of_all_images():
    from datasets import concatenate_datasets

    small, large = image_dataset([0] * 70, width=12, height=12), image_dataset([1, 2] * 60, width=30, height=30)
    assert opened(concatenate_datasets([small, large]), hold_out=0.1).train.image_size == 30


def test_an_empty_test_part_is_refused():
    from datasets import DatasetDict

    for skip in (False, True):
        assert "--test_split" in refused(image_dataset([0, 1, 2]), "hold_out", skip_corrupt=skip)
    assert len(opened(image_dataset([0, 1, 2, 2])).test) == 1
    broken = DatasetDict(train=image_dataset([0, 1, 2]), test=damaged([0, 1, 2], [0, 1, 2]))
    refused(broken, "test_split", skip_corrupt=True)


def damaged(labels, bad, cell=DAMAGED):
    data = image_dataset(labels)
    cells = data.cast_column("image", _raw())["image"][:]
    for row in bad:
        broken = {"bytes": cells[row]["bytes"][:60] if row % 2 else b"not an image", "path": None}
        cells[row] = broken if cell is DAMAGED else cell
    return data.remove_columns("image").add_column("image", cells).cast_column("image", _image())


def test_a_damaged_image_is_named_or_left_out():
    from datasets import DatasetDict

    labels = [0, 1, 2] * 30
    data = DatasetDict(train=damaged(labels, [70, 77]), test=image_dataset([0, 1, 2]))
    assert "row 70" in refused(data, "image")  # mean and std of small images are measured at once
    found = opened(data, image_size=64)
    with pytest.raises(DataError, match="row 70 of split train") as caught:
        found.train.decoded()
    assert caught.value.field == "image"
    with pytest.raises(DataError, match="row 77"):
        found.train.native(77)
    kept = opened(data, skip_corrupt=True)
    assert kept.info.skipped == 2
    assert len(kept.train) == 88 == len(kept.train.decoded())
    assert opened(data, skip_corrupt=True).info == kept.info
    assert "the bytes are no image" in str(caught.value)
    assert "row 0" in refused(DatasetDict(train=damaged(labels, [0]), test=data["test"]), "image")
    assert opened(damaged(labels, [0]), skip_corrupt=True).info.skipped == 1


def test_an_image_for_which_memory_runs_out_is_not_taken_for_a_damaged_one(monkeypatch):
    """It would be left out without a word, and the next run would have another dataset."""
    import PIL.Image

    def full(*_, **__):
        raise MemoryError("no room")

    data = image_dataset([0, 1, 2] * 4)
    train = opened(data).train
    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image, "open", full)
        for look in (train.undecodable, train.decoded, lambda: opened(data, skip_corrupt=True)):
            with pytest.raises(MemoryError):
                look()
    assert opened(data, skip_corrupt=True).info.skipped == 0


def test_a_damaged_picture_of_a_folder_is_named_by_its_file(tmp_path):
    for name, value in (("cat", 10), ("dog", 200)):
        for i in range(4):
            place = tmp_path / "pictures" / name / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), value + i).save(place)
    place.write_bytes(place.read_bytes()[:40])
    with pytest.raises(DataError, match=f"row 7 of split train, {place}"):
        open_source(DataSettings(dataset=str(tmp_path / "pictures"), hold_out=0.25), Key(0))


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": None}, {"bytes": None, "path": "/nowhere.png"}])
def test_a_cell_without_an_image_is_named_or_left_out(cell):
    from datasets import DatasetDict

    data = damaged([0, 1, 2] * 5, [4], cell)
    data = DatasetDict(train=data, test=image_dataset([0, 1, 2]))
    kept = opened(data, skip_corrupt=True)
    assert kept.info.skipped == 1 and 4 not in kept.train.rows and len(kept.train.decoded()) == 14
    assert opened(data, skip_corrupt=True).info == kept.info
    assert "row 4 of split train" in refused(data, "image")


def test_a_class_of_damaged_images_only_is_refused():
    from datasets import DatasetDict

    data = DatasetDict(train=damaged([0, 1, 2, 1, 2], [0]), test=image_dataset([0, 1, 2]))
    assert "cat" in refused(data, "classes", skip_corrupt=True)


@pytest.mark.parametrize("given", [3, {"train": [1, 2]}, {}])
def test_other_objects_are_refused(given):
    refused(given, "dataset")


def test_an_empty_split_is_refused():
    refused(image_dataset(LABELS).select([]), "train_split")


@pytest.mark.parametrize("name", ["fashion_mnist", "grocery_photos"])
def test_real_images(real_data, name):
    found = open_source(
        DataSettings(dataset=str(real_data / name), max_per_class=10, max_test=20, image_size=32), Key(0)
    )
    assert found.train.shape == (100, 1 if name == "fashion_mnist" else 3, 32, 32)
    assert np.bincount(found.test.labels).tolist() == [2] * 10
    assert found.info.license == "mit"
    assert 10 < found.train.decoded().float().std() < 120


def test_a_transform_that_is_not_applied_is_named(caplog):
    from datasets import DatasetDict

    def brighter(batch):
        return batch

    plain = image_dataset(LABELS)
    data = DatasetDict(train=plain.with_transform(brighter), test=plain)
    assert torch.equal(opened(data).train.decoded(), opened(DatasetDict(train=plain, test=plain)).train.decoded())
    assert caplog.text.count("is not applied") == 1 and "brighter" in caplog.text and "split train" in caplog.text
    opened(plain.with_format("torch"))  # formats only say what rows come as
    assert caplog.text.count("is not applied") == 1


def deep_images(white, bits=16):
    """Grey pictures whose brightest value is `white`, in 8 or 16 bits."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    kind = np.uint16 if bits == 16 else np.uint8
    pixels = [(np.asarray(picture(i, mode="L")) / 255 * white).astype(kind) for i in range(len(LABELS))]
    cells = [{"bytes": encoded(Image.fromarray(p)), "path": None} for p in pixels]
    features = Features({"image": ImageFeature(), "label": image_dataset([0]).features["label"]})
    return Dataset.from_dict({"image": cells, "label": LABELS}, features=features)


def test_images_that_use_a_sixteenth_of_their_range_are_named(caplog):
    opened(deep_images(4095))
    top = int(re.search(r"use 0 to (\d+) of 65535", caplog.text)[1])
    assert 3500 < top <= 4095
    caplog.clear()
    opened(deep_images(16, bits=8))
    assert "of 255" in caplog.text
    caplog.clear()
    opened(deep_images(65535))
    opened(deep_images(255, bits=8))
    assert "black" not in caplog.text


def _raw():
    from datasets import Image

    return Image(decode=False)


def _image():
    from datasets import Image

    return Image()


def _whole():
    from datasets import Value

    return Value("float32")
