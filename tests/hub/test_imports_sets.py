"""Image folders, tables and tensors of others come back equal, and what does not fit is refused by name."""

import hashlib
import os
import shutil
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from huggingface_hub import HfApi
from PIL import Image as PILImage

from hf_condense.cli import main
from hf_condense.data.names import KNOWN
from hf_condense.errors import ArtefactError, ConfigError, DataError
from hf_condense.hub.artefact import encode_png
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.importing import import_set, sets
from hf_condense.hub.importing.names import class_numbers
from hf_condense.hub.importing.sets import read_folder, read_parquet_set
from hf_condense.hub.inspection import inspect_folder, report
from tests.hub.foreign import digits, write_folder

IPC = 2


@pytest.fixture
def images():
    return digits(IPC)[0]


@pytest.fixture
def labels():
    return digits(IPC)[1]


def load_both(folder):
    """Images and labels as this library and as `datasets` read them."""
    data = DistilledDataset.load(folder)
    rows = load_dataset(str(folder), split="train").with_format("numpy")
    pixels = torch.from_numpy(np.stack(rows["image"][:]))
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    assert torch.equal(pixels, data.images) and rows["label"][:].tolist() == data.labels.tolist()
    return data


@pytest.mark.parametrize("name", ["new{:03d}", "{:05d}", "class_{}"])
def test_a_folder_of_numbered_classes_comes_back_equal(tmp_path, images, labels, name):
    place = write_folder(tmp_path / "syn_data", images, labels, name.format)
    data = load_both(import_set("folder", place, tmp_path / "out", "digits"))
    assert torch.equal(data.images, images) and torch.equal(data.labels, labels)
    assert data.class_names == [str(c) for c in range(10)] and data.store is None


def test_how_an_imported_set_was_made_cannot_be_reproduced(tmp_path, images, labels, capsys):
    place = write_folder(tmp_path / "syn_data", images, labels, "{:05d}".format)
    import_set("folder", place, tmp_path / "out", "digits")
    assert main(["reproduce", str(tmp_path / "out"), "--output_dir", str(tmp_path / "again")]) == 2
    assert "this one was imported" in capsys.readouterr().err and not (tmp_path / "again").exists()


def test_folders_named_by_wordnet_id_take_the_class_order_of_the_dataset(tmp_path, images, labels):
    ids = [f"n{10_000_000 - c:08d}" for c in range(10)]  # sorted folders are in the opposite order
    (tmp_path / "names.txt").write_text("\n".join(f"{wordnet} word {c}" for c, wordnet in enumerate(ids)))
    place = write_folder(tmp_path / "syn_data", images, labels, ids.__getitem__)
    names = tmp_path / "names.txt"
    data = load_both(import_set("folder", place, tmp_path / "out", "somebody/photos", class_names=names))
    assert torch.equal(data.labels, labels.flip(0)) and torch.equal(data.images[::IPC], images[::IPC].flip(0))
    assert data.class_names[3] == f"{ids[3]} word 3" and data.content["source"]["id"] == "somebody/photos"


def test_a_class_may_be_missing_and_keeps_its_number(tmp_path, images, labels):
    place = write_folder(tmp_path / "syn_data", images[3 * IPC :], labels[3 * IPC :], "{:03d}".format)
    data = load_both(import_set("folder", place, tmp_path / "out", "digits"))
    assert torch.equal(data.labels, labels[3 * IPC :]) and len(data.class_names) == 10


@pytest.mark.parametrize("typed", [False, True])
def test_a_table_with_class_id_comes_back_equal(tmp_path, images, labels, typed):
    kind = ClassLabel(names=[str(c) for c in range(10)][::-1]) if typed else Value("int64")
    wanted = (9 - labels) if typed else labels  # names count, not their numbers
    features = Features({"image": Image(), "class_id": kind})
    rows = {"image": [image[0].numpy() for image in images], "class_id": labels.tolist()}
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train-00000.parquet")
    for place in (tmp_path / "data", tmp_path / "data" / "train-00000.parquet"):
        data = load_both(import_set("parquet", place, tmp_path / "out", "digits"))
        assert torch.equal(data.images, images) and torch.equal(data.labels, wanted)


