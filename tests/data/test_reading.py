"""What a person can name as dataset, and what is said when it cannot be opened."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from small_images import image_dataset, picture

from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.reading import open_splits
from hf_condense.data.source import open_source
from hf_condense.errors import DataError


def opened(dataset, **settings):
    return open_source(DataSettings(dataset=str(dataset), **settings), Key(0))


def refused(dataset, **settings) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(dataset, **settings)
    return caught.value


def image_folder(folder, splits=("train", "test")):
    """Folders split/class/*.png; grey, palette and colour, of several sizes."""
    for split in splits:
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i, mode in enumerate(("L", "P", "RGB", "1")):
                picture(i, 10 + 3 * i, 14, mode).save(folder / split / name / f"{i}.png")
    return folder


def test_a_folder_of_class_folders(tmp_path):
    found = opened(image_folder(tmp_path / "photos"))
    assert found.info.class_names == ("cat", "dog")
    assert found.train.labels.tolist() == [0] * 4 + [1] * 4
    assert found.train.decoded().shape[:2] == (8, 3)
    assert not found.info.held_out
    assert found.info.license is None


def test_a_folder_without_splits_is_held_out(tmp_path):
    image_folder(tmp_path / "photos", ["all"])
    found = opened(tmp_path / "photos" / "all")
    assert found.info.held_out
    assert len(found.train) == 6


def test_parquet_files_and_folders(tmp_path):
    data = image_dataset([0, 1, 2] * 4)
    data.to_parquet(str(tmp_path / "set" / "train.parquet"))
    (tmp_path / "set" / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Photos\n")
    for place in (tmp_path / "set", tmp_path / "set" / "train.parquet"):
        found = opened(place)
        assert found.info.class_names == ("cat", "dog", "emu")
        assert found.info.license == "cc0-1.0"


def test_saved_datasets(tmp_path):
    from datasets import DatasetDict

    data = image_dataset([0, 1, 2] * 4)
    data.save_to_disk(str(tmp_path / "one"))
    DatasetDict(train=data, test=data).save_to_disk(str(tmp_path / "two"))
    assert opened(tmp_path / "one").info.held_out
    assert not opened(tmp_path / "two").info.held_out


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("end", [40, 600])
def test_a_truncated_parquet_file_is_named(tmp_path, end, streaming):
    path = tmp_path / "set" / "train.parquet"
    image_dataset([0, 1, 2] * 4).to_parquet(str(path))
    path.write_bytes(path.read_bytes()[:end])
    error = refused(tmp_path / "set", streaming=streaming)
    assert error.field == "dataset"
    assert error.value.endswith("train.parquet")
    assert "copy or download it again" in error.next_step


def test_folders_that_hold_no_dataset_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "one folder per class" in refused(tmp_path / "empty").next_step
    (tmp_path / "notes.txt").write_text("hello")
    assert refused(tmp_path / "notes.txt").field == "dataset"
    flat = tmp_path / "flat"
    flat.mkdir()
    picture(0).save(flat / "a.png")
    picture(1).save(flat / "b.png")
    error = refused(flat)
    assert error.field == "label_column"
    assert "folder of its own" in error.next_step


def test_a_missing_folder_names_its_neighbours(tmp_path):
    (tmp_path / "photographs").mkdir()
    assert "photographs" in refused(tmp_path / "photograps").next_step
    assert refused("./no/such/place").next_step == "check the spelling"


def test_a_stream_gives_the_same_images_as_the_files(tmp_path):
    from datasets import DatasetDict

    data = DatasetDict(train=image_dataset([0, 1, 2] * 5), test=image_dataset([0, 1, 2]))
    for split in data:
        data[split].to_parquet(str(tmp_path / "set" / f"{split}.parquet"))
    files = opened(tmp_path / "set")
    assert opened(tmp_path / "set", streaming=True).info == files.info
    given = {split: d.to_iterable_dataset() for split, d in data.items()}
    assert open_source(DataSettings(), Key(0), dataset=given).train.fingerprint == files.train.fingerprint
    # `datasets` versions may give streams without features: the first row tells
    plain = {split: d.with_format(None).to_iterable_dataset().map(lambda r: r) for split, d in data.items()}
    assert open_source(DataSettings(), Key(0), dataset=plain).train.num_classes == 3


def test_a_streamed_folder_gives_the_same_images(tmp_path):
    folder = image_folder(tmp_path / "photos")
    assert opened(folder, streaming=True).train.fingerprint == opened(folder).train.fingerprint


def test_a_capped_stream_keeps_a_draw_of_each_class(tmp_path):
    stream = image_dataset([0, 1, 2] * 30).to_iterable_dataset()
    found = open_source(DataSettings(max_per_class=4), Key(0), dataset=stream)
    assert [len(found.train.rows_of(c)) for c in range(3)] == [4, 4, 4]
    assert len(found.train.table) <= 3 * 7  # no more than the cap and the hold-out were stored
    other = open_source(
        DataSettings(max_per_class=4), Key(1), dataset=image_dataset([0, 1, 2] * 30).to_iterable_dataset()
    )
    assert other.train.fingerprint != found.train.fingerprint


def test_only_the_classes_asked_for_are_stored_of_a_stream():
    stream = image_dataset([0, 1, 2] * 10).to_iterable_dataset()
    found = open_source(DataSettings(classes=("emu", "cat")), Key(0), dataset=stream)
    assert len(found.train.table) == 20
    assert found.info.class_names == ("emu", "cat")


def test_a_stream_that_breaks_off_is_not_taken_for_a_full_disk(tmp_path):
    from datasets import ClassLabel, Features, Image, IterableDataset

    def rows():
        yield from image_dataset([0, 1, 2]).cast_column("image", Image(decode=False))
        raise ConnectionResetError("peer went away")

    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog", "emu"])})
    with pytest.raises(DataError) as caught:
        open_source(DataSettings(), Key(0), dataset=IterableDataset.from_generator(rows, features=features))
    assert caught.value.field == "dataset"
    assert "network" in caught.value.next_step


class _Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does: a gated repository, a renamed revision, and nothing else."""

    def do_HEAD(self):
        if self.path == "/":
            self._say(200, None)
        elif "org/faces" in self.path:
            self._say(401, "GatedRepo")
        elif "org/revised" in self.path:
            self._say(404, "RevisionNotFound")
        else:
            self._say(404, "RepoNotFound")

    do_GET = do_HEAD

    def _say(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    """Points the client libraries, online, to an address of this machine."""
    import datasets.config
    import huggingface_hub.constants as constants

    def at(address):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        path = constants.HUGGINGFACE_CO_URL_TEMPLATE.split("/{repo_id}", 1)[1]
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}" + path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    at(f"http://127.0.0.1:{server.server_port}")
    yield at
    server.shutdown()


def test_a_gated_dataset_tells_the_page_and_the_login(hub):
    error = refused("org/faces")
    assert "https://huggingface.co/datasets/org/faces" in error.next_step
    assert "hf auth login" in error.next_step


def test_an_unknown_dataset_names_near_ones(hub):
    assert "cifar10" in refused("cifr10").next_step
    assert "hf auth login" in refused("org/nothing").next_step


def test_an_unknown_revision_is_the_wrong_field(hub):
    assert refused("org/revised", revision="v9").field == "revision"


def test_without_network_the_answer_is_quick_and_nothing_is_changed(hub, monkeypatch):
    """Nothing waits for longer than it takes a person to wonder, and nothing is tried for ever."""
    import time

    import huggingface_hub.constants as constants

    hub("http://127.0.0.1:9")  # nobody listens there
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    error = refused("cifar10")
    assert sum(waits) < 5 and len(waits) < 10
    assert "network" in error.next_step
    assert "uoft-cs/cifar10" in error.allowed
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("BuilderConfig 'x' not found. Available: ['plain_text', 'other']", "dataset_config"),
        ("Config name is missing.\nPlease pick one among the available configs: ['plain_text', 'other']", "dataset_config"),
        ("Dataset scripts are no longer supported, but found imagenette.py", "dataset"),
    ],
)  # fmt: skip
def test_messages_of_the_library_are_told_on(said, field):
    from hf_condense.data.reading import clear_dataset_errors

    with pytest.raises(DataError) as caught, clear_dataset_errors("org/name", None, None):
        raise ValueError(said)
    assert caught.value.field == field
    assert field == "dataset" or "plain_text, other" in caught.value.allowed


def test_an_unknown_configuration_of_a_folder_names_those_there_are(tmp_path):
    image_dataset([0, 1, 2] * 4).to_parquet(str(tmp_path / "a" / "train.parquet"))
    card = "---\nconfigs:\n- config_name: {0}\n  data_files: a/*.parquet\n- config_name: {1}\n  data_files: a/*.parquet\n---\n"
    (tmp_path / "README.md").write_text(card.format("small", "large"))
    for config in (None, "medium"):
        error = refused(tmp_path, dataset_config=config)
        assert error.field == "dataset_config"
        assert "small" in error.allowed
        assert "large" in error.allowed
    assert len(opened(tmp_path, dataset_config="small").train) == 9


def test_short_names_win_over_folders_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "digits")
    assert open_splits(DataSettings(dataset="digits")).known.embedded
    assert opened("./digits").info.class_names == ("cat", "dog")
