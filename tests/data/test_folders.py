"""Folders as people have them: no class vanishes, nothing is left out in silence, refusals fit the case."""

from pathlib import Path
from zlib import crc32

import pytest
from small_images import picture

from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.reading import open_splits
from hf_condense.data.source import open_source
from hf_condense.errors import DataError


def tree(root: Path, *folders: str, count: int = 3, name: str = "{}.png") -> Path:
    """`count` pictures in each of these folders of `root`, all different."""
    for folder in folders:
        place = root / folder
        place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(crc32(f"{folder} {name} {i}".encode())).save(place / name.format(i))
    return root


def opened(root, **settings):
    return open_source(DataSettings(dataset=str(root), **settings), Key(0))


def refused(root, **settings) -> str:
    with pytest.raises(DataError) as caught:
        opened(root, **settings)
    return str(caught.value)


def counts(found) -> dict[str, int]:
    """Class -> images of both parts."""
    labels = [*found.train.labels, *found.test.labels]
    return {name: labels.count(i) for i, name in enumerate(found.info.class_names)}


@pytest.mark.parametrize("streaming", [False, True])
def test_class_folders_called_after_splits_stay_classes(tmp_path, streaming):
    """`datasets` reads `test strip` and `pregnancy-test` as one test split."""
    tree(tmp_path / "a", "control", "test strip", "pregnancy-test")
    assert counts(opened(tmp_path / "a", streaming=streaming)) == {"control": 3, "pregnancy-test": 3, "test strip": 3}
    tree(tmp_path / "b", "test", "control")
    assert counts(opened(tmp_path / "b")) == {"control": 3, "test": 3}
    tree(tmp_path / "c", "train", "bus", "plane")
    assert counts(opened(tmp_path / "c")) == {"bus": 3, "plane": 3, "train": 3}


def test_files_called_after_splits_are_images_like_others(tmp_path):
    tree(tmp_path, "cat", "dog", count=20)
    tree(tmp_path, "cat", "dog", count=3, name="train_{}.png")
    assert counts(opened(tmp_path)) == {"cat": 23, "dog": 23}


def test_rows_stand_as_datasets_reads_them(tmp_path):
    """So that folders which were read before give the same images in the same order."""
    from datasets import Image, load_dataset

    tree(tmp_path / "set" / "train", "b c", "b-c", "b.c", "b", "a_1", "Z")
    tree(tmp_path / "set" / "val", "b", "Z")
    tree(tmp_path / "set" / "train", ".hidden", "b/__cache")
    wanted = load_dataset(str(tmp_path / "set"))
    found = open_splits(DataSettings(dataset=str(tmp_path / "set"))).splits
    assert list(found) == list(wanted) == ["train", "validation"]
    for split in wanted:
        assert found[split].features == wanted[split].features
        for column in ("image", "label"):
            assert (
                found[split].cast_column("image", Image(decode=False))[column][:]
                == (wanted[split].cast_column("image", Image(decode=False))[column][:])
            )


def test_splits_are_top_folders_whatever_their_case(tmp_path):
    tree(tmp_path / "photos" / "Train", "cat", "dog")
    tree(tmp_path / "photos" / "Testing", "cat", "dog", count=2)
    found = opened(tmp_path / "photos")
    assert (len(found.train), len(found.test), found.info.held_out) == (6, 4, False)
    # a folder around it, as archives have it, changes nothing
    assert opened(tmp_path).info.fingerprint == found.info.fingerprint


def test_a_folder_beside_the_splits_is_named_and_can_be_used(tmp_path, caplog):
    tree(tmp_path / "train", "cat", "dog")
    tree(tmp_path / "holdout", "cat", "dog", count=2)
    found = opened(tmp_path)
    assert found.info.held_out and len(found.train) + len(found.test) == 6
    assert "holdout (4 images)" in caplog.text and "--test_split holdout" in caplog.text
    caplog.clear()
    scored = opened(tmp_path, test_split="holdout")
    assert (len(scored.train), len(scored.test)) == (6, 4)
    assert "holdout" not in caplog.text
    tree(tmp_path, "unsorted")
    assert len(opened(tmp_path).train) == 4
    assert "3 images in unsorted are not used" in caplog.text and "folder of its own" in caplog.text


def test_unlabelled_test_images_do_not_stop_a_run(tmp_path, caplog):
    tree(tmp_path / "train", "cat", "dog")
    tree(tmp_path, "test", count=5)
    assert opened(tmp_path).info.held_out
    assert "5 images in test are not used" in caplog.text