@pytest.mark.parametrize("kind", ["typed", "words", "folders"])
def test_classes_called_by_digits_are_names_and_not_positions(tmp_path, kind):
    images, labels = digits(1)
    images, labels = torch.cat([images, images[:2]]), torch.arange(12)
    names = sorted(map(str, range(12)))  # 0, 1, 10, 11, 2 ... as folders are sorted
    (tmp_path / "names.txt").write_text("\n".join(names))
    if kind == "folders":
        place = write_folder(tmp_path / "set", images, labels, names.__getitem__)
    else:
        typed = kind == "typed"
        features = Features({"image": Image(), "label": ClassLabel(names=names) if typed else Value("string")})
        rows = {"image": [image[0].numpy() for image in images], "label": labels.tolist() if typed else names}
        place = tmp_path / "x.parquet"
        Dataset.from_dict(rows, features=features).to_parquet(place)
    kind = "folder" if kind == "folders" else "parquet"
    data = load_both(import_set(kind, place, tmp_path / "out", "somebody/photos", class_names=tmp_path / "names.txt"))
    assert data.class_names == names and torch.equal(data.labels, labels) and torch.equal(data.images, images)


def test_names_beside_numbers_are_refused():
    names = ["1", "2", "3"]
    assert class_numbers(["3", "1"], names, "x") == [2, 0] and class_numbers(["00", "new2"], names, "x") == [0, 2]
    with pytest.raises(ArtefactError, match="classes='0'.*a name"):
        class_numbers(["0", "2"], names, "x")  # 0 could only be a position, and 2 is a name


@pytest.mark.parametrize("alias", ["MNIST", "ylecun/mnist", "mnist"])
def test_the_source_goes_by_one_name(tmp_path, images, labels, alias):
    place = write_folder(tmp_path / "set", images, labels, "{:05d}".format)
    folder = import_set("folder", place, tmp_path / "out", alias, class_names=mnist_names(tmp_path))
    content = DistilledDataset.load(folder).content
    assert content["source"]["id"] == "mnist"
    assert "source_datasets:\n- ylecun/mnist" in (folder / "README.md").read_text()


def test_a_table_chooses_no_file_of_this_machine(tmp_path, images, labels):
    PILImage.fromarray(images[0, 0].numpy()).save(tmp_path / "private.png")
    kind = Image.pa_type
    cells = pa.array([{"bytes": None, "path": str(tmp_path / "private.png")}], kind)
    pq.write_table(pa.table({"image": cells, "label": [0]}), tmp_path / "x.parquet")
    with pytest.raises(ArtefactError, match="row 0='the cell is empty'"):
        import_set("parquet", tmp_path / "x.parquet", tmp_path / "out", "digits")
    assert not (tmp_path / "out").exists()


def test_a_table_on_the_hub_is_read_and_named_by_its_commit(tmp_path, images, labels, hub):
    rows = {"image": [image[0].numpy() for image in images], "class_id": labels.tolist()}
    features = Features({"image": Image(), "class_id": Value("int64")})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "x.parquet")
    repo_id, api = hub.fresh("rethinkdc"), HfApi()
    api.create_repo(repo_id, repo_type="dataset")
    done = api.upload_file(
        path_or_fileobj=tmp_path / "x.parquet", path_in_repo="data/train.parquet", repo_id=repo_id, repo_type="dataset"
    )
    data = load_both(import_set("parquet", repo_id, tmp_path / "out", "digits"))
    assert torch.equal(data.images, images) and torch.equal(data.labels, labels)
    assert data.content["imported"]["place"] == repo_id and data.content["imported"]["revision"] == done.oid
    with pytest.raises(ArtefactError, match="path='nobody/nothing'"):
        import_set("parquet", "nobody/nothing", tmp_path / "other", "digits")


def normalised(images):
    known = KNOWN["mnist"]
    return (images.float() / 255 - known.mean[0]) / known.std[0]


def mnist_names(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(str(c) for c in range(10)))
    return tmp_path / "names.txt"


