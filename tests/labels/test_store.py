import multiprocessing
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hf_condense import files
from hf_condense.config import LabelSettings
from hf_condense.data.augmentation import ViewPolicy, draw_views
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.evaluation.losses import kl
from hf_condense.labels import replay
from hf_condense.labels import store as store_module
from hf_condense.labels.columns import epoch_table, expected_bytes, read_group, table_batches, write_epochs
from hf_condense.labels.encodings import encoding_of
from hf_condense.labels.formats import store_format
from hf_condense.labels.store import LabelStore, write_given, write_store
from hf_condense.labels.views import view_batches

POLICY = ViewPolicy(8, crop=(0.3, 1.0), mix="cutmix")


@pytest.fixture
def make(tmp_path, teacher, images, device):
    """Writes a store of n images and gives it back with its images and labels."""

    def write(n=30, epochs=3, batch=10, folder="labels", policy=POLICY, **more):
        x, y = images(n), torch.arange(n) % 3
        return write_store(tmp_path / folder, x, y, teacher, policy, Key(5), epochs, batch, device, **more), x, y

    return write


@pytest.fixture
def one_epoch_files(monkeypatch):
    monkeypatch.setattr(store_module, "GROUP_BYTES", 1)
    monkeypatch.setattr(store_module, "FILE_BYTES", 1)


@pytest.mark.parametrize("n", [30, 25])
def test_replay_gives_the_views_and_logits_of_the_teacher(make, teacher, n):
    store, x, y = make(n)
    for epoch in range(3):
        expected = list(view_batches(x, y, POLICY, Key(5), epoch, 10))
        replayed = list(store.replay(epoch, x, y))
        assert len(replayed) == len(expected) == 3
        for (_, _, want), batch in zip(expected, replayed):
            assert torch.equal(batch.images, want.images) and torch.equal(batch.labels, want.labels)
            assert torch.equal(batch.partner, want.partner) and batch.lam == want.lam
            assert torch.equal(batch.soft, teacher.logits(batch.images).half().float())


def test_full_precision_is_exact_and_an_epoch_can_be_cut_short(make, teacher):
    store, x, y = make(dtype="float32", limit=2)
    batches = list(store.replay(1, x, y))
    assert [len(b.labels) for b in batches] == [10, 10]
    assert all(torch.equal(b.soft, teacher.logits(b.images)) for b in batches)


@pytest.mark.parametrize(
    "more",
    [
        {"mix": "none"},
        {"mix": "mixup", "mix_alpha": 0.8, "pad": 1},
        {"shuffle": 2, "roll": 2},
        {"rand_augment": (2, 9), "mix": "cutmix"},
        {"per": "batch", "crop": (0.3, 1.0)},
    ],
)
def test_every_augmentation_comes_back(tmp_path, more):
    policy = ViewPolicy(8, **more)
    drawn = [(torch.arange(4), draw_views(policy, Key(1, i), 4, 8, 8), torch.randn(4, 3).half()) for i in range(2)]
    write_epochs(tmp_path / "x.parquet", [epoch_table(0, drawn)])
    columns = read_group(replay.pq.ParquetFile(tmp_path / "x.parquet"), 0)
    found = list(table_batches(columns, 4))
    assert len(found) == 2
    for (rows, views, logits), (r, v, l) in zip(drawn, found):
        assert torch.equal(rows, r) and torch.equal(logits, l)
        for f in fields(views):
            a, b = getattr(views, f.name), getattr(v, f.name)
            assert torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b, f.name


def test_an_interrupted_store_goes_on_and_ends_with_the_same_bytes(make, one_epoch_files, monkeypatch):
    whole, *_ = make(folder="whole")
    made = []

    def die(when, path):
        if when == "after" and path.suffix == ".parquet":
            made.append(path.name)
            if len(made) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(files, "on_replace", die)
    with pytest.raises(KeyboardInterrupt):
        make(folder="broken")
    monkeypatch.setattr(files, "on_replace", lambda when, path: made.append(path.name) if when == "after" else None)
    with pytest.raises(ArtefactError, match="unfinished"):
        LabelStore.open(whole.folder.parent / "broken")
    made.clear()
    broken, *_ = make(folder="broken")
    assert [name for name in made if name.startswith("views")] == ["views-00002.parquet"]
    assert broken.manifest["files"] == whole.manifest["files"]


