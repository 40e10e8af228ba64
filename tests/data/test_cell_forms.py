"""Images as tables of other libraries hold them: every form gives the pixels that the Image feature gives."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_images import encoded, image_dataset, picture

from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.errors import DataError

LABELS = [0, 1, 2] * 4
NAMES = ["cat", "dog", "emu"]
WORDS = [NAMES[label] for label in LABELS]
CELLS = [{"bytes": encoded(picture(i)), "path": None} for i in range(len(LABELS))]
PIXELS = np.stack([np.asarray(picture(i)) for i in range(len(LABELS))])


def opened(given, **settings):
    """A dataset object, or a place."""
    if isinstance(given, Path):
        return open_source(DataSettings(dataset=str(given), **settings), Key(0))
    return open_source(DataSettings(**settings), Key(0), dataset=given)


def refused(given, **settings) -> str:
    with pytest.raises(DataError) as caught:
        opened(given, **settings)
    return str(caught.value)


WANTED = {c: torch.from_numpy(PIXELS[np.array(LABELS) == c]).permute(0, 3, 1, 2) for c in range(3)}


def holds_all(found, wanted=WANTED) -> bool:
    """Whether both parts together hold the pictures of each class, pixel by pixel."""
    images = torch.cat([found.train.decoded(), found.test.decoded()])
    labels = torch.from_numpy(np.concatenate([found.train.labels, found.test.labels]))
    sort = [sorted(part.flatten(1).tolist()) for part in (images[labels == c] for c in range(3))]
    return sort == [sorted(wanted[c].flatten(1).tolist()) for c in range(3)]


def written(path, cells, kind=None) -> None:
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": WORDS}), path)


LARGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])  # as polars writes
BYTES = pa.struct([("bytes", pa.binary())])
NO_PATH = pa.struct([("path", pa.null()), ("bytes", pa.binary())])


@pytest.mark.parametrize("kind", [None, LARGE, BYTES, NO_PATH, "column"])
@pytest.mark.parametrize("streaming", [False, True])
def test_bytes_beside_a_path_without_the_metadata_of_datasets(tmp_path, kind, streaming):
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "train.parquet"
    if kind == "column":
        written(path, [cell["bytes"] for cell in CELLS])
    else:
        written(path, [{f.name: cell[f.name] for f in kind} for cell in CELLS] if kind else CELLS, kind)
    assert holds_all(opened(path.parent, streaming=streaming))


def test_a_data_frame_of_cells(tmp_path):
    import pandas as pd

    path = tmp_path / "set.parquet"
    pd.DataFrame({"image": CELLS, "label": WORDS}).to_parquet(path)
    assert holds_all(opened(path))


def arrays(column, feature, values):
    from datasets import ClassLabel, Dataset, Features

    features = Features({column: feature, "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({column: values, "label": LABELS}, features=features)


def test_arrays_of_pixels():
    from datasets import Array2D, Array3D, Dataset, List, Value

    grey = PIXELS[..., 0]
    wanted = {c: torch.from_numpy(grey[np.array(LABELS) == c])[:, None] for c in range(3)}
    number = List(List(Value("int64")))
    assert holds_all(opened(arrays("pixels", Array2D((12, 12), "uint8"), list(grey))), wanted)
    assert holds_all(opened(arrays("pixels", number, grey.tolist())), wanted)
    assert holds_all(opened(Dataset.from_dict({"image": grey.tolist(), "label": LABELS})), wanted)
    assert holds_all(opened(arrays("image", Array3D((12, 12, 3), "uint8"), list(PIXELS))))
    assert holds_all(opened(arrays("image", Array3D((3, 12, 12), "uint8"), list(PIXELS.transpose(0, 3, 1, 2)))))
    assert holds_all(opened(arrays("image", Array3D((12, 12, 3), "int32"), list(PIXELS.astype(np.int32)))))


def test_lists_of_one_image():
    from datasets import Image, List

    assert holds_all(opened(arrays("images", List(Image()), [[cell] for cell in CELLS])))


def test_arrays_of_sixteen_bits_are_scaled_as_such_images_are():
    from datasets import Array2D

    deep = PIXELS[..., 0].astype(np.uint16) * 257
    wanted = {c: torch.from_numpy(PIXELS[np.array(LABELS) == c][..., 0])[:, None] for c in range(3)}
    assert holds_all(opened(arrays("image", Array2D((12, 12), "uint16"), list(deep))), wanted)


def test_what_holds_no_image_a_row_gets_a_step_that_fits():
    from datasets import Array2D, Dataset, Image, List, Value

    floats = arrays("image", Array2D((12, 12), "float32"), list(PIXELS[..., 0] / 255))
    assert "floating point has no agreed range" in refused(floats)
    negative = arrays("image", List(List(Value("int16"))), (PIXELS[..., 0].astype(int) - 128).tolist())
    assert "-128 to 127" in refused(negative)
    several = arrays("images", List(Image()), [[picture(i), picture(i + 50)] for i in range(len(LABELS))])
    for settings in ({}, {"image_column": "images"}):
        assert "a row for each of them" in refused(several, **settings)
    flat = Dataset.from_dict({"pixels": PIXELS[..., 0].reshape(12, -1).tolist(), "label": LABELS})
    assert "[height, width]" in refused(flat)
    ragged = Dataset.from_dict({"image": [[[1, 2], [3]]] * 12, "label": LABELS})
    assert "different lengths" in refused(ragged)
    binary = Dataset.from_dict({"jpeg_data": [cell["bytes"] for cell in CELLS], "label": LABELS})
    assert "--image_column jpeg_data" in refused(binary)
    assert holds_all(
        opened(binary.cast_column("label", image_dataset([0]).features["label"]), image_column="jpeg_data")
    )
    words = Dataset.from_dict({"file": ["a.png"] * 12, "label": LABELS})
    assert "names image files" in refused(words)
    assert "without --streaming" in refused(
        arrays("i", Array2D((12, 12), "uint8"), list(PIXELS[..., 0])).to_iterable_dataset()
    )


def test_what_is_no_label_gets_a_step_that_fits():
    data = image_dataset(LABELS).remove_columns("label")
    assert "class of each image" in refused(data)
    assert "--label_column diagnosis" in refused(data.add_column("diagnosis", WORDS))
    assert "several labels an image" in refused(data.add_column("labels", [[0, 1]] * 12))
    assert "json.label" in refused(data.add_column("json", [{"label": 1}] * 12))


def test_shards_of_webdataset(tmp_path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "shard-000.tar", "w") as shard:
        for i, (cell, label) in enumerate(zip(CELLS, LABELS)):
            for ending, data in (("png", cell["bytes"]), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{i:04d}.{ending}")
                entry.size = len(data)
                shard.addfile(entry, io.BytesIO(data))
    for place in (tmp_path, tmp_path / "shard-000.tar"):
        for streaming in (False, True):
            found = opened(place, streaming=streaming)
            assert found.info.class_names == ("0", "1", "2") and holds_all(found)


@pytest.fixture
def pictures(tmp_path):
    """A folder of the pictures in no order of their classes, and a table's rows that name them."""
    place = tmp_path / "set" / "img"
    place.mkdir(parents=True)
    for i in range(len(LABELS)):
        picture(i).save(place / f"{i:02d}.png")
    return [(f"img/{i:02d}.png", word) for i, word in enumerate(WORDS)]