def test_tensors_of_trajectory_matching_come_back_as_pixels_and_floats(tmp_path, images, labels):
    pixels = normalised(images)
    pixels[0] += 1  # above white, as optimised images are
    torch.save(pixels, tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    torch.save(labels.flip(0), tmp_path / "labels_100.pt")
    names = mnist_names(tmp_path)
    data = load_both(import_set("tensors", tmp_path, tmp_path / "out", "mnist", class_names=names))
    assert torch.equal(data.images[1:], images[1:]) and torch.equal(data.labels, labels)
    floats = pixels * KNOWN["mnist"].std[0] + KNOWN["mnist"].mean[0]
    assert torch.equal(data.float_images, floats) and floats.max() > 1 and data.images[0].max() == 255
    torch.save(pixels, tmp_path / "images_100.pt")
    step = import_set("tensors", tmp_path / "images_100.pt", tmp_path / "out", "mnist", class_names=names)
    assert torch.equal(load_both(step).labels, labels.flip(0))


def test_results_of_distribution_matching_give_their_first_experiment(tmp_path, images, labels):
    accuracies = {"ConvNet": [np.float64(48.2), np.float64(48.9)]}  # NumPy scalars, which torch refuses by itself
    experiments = [[images.float() / 255, labels], [images.float(), labels.flip(0)]]
    torch.save({"data": experiments, "accs_all_exps": accuracies}, tmp_path / "res_DM_digits_ConvNet_2ipc.pt")
    path = tmp_path / "res_DM_digits_ConvNet_2ipc.pt"
    data = load_both(import_set("tensors", path, tmp_path / "out", "digits", method="dm", pixels="unit"))
    assert torch.equal(data.images, images) and torch.equal(data.labels, labels)
    assert data.content["imported"]["sha256"]["images"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}


def test_provenance_says_imported_unverified_and_names_the_files(tmp_path, images, labels):
    place = write_folder(tmp_path / "syn_data", images, labels, "{:05d}".format)
    folder = import_set("folder", place, tmp_path / "out", "digits", method="rded")
    content = DistilledDataset.load(folder).content
    assert content["method"]["title"].endswith("imported, unverified") and content["method"]["name"] == "rded"
    assert content["imported"]["verified"] is False and content["labels"]["regimes"] == ["hard"]
    listed = content["imported"]["sha256"]["images"]
    files = sorted((place / "00004").iterdir())
    lines = "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)
    assert len(listed) == 10 and listed["00004/"] == hashlib.sha256(lines.encode()).hexdigest()
    card = (folder / "README.md").read_text()
    assert "imported, unverified" in card and "neither method nor source has been verified" in card
    assert str(tmp_path) not in card + (folder / "condensation.json").read_text()
    assert "imported, unverified" in report(inspect_folder(folder))


def test_the_same_import_gives_the_same_content(tmp_path, images, labels):
    place = write_folder(tmp_path / "syn_data", images, labels, "{:05d}".format)
    first, second = (DistilledDataset.load(import_set("folder", place, tmp_path / n, "digits")) for n in "ab")
    assert first.content == second.content
    (place / "00004" / "class004_id008.png").write_bytes((place / "00005" / "class005_id010.png").read_bytes())
    assert DistilledDataset.load(import_set("folder", place, tmp_path / "c", "digits")).content != first.content


def test_what_does_not_fit_is_refused_by_name_and_leaves_nothing(tmp_path, images, labels):
    def refused(error, match, kind, path, dataset="digits", **more):
        with pytest.raises(error, match=match):
            import_set(kind, path, tmp_path / "out", dataset, **more)
        assert not list(tmp_path.glob("*out*"))

    place = write_folder(tmp_path / "set", images, labels + 1, "new{:03d}".format)
    refused(ArtefactError, "classes=10.*0 to 9", "folder", place)
    write_folder(tmp_path / "words", images, labels, "animal{}".format)
    refused(ArtefactError, "animal0", "folder", tmp_path / "words")
    mixed = write_folder(tmp_path / "mixed", images, labels, "{:05d}".format)
    write_folder(mixed, torch.zeros(1, 1, 9, 9, dtype=torch.uint8), torch.tensor([9]), "{:05d}".format)
    refused(ArtefactError, "class009_id000.png='9 x 9'.*8 x 8", "folder", mixed)
    (mixed / "00009" / "class009_id000.png").write_bytes(b"no image")
    refused(ArtefactError, "class009_id000.png", "folder", mixed)
    refused(ArtefactError, "no images", "folder", tmp_path / "missing")

    def tensors(pixels, numbers):
        torch.save([pixels, numbers], tmp_path / "pair.pt")
        return tmp_path / "pair.pt"

    unit = {"pixels": "unit"}
    float_images = images.float() / 255
    refused(ArtefactError, r"labels=\[19\].*\[20\]", "tensors", tensors(float_images, labels[1:]), **unit)
    refused(ArtefactError, "classes=-1", "tensors", tensors(float_images, labels - 1), **unit)
    refused(ArtefactError, "labels=0.0", "tensors", tensors(float_images, labels.float()), **unit)
    refused(ArtefactError, "uint8", "tensors", tensors(images, labels), **unit)
    refused(ArtefactError, "not a number", "tensors", tensors(float_images / 0, labels), **unit)
    refused(ConfigError, "mean and std", "tensors", tensors(float_images, labels))
    refused(ArtefactError, r"labels_best\.pt|images_best\.pt", "tensors", tmp_path, **unit)
    Dataset.from_dict({"image": [1], "kind": [1]}).to_parquet(tmp_path / "x.parquet")
    refused(ArtefactError, "columns='image, kind'.*class_id", "parquet", tmp_path / "x.parquet")
    (tmp_path / "names.txt").write_text("cat\ncat")
    refused(DataError, "names.txt", "folder", place, class_names=tmp_path / "names.txt")
    refused(ConfigError, "kind", "pictures", place)


def test_a_folder_with_other_things_is_not_replaced(tmp_path, images, labels):
    place = write_folder(tmp_path / "set", images, labels, "{:05d}".format)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="output_dir"):
        import_set("folder", place, tmp_path / "mine", "digits")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_the_command_line(tmp_path, images, labels, capsys):
    place = write_folder(tmp_path / "set", images, labels, "{:05d}".format)
    words = ["import", "folder", str(place), "--output-dir", str(tmp_path / "out"), "--dataset", "digits"]
    assert main(words) == 0 and "out" in capsys.readouterr().out
    assert torch.equal(DistilledDataset.load(tmp_path / "out").images, images)
    assert main([*words, "--soft_labels", str(tmp_path / "nowhere")]) == 2
    assert "epoch_0" in capsys.readouterr().err