def _digests(folder, queue):
    store = LabelStore.open(folder)
    queue.put([float(logits.float().sum()) for epoch in range(3) for _, _, logits in store.batches(epoch)])


def test_another_process_reads_the_same(make):
    store, *_ = make()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_digests, args=(store.folder, queue))
    process.start()
    theirs = queue.get(timeout=30)
    process.join()
    assert theirs == [float(logits.float().sum()) for epoch in range(3) for _, _, logits in store.batches(epoch)]


def test_damage_is_named(make, one_epoch_files):
    store, x, y = make()
    path = store.folder / "views-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    opened = LabelStore.open(store.folder, x)
    assert len(list(opened.replay(0, x, y))) == 3
    with pytest.raises(ArtefactError, match=r"views-00001.parquet \(epochs 1 to 1\).*sha256"):
        list(opened.replay(1, x, y))
    with pytest.raises(ArtefactError, match="views-00001"):
        opened.verify()
    path.unlink()
    with pytest.raises(ArtefactError, match=r"views-00001.*missing"):
        LabelStore.open(store.folder)
    mended, *_ = make()  # what the message says: run the stage again
    mended.verify()


def test_labels_of_other_images_classes_or_settings_are_refused(make, images):
    store, x, y = make()
    changed = x.clone()
    changed[0, 0, 0, 0] ^= 1
    with pytest.raises(ArtefactError, match="other images"):
        LabelStore.open(store.folder, changed)
    with pytest.raises(ArtefactError, match=r"3.*labels of 4 classes"):
        LabelStore.open(store.folder, x, num_classes=4)
    with pytest.raises(ConfigError, match="images"):
        list(store.replay(0, images(29), y[:29]))
    with pytest.raises(ArtefactError, match="batch_size"):
        make(batch=5)
    with pytest.raises(ConfigError, match=r"epoch.*0 to 2"):
        list(store.replay(3, x, y))


def test_half_the_batch_gives_the_same_sum_of_losses(make, model):
    store, x, y = make(30, policy=ViewPolicy(8, crop=(0.3, 1.0), mix="cutmix"))
    student = model(9).eval()

    def total(size):
        batches = store.replay(2, x, y, size)
        return sum(kl(student(b.images), b.soft, 4.0) * len(b.labels) for b in batches).item()

    assert total(5) == pytest.approx(total(10), rel=1e-5)
    for wrong in (0, 3, 20):
        with pytest.raises(ConfigError, match="10 or a divisor"):
            list(store.replay(0, x, y, wrong))


@pytest.mark.parametrize(
    "n, k, batch, published", [(1000, 1000, 100, True), (2000, 10, 50, False), (1000, 200, 64, False)]
)
def test_size_formula(tmp_path, n, k, batch, published):
    policy, epochs = ViewPolicy(32, crop=(0.5, 1.0), mix="cutmix"), 2
    rows = torch.arange(n).split(batch)
    tables = (
        epoch_table(
            e,
            [
                (r, draw_views(policy, Key(e, i), len(r), 32, 32), torch.randn(len(r), k).half())
                for i, r in enumerate(rows)
            ],
        )
        for e in range(epochs)
    )
    write_epochs(tmp_path / "x.parquet", tables)
    meta = pq.read_metadata(tmp_path / "x.parquet")
    size = sum(meta.row_group(group).total_byte_size for group in range(epochs))  # before compression
    assert size == pytest.approx(expected_bytes(epochs, n, k, batch, True), rel=0.01)
    assert (tmp_path / "x.parquet").stat().st_size < 0.95 * size
    if published:  # the FKD store of SRe2L: per view 16 + 1 + 8 bytes and fp16 logits; headers of its files left out
        assert size == pytest.approx(epochs * n * (25 + 2 * k), rel=0.01)