def test_splits_without_classes_are_refused_with_what_to_do(tmp_path):
    tree(tmp_path / "photos", "train", "test")
    told = refused(tmp_path / "photos")
    assert "6 images lie directly in test, train" in told and "photos/test/CLASS" in told and "metadata.csv" in told
    assert "rename" in told


def test_one_class_is_refused_with_what_to_do(tmp_path):
    told = refused(tree(tmp_path / "photos", "cat"))
    assert "all 3 images are of the one class 'cat'" in told and f"beside {tmp_path / 'photos' / 'cat'}" in told


def test_a_class_folder_names_the_one_above(tmp_path):
    tree(tmp_path / "photos", "cat", "dog")
    told = refused(tmp_path / "photos" / "cat")
    assert "3 images lie directly in cat" in told and f"give {tmp_path / 'photos'} if cat, dog are the classes" in told


def test_images_on_other_levels(tmp_path, caplog):
    tree(tmp_path / "photos", "cat", "dog", count=10)
    picture(5).save(tmp_path / "photos" / "cover.png")
    tree(tmp_path / "photos", "dog/old", count=2)
    assert counts(opened(tmp_path / "photos")) == {"cat": 10, "dog": 12}
    assert "1 of 23 images are left out" in caplog.text and "cover.png" in caplog.text
    assert "2 of 22 images lie deeper" in caplog.text and "dog/old/0.png as dog" in caplog.text
    tree(tmp_path / "photos", ".", count=5)
    assert "6 of 28 images lie above the 22 others" in refused(tmp_path / "photos")


def test_folders_that_could_mean_two_things_are_refused(tmp_path):
    tree(tmp_path / "a", "cat/in", "cat/out", "dog/in", "dog/out")
    assert "4 folders hold images and have 2 names" in refused(tmp_path / "a")
    tree(tmp_path / "b", "cat", "dog", count=9)
    tree(tmp_path / "b", "birds/emu", "birds/owl", count=2)
    assert "birds holds 2 folders (emu, owl)" in refused(tmp_path / "b")


def test_what_is_not_read_is_counted(tmp_path, caplog):
    tree(tmp_path / "photos", "cat", "dog")
    (tmp_path / "photos" / "emu").mkdir()
    for i in range(4):
        (tmp_path / "photos" / "emu" / f"{i}.heic").write_bytes(b"ftypheic")
    (tmp_path / "photos" / "README.md").write_text("# Photos\n")
    assert counts(opened(tmp_path / "photos")) == {"cat": 3, "dog": 3}
    assert "4 of 10 files are not read, because they are no images: 4 .heic" in caplog.text
    assert "3 folders, but 2 with images, so that these are no classes: emu" in caplog.text


def test_a_folder_of_other_files_says_what_it_holds(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images.npz").write_bytes(b"PK")
    assert "it holds 1 .npz" in refused(tmp_path / "set")


def test_a_link_to_a_folder_above_ends(tmp_path):
    tree(tmp_path / "photos", "cat", "dog")
    (tmp_path / "photos" / "cat" / "again").symlink_to(tmp_path / "photos")
    assert counts(opened(tmp_path / "photos")) == {"cat": 3, "dog": 3}


def zipped(root: Path, target: Path) -> Path:
    import zipfile

    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root.parent))
    return target


def test_a_zip_of_class_folders_or_of_splits(tmp_path):
    tree(tmp_path / "photos" / "train", "cat", "dog")
    tree(tmp_path / "photos" / "test", "cat", "dog", count=1)
    wanted = opened(tmp_path / "photos").info.fingerprint
    archive = zipped(tmp_path / "photos", tmp_path / "photos.zip")
    assert opened(archive).info.fingerprint == wanted
    (tmp_path / "downloads").mkdir()
    archive.rename(tmp_path / "downloads" / "photos.zip")
    assert opened(tmp_path / "downloads").info.fingerprint == wanted
    (tmp_path / "parts").mkdir()
    for split in ("train", "test"):
        zipped(tmp_path / "photos" / split, tmp_path / "parts" / f"{split}.zip")
    assert opened(tmp_path / "parts").info.fingerprint == wanted
    archive = tmp_path / "parts" / "test.zip"
    archive.write_bytes(archive.read_bytes()[:100])
    assert "a zip that unpacks" in refused(tmp_path / "parts")


def test_a_zip_writes_nowhere_else(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../../../../escaped.png", b"x")
    refused(tmp_path / "bad.zip")
    written = list(tmp_path.parent.rglob("escaped.png"))
    assert written and all(file.is_relative_to(tmp_path / "cache" / "unpacked") for file in written)