def test_values_that_an_import_clamps_are_counted(tmp_path, images, labels, caplog):
    pixels = images.float() / 255
    torch.save([pixels, labels], tmp_path / "inside.pt")
    import_set("tensors", tmp_path / "inside.pt", tmp_path / "out", "digits", pixels="unit")
    assert "clamped" not in caplog.text
    pixels[0] = 1.5
    pixels[1, :, 0, 0] = -0.25
    torch.save([pixels, labels], tmp_path / "outside.pt")
    share = 65 / pixels.numel()
    import_set("tensors", tmp_path / "outside.pt", tmp_path / "more", "digits", pixels="unit")
    assert f"{100 * share:.1f}% of all values lie outside of [0, 1] (-0.25 to 1.50) and are clamped" in caplog.text


def test_rows_that_an_import_reads_twice_are_counted(tmp_path, images, labels, caplog):
    import io

    def cells(rows):
        for row in rows:
            buffer = io.BytesIO()
            PILImage.fromarray(images[row, 0].numpy()).save(buffer, "PNG")
            yield {"bytes": buffer.getvalue(), "path": None}

    def write(name, rows):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": list(cells(rows)), "label": labels[list(rows)].tolist()})
        pq.write_table(table, tmp_path / "set" / name)

    write("ipc2/train.parquet", range(20))
    import_set("parquet", tmp_path / "set", tmp_path / "one", "digits")
    assert "another row" not in caplog.text
    write("ipc1/train.parquet", range(0, 20, 2))
    import_set("parquet", tmp_path / "set", tmp_path / "two", "digits")
    assert (
        "10 of 30 rows hold an image that another row has too (10 of them in ipc1/train.parquet and ipc2/"
        in caplog.text
    )
    assert "10 of 30 images are copies of others" in report(inspect_folder(tmp_path / "two"))


def test_files_that_an_import_does_not_read_are_counted(tmp_path, images, labels, caplog):
    place = write_folder(tmp_path / "set", images, labels, "{:05d}".format)
    (place / "00003" / "a.npy").write_bytes(b"x")
    import_set("folder", place, tmp_path / "out", "digits")
    assert "1 of 21 files in class folders are no images" in caplog.text


def test_links_and_pipes_in_a_folder_of_images_are_refused(tmp_path):
    images, labels = digits(1)
    root = write_folder(tmp_path / "set", images, labels, "new{:03d}".format)
    victim = root / "new003" / "class003_id003.png"
    shutil.move(victim, tmp_path / "secret.png")
    victim.symlink_to(tmp_path / "secret.png")
    with pytest.raises(ArtefactError, match="symbolic link"):
        read_folder(root, [str(c) for c in range(10)])
    victim.unlink()
    os.mkfifo(victim)
    with pytest.raises(ArtefactError, match="no regular file"):
        read_folder(root, [str(c) for c in range(10)])


def test_small_files_that_unfold_to_gigabytes_are_refused_before_they_do(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "memory_for_pixels", lambda: 100 << 20)
    large = encode_png(np.zeros((1, 12_000, 12_000), np.uint8))
    for c in range(2):
        (tmp_path / "set" / f"new{c:03d}").mkdir(parents=True)
        (tmp_path / "set" / f"new{c:03d}" / "a.png").write_bytes(large)
    cell = {"bytes": encode_png(np.random.default_rng(0).integers(0, 256, (3, 100, 100), np.uint8)), "path": None}
    table = pa.table({"image": [cell] * 20_000, "label": [0] * 20_000})  # 600 MB in a file of 100 kB
    pq.write_table(table, tmp_path / "set.parquet", compression="zstd")
    assert (tmp_path / "set.parquet").stat().st_size < 1e6
    del table
    for read, place, words in (
        (read_folder, "set", "bytes of pixels"),
        (read_parquet_set, "set.parquet", "bytes of cells"),
    ):
        tracemalloc.start()
        with pytest.raises(ArtefactError, match=words):
            read(tmp_path / place, ["a", "b"])
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()