@pytest.mark.parametrize("kind", ["full", "int8", "packed"])
def test_row_groups_hold_many_epochs_of_a_small_set_and_are_compressed_with_an_index(make, monkeypatch, kind):
    """Files and groups of whole epochs; each group is read once, whatever the number of epochs in it."""
    form = store_format(LabelSettings(kind, views_per_image=12, top_k=1))
    one = expected_bytes(
        1, 30, 3, 10, True, encoding_of({**form, "dtype": "float16", "classes": 3}), views=form["views"]
    )
    single, x, y = make(epochs=12, form=form, folder="single")
    monkeypatch.setattr(store_module, "GROUP_BYTES", 2 * one)
    monkeypatch.setattr(store_module, "FILE_BYTES", 5 * one)
    store, *_ = make(epochs=12, form=form)
    paths = sorted(store.folder.glob("*.parquet"))
    rows = [
        [pq.read_metadata(p).row_group(g).num_rows for g in range(pq.read_metadata(p).num_row_groups)] for p in paths
    ]
    assert rows == [[60, 60]] * 3 and pq.read_metadata(single.folder / paths[0].name).num_row_groups == 1
    columns = [pq.read_metadata(paths[0]).row_group(0).column(c) for c in range(2)]
    assert all(c.has_offset_index and c.compression == "ZSTD" for c in columns)
    read = []
    monkeypatch.setattr(replay, "read_group", lambda file, group: read.append(group) or read_group(file, group))
    for epoch in range(12):
        for a, b in zip(store.replay(epoch, x, y), single.replay(epoch, x, y), strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.soft, b.soft)
    assert len(read) == 6 + 1


def test_labels_of_a_run_fill_row_groups_of_a_megabyte(tmp_path, images):
    """As they are published, for a set whose epochs have 47 kB; only what is left at the end may be less."""
    policy, rows = ViewPolicy(8), torch.arange(1000)
    views = draw_views(policy, Key(1), 1000, 8, 8)

    def given(epoch):
        return [(rows, views, torch.randn(1000, 10, generator=torch.Generator().manual_seed(epoch)))]

    about = {"members": [], "average": "unknown", "bn": "unknown", "precision": "unknown"}
    store = write_given(tmp_path, images(1000), policy, 120, 1000, 10, given, teacher=about)
    groups = [meta.row_group(g) for meta in map(pq.read_metadata, sorted(tmp_path.glob("*.parquet"))) for g in range(meta.num_row_groups)]  # fmt: skip
    sizes = [sum(group.column(c).total_compressed_size for c in range(group.num_columns)) for group in groups]
    assert len(sizes) > 1 and min(sizes[:-1]) > 1e6
    assert sum(group.num_rows for group in groups) == 120_000 and store.epochs == 120


@pytest.mark.parametrize("name", ["format2", "format3", "format4", "packed", "virtual"])
def test_stores_of_earlier_formats_are_read(name):
    """Written by this library when a row group was an epoch (packed: a file), with three epochs a file (packed: four)."""
    store = LabelStore.open(Path(__file__).parent / "old_stores" / name)
    store.verify()
    assert store.settings["format"] < 5
    if name == "virtual":
        assert len(store._columns(0)["logits"]) == 100
        return
    rows = pa.concat_tables([pq.read_table(p) for p in sorted(store.folder.glob("*.parquet"))])
    found = [labels for epoch in range(5) for _, _, labels in store.batches(epoch)]
    counts = [len(labels) for labels in found[: len(found) // 5]]
    assert counts == ([10, 9, 2] if name == "format3" else [10, 10])
    if name == "packed":
        top = torch.tensor([value for row in rows["top"].to_pylist() for value in row])
        assert torch.equal(torch.cat(found).argmax(1), top)
    else:
        wanted = torch.tensor(rows["logits"].to_pylist())
        assert torch.equal(torch.cat(found).float(), wanted)


def test_manifest_counts_bytes_and_knows_its_teacher(make, teacher):
    store, *_ = make()
    on_disk = sum(p.stat().st_size for p in store.folder.iterdir())
    assert store.bytes == on_disk
    assert [m["sha256"] for m in store.settings["teacher"]["members"]] == [m.sha256() for m in teacher.models]
    assert store.policy == POLICY and store.key == Key(5)


def test_datasets_reads_it_without_this_library(make, tmp_path):
    from datasets import load_dataset

    store, *_ = make()
    files_ = [str(p) for p in sorted(store.folder.glob("*.parquet"))]
    loaded = load_dataset("parquet", data_files=files_, cache_dir=str(tmp_path / "cache"), split="train")
    assert len(loaded) == 90 and loaded.features["logits"].length == 3
    _, _, logits = next(iter(store.batches(0)))
    assert loaded[0]["logits"] == pytest.approx(logits[0].tolist())