def table(path, rows, head=("file_name", "label")):
    import json

    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(head, row))) + "\n" for row in rows))
    else:
        comma = "\t" if path.suffix == ".tsv" else ","
        path.write_text("\n".join(comma.join(row) for row in (head, *rows)) + "\n")
    return path


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "labels.csv", "table.tsv", "rows.jsonl"])
def test_a_table_beside_the_images_says_their_classes(tmp_path, pictures, name, caplog):
    path = table(tmp_path / "set" / name, pictures)
    assert holds_all(opened(tmp_path / "set"))
    assert holds_all(opened(path))  # paths are relative to the table, not to where one stands
    assert "not used" not in caplog.text
    assert "another row" not in caplog.text
    table(path, pictures[:-1] + pictures[:2])
    opened(tmp_path / "set")
    assert "1 of 12 images are not used, because no row of a table names them: img/11.png" in caplog.text
    assert "2 of 13 rows name an image that another row names too" in caplog.text


def test_tables_of_splits(tmp_path, pictures):
    table(tmp_path / "set" / "train.csv", pictures[:9], ("path", "species"))
    table(tmp_path / "set" / "test.csv", pictures[9:], ("path", "species"))
    found = opened(tmp_path / "set")
    assert (len(found.train), len(found.test), found.info.held_out) == (9, 3, False)
    assert holds_all(found)
    table(tmp_path / "set" / "train_more.csv", pictures, ("path", "species"))
    assert "one table for split" in refused(tmp_path / "set")


def test_metadata_inside_or_above_folders_of_splits(tmp_path, pictures):
    for split, rows in (("train", pictures[:9]), ("test", pictures[9:])):
        (tmp_path / split).mkdir()
        for path, _ in rows:
            (tmp_path / "set" / path).rename(tmp_path / split / path.split("/")[1])
        table(tmp_path / split / "metadata.csv", [(path.split("/")[1], word) for path, word in rows])
    (tmp_path / "set" / "img").rmdir()
    (tmp_path / "set").rmdir()
    inside = opened(tmp_path)
    assert (len(inside.train), len(inside.test)) == (9, 3) and holds_all(inside)
    for split in ("train", "test"):
        (tmp_path / split / "metadata.csv").unlink()
    rows = [(f"{'train' if i < 9 else 'test'}/{i:02d}.png", word) for i, word in enumerate(WORDS)]
    table(tmp_path / "metadata.jsonl", rows)
    assert opened(tmp_path).info.fingerprint == inside.info.fingerprint


def test_a_table_without_labels_leaves_the_class_folders(tmp_path, caplog):
    rows = []
    for i, word in enumerate(WORDS):
        (tmp_path / word).mkdir(exist_ok=True)
        picture(i).save(tmp_path / word / f"{i}.png")
        rows.append((f"{word}/{i}.png", f"a {word}", ["small", "large"][i % 2]))
    table(tmp_path / "metadata.csv", rows, ("file_name", "caption", "size"))
    assert holds_all(opened(tmp_path))
    assert "metadata.csv names images but is not used" in caplog.text
    found = opened(tmp_path, label_column="size")
    assert found.info.class_names == ("large", "small")


def test_a_table_chooses_no_file_outside_its_folder(tmp_path, pictures):
    """Absolute paths and `..` are read only when a person names the column."""
    (tmp_path / "tables").mkdir()
    for base in (tmp_path / "set", "../set"):
        path = table(tmp_path / "tables" / "train.csv", [(f"{base}/{file}", word) for file, word in pictures])
        assert "--image_column" in refused(path)
        assert holds_all(opened(path, image_column="file_name"))


def test_a_row_that_leads_out_of_the_folder_is_named(tmp_path, pictures):
    path = table(tmp_path / "set" / "metadata.csv", [*pictures, ("../../passwd.png", "cat")])
    assert "1 of 13 rows, the first of them row 12, name others" in refused(path.parent)


def test_a_table_that_cannot_be_read_is_named(tmp_path, pictures):
    for name, text in (
        ("labels.csv", 'name,score\n"a,b",1\n"unclosed'),
        ("metadata.jsonl", "{bad\n"),
        ("empty.csv", ""),
    ):
        (tmp_path / "set" / name).write_text(text)
        told = refused(tmp_path / "set")
        assert str(tmp_path / "set" / name) in told and "a table that can be read" in told and "move it out" in told
        (tmp_path / "set" / name).unlink()


def test_metadata_that_names_other_files_is_said(tmp_path, caplog):
    for i, word in enumerate(WORDS):
        (tmp_path / word).mkdir(exist_ok=True)
        picture(i).save(tmp_path / word / f"{i}.png")
    table(tmp_path / "metadata.csv", [("elsewhere.png", "cat")])
    assert holds_all(opened(tmp_path))
    assert "metadata.csv is not used: it names no image that is there" in caplog.text


@pytest.mark.parametrize("name", ["a [2020] *", "b{1}"])
def test_names_that_look_like_patterns(tmp_path, pictures, name):
    place = (tmp_path / "set").rename(tmp_path / name)
    path = table(place / "metadata.csv", pictures)
    assert holds_all(opened(place)) and holds_all(opened(path))
    (place / "more").mkdir()
    written(place / "more" / "train.parquet", CELLS)
    assert holds_all(opened(place / "more" / "train.parquet"))
    if "*" in name:  # `datasets` finds nothing there
        assert "Rename it" in refused(place / "more")
    else:
        assert holds_all(opened(place / "more"))


def test_a_table_of_paths_alone(tmp_path, pictures):
    (tmp_path / "set" / "metadata.csv").write_text("file_name\n" + "".join(f"{path}\n" for path, _ in pictures))
    assert "label" in refused(tmp_path / "set" / "metadata.csv")
    assert "all 12 images are of the one class 'img'" in refused(tmp_path / "set")


def test_data_files_without_a_split_in_their_name_are_counted(tmp_path, caplog):
    data = image_dataset(LABELS)
    for name in ("train_a", "b", "c"):
        data.to_parquet(str(tmp_path / f"{name}.parquet"))
    found = opened(tmp_path)
    assert len(found.train) + len(found.test) == 12
    assert "2 of 3 .parquet files are not read" in caplog.text and "b.parquet, c.parquet" in caplog.text
