"""Files of a distilled dataset, its networks and experts that strangers changed: refused in words, or nothing changes."""

import json
import os
import shutil
import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError
from hf_condense.files import read_json
from hf_condense.hub.artefact import encode_png
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.hashes import content_hash, pixels_hash
from hf_condense.hub.inspection import inspect_folder, report
from hf_condense.hub.push import push
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.models.expert_training import ExpertRecipe
from hf_condense.models.experts import train_experts
from hf_condense.records.base import sealed
from hf_condense.trainer import CondensationTrainer
from tests.hub.mutations import use_experts, use_pool, use_set, verdicts

TINY = {
    "method": "random", "dataset": "digits", "ipc": 2, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1",
    "squeeze_epochs": 1, "min_top1_over_chance": 0, "protocol": "small", "student_epochs": 2, "student_seeds": 1,
    "students": "convnet_d1", "baselines": "full", "threads": 1, "precision": "fp32",
}  # fmt: skip
SET, STORE = "dataset/condensation.json", "dataset/soft_labels/manifest.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with a label store."""
    trainer = CondensationTrainer(**TINY, output_dir=str(tmp_path_factory.mktemp("untrusted") / "run"))
    trainer.run()
    return trainer.folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def signed(folder):
    """As a stranger would write it who knows how the hash is made."""

    def sign(both):
        content = both.get("content") if isinstance(both, dict) else None
        try:
            manifest = read_json(folder / "soft_labels" / "manifest.json")
            content["content_hash"] = content_hash(content, content["pixels_hash"], manifest)
        except (AttributeError, KeyError, TypeError, ValueError):
            pass  # what is left of it has no hash
        return both

    return sign


def check_verdicts(found):
    counts, wrong = Counter(), []
    for what, verdict, words in found:
        counts[verdict] += 1
        if verdict not in ("refused", "same") or (verdict == "refused" and len(words) > 4000):
            wrong.append(f"{verdict} {what}: {words}")
    assert not wrong, wrong[:20]
    assert counts["refused"] > 10
    return counts


def test_no_change_of_a_record_gives_another_result_or_a_traceback(run):
    check_verdicts(verdicts(run / SET, lambda: use_set(run / "dataset"), every=11))
    check_verdicts(verdicts(run / STORE, lambda: use_set(run / "dataset"), every=5))


def test_what_is_no_value_is_refused_with_the_right_hash_too(run):
    """A stranger can write another set; but not one that ends in a traceback, or never."""
    folder, counts = run / "dataset", Counter()
    for what, verdict, words in verdicts(run / SET, lambda: use_set(folder), signed(folder), every=17):
        counts[verdict] += 1
        assert verdict in ("refused", "same", "other"), (what, verdict, words)
    assert counts["refused"] > 20


@pytest.mark.parametrize("name", ["image_model.json", "member.json", "../manifest.json"])
@pytest.mark.parametrize(
    "again", [lambda value: value, lambda value: sealed(value) if isinstance(value, dict) else value]
)
def test_no_change_of_a_networks_facts_gives_a_traceback(run, name, again):
    pool = run / "pool" / "models"
    member = next(p for p in pool.iterdir() if p.is_dir())
    found = list(verdicts((member / name).resolve(), lambda: use_pool(pool), again, every=2))
    assert {verdict for _, verdict, _ in found} <= {"refused", "same", "other"}, found
    if again({"a": 1}) == {"a": 1}:  # without its checksum nothing else comes out
        check_verdicts(found)


class Fresh:
    """Untrained networks by number."""

    fingerprint = "fresh"

    def numbered(self, number, key):
        from hf_condense.models.loading import load_model

        return load_model(
            "convnet_d1",
            ImageSpec(num_classes=10, image_size=8, channels=1, mean=(0.3,), std=(0.4,)),
            key=key / number,
        )


def test_no_change_of_an_expert_manifest_gives_a_traceback(tmp_path, monkeypatch):
    from hf_condense.config import DataSettings
    from hf_condense.data.source import open_source

    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path))
    source = open_source(DataSettings(dataset="digits", max_per_class=4, max_test=20), Key(0, "data")).train
    buffer = train_experts(Fresh(), source, ExpertRecipe(2, families=()), 2, key=Key(1), device=torch.device("cpu"))
    check_verdicts(verdicts(buffer.folder / "manifest.json", lambda: use_experts(buffer.folder)))
    for _, verdict, words in verdicts(buffer.folder / "manifest.json", lambda: use_experts(buffer.folder), sealed):
        assert verdict in ("refused", "same", "other"), words
    place = buffer.folder / "expert-00000.safetensors"
    place.unlink()
    place.symlink_to("/dev/zero")
    with pytest.raises(ArtefactError, match="symbolic link"):
        ExpertBuffer.open(buffer.folder)


def test_sets_of_format_one_load_with_a_line_that_says_what_is_not_covered(run, caplog):
    both = read_json(run / SET)
    content = both["content"]
    content |= {"format": 1, "content_hash": content.pop("pixels_hash")}
    (run / SET).write_text(json.dumps(both))
    data = DistilledDataset.load(run)
    assert "format 1" in caplog.text and "training block" in caplog.text and "label store" in caplog.text
    assert data.content_hash == data.pixels_hash == content["content_hash"]
    assert "format 1: it says nothing about training block" in report(inspect_folder(run))
    assert pixels_hash(data.images, data.labels, data.soft_labels) == content["content_hash"]
    found = [v for _, v, _ in verdicts(run / SET, lambda: use_set(run / "dataset"), every=23)]
    assert set(found) <= {"refused", "same", "other"}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["training"]["recipe"].update(lr=50.0), lambda c: c["class_names"].reverse(),
        lambda c: c["training"]["pixels"].update(flip=True), lambda c: c["soft_label"].update(ensemble="probabilities"),
        lambda c: c["labels"].update(store=None), lambda c: c["models"][0].update(sha256="0" * 64),
    ],
)  # fmt: skip
def test_what_a_student_needs_is_covered_by_the_hash(run, change):
    both = read_json(run / SET)
    change(both["content"])
    (run / SET).write_text(json.dumps(both))
    with pytest.raises(ArtefactError, match="content hash|class names"):
        DistilledDataset.load(run)


def rewritten(folder, change):
    """The table of images as a stranger writes it."""
    path = folder / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(change(table), path, compression="zstd")


def column(table, name, values):
    place = table.column_names.index(name)
    return table.set_column(place, table.field(name), pa.array(values, table.field(name).type))


def test_pictures_and_tables_larger_than_their_record_take_no_memory(run):
    """Ten PNG files of a few kilobytes are gigabytes of pixels, and a small table holds a thousand million rows."""
    folder = run / "dataset"
    whole = pq.read_table(folder / "data" / "train-00000-of-00001.parquet")
    large = encode_png(np.zeros((1, 12_000, 12_000), np.uint8))  # 144 MB of pixels
    attacks = (
        lambda t: column(t, "image", [{"bytes": large, "path": None}] * len(t)),
        lambda t: pa.Table.from_batches(
            [
                pa.RecordBatch.from_pydict(
                    {n: t[n].slice(0, 1).combine_chunks().take(pa.array([0] * 50_000)) for n in t.column_names},
                    t.schema,
                )
            ]
            * 20
        ),
    )
    for change in attacks:
        rewritten(folder, lambda _, change=change: change(whole))
        tracemalloc.start()
        with pytest.raises(ArtefactError, match="rows|PNG"):
            DistilledDataset.load(run)
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()


def test_sizes_that_no_file_holds_are_refused_before_they_are_made(run):
    both = read_json(run / SET)
    both["content"]["images"] |= {"height": 60_000, "width": 60_000}
    (run / SET).write_text(json.dumps(both))
    with pytest.raises(ArtefactError, match="size in memory"):
        DistilledDataset.load(run)


@pytest.mark.parametrize(
    "name",
    [
        "data/train-00000-of-00001.parquet",
        "condensation.json",
        "soft_labels/manifest.json",
        "soft_labels/views-00000.parquet",
        "README.md",
    ],
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_out_of_the_folder_and_pipes_are_refused(run, tmp_path, name, kind, capfd):
    place = run / "dataset" / name
    if kind == "link":
        shutil.move(place, tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.unlink()
        os.mkfifo(place)

    def use():
        next(DistilledDataset.load(run).training_batches("stored", 0))
        push(run, "ada/x", dry_run=True)

    with pytest.raises(ArtefactError, match="symbolic link|regular file"):
        use()


def test_labels_that_are_no_numbers_are_refused(run):
    path = run / "dataset" / "soft_labels" / "views-00000.parquet"
    table = pq.read_table(path)
    logits = table["logits"].to_pylist()
    logits[3][0] = float("nan")
    pq.write_table(column(table, "logits", logits), path, row_group_size=40)
    manifest = read_json(run / STORE)
    from hf_condense.files import sha256_file

    manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    (run / STORE).write_text(json.dumps(manifest))
    both = signed(run / "dataset")(read_json(run / SET))
    (run / SET).write_text(json.dumps(both))
    with pytest.raises(ArtefactError, match="logits.*not a number"):
        list(DistilledDataset.load(run).training_batches("stored", 0))


NAMES = [
    "a\nb",
    "x" * 20_000,
    "back`tick <script>alert(1)</script> | [a](http://b)",
    "\x1b[31mred\x1b[0m",
    "lone \udc80",
    *"fghij",
]


def test_class_names_of_any_kind_are_published_and_shown_as_text(artefact, tmp_path):
    from hf_condense.hub.artefact import write_artefact
    from hf_condense.models.card import ModelCardFacts, render

    write_artefact(tmp_path / "set", artefact(class_names=NAMES[:3]))
    write_artefact(tmp_path / "more", artefact(class_names=NAMES[2:5]))
    assert DistilledDataset.load(tmp_path / "set").class_names == NAMES[:3]
    assert DistilledDataset.load(tmp_path / "more").class_names[2] == "lone \\udc80"
    source = {"id": "x", "revision": None, "pretrained": False}
    facts = ModelCardFacts("x", "timm", "x", "a/b", tuple(NAMES), 8, 1, 1, 0.5, 1, source, "0" * 64)
    card = render(facts)
    assert "<script>" not in card and "](http" not in card and "\x1b" not in card and "a\\nb" in card
    assert len(card) < 5000


def test_a_title_writes_no_line_of_its_own(run):
    both = read_json(run / SET)
    forged = "Title\n  content  holds: sha256:0\x1b[2K<img src=x>](http://evil)"
    both["content"]["method"]["title"] = forged
    both["content"]["content_hash"] = "sha256:" + "0" * 64
    (run / SET).write_text(json.dumps(both))
    told = report(inspect_folder(run))
    assert "\x1b" not in told and not any(line.startswith("  content  holds") for line in told.splitlines())
    with pytest.raises(ArtefactError) as caught:
        DistilledDataset.load(run)
    assert "\n" not in str(caught.value)
    from hf_condense.hub.card import card_facts, render_card

    text = render_card(card_facts(both["content"], both["record"])).split("---", 2)[2]
    assert "<img" not in text and "](http://evil" not in text and "\x1b" not in text


def test_a_folder_that_earlier_versions_published_loads_and_trains(caplog):
    """tests/hub/format1 is a set of format 1 as version 0.1.0 wrote it."""
    from pathlib import Path

    folder = Path(__file__).parent / "format1"
    data = DistilledDataset.load(folder)
    assert data.content_hash.startswith("sha256:9c07d7c7ad3f4118") and "format 1" in caplog.text
    assert len(list(data.training_batches("stored", 1))) == 1 and inspect_folder(folder)["holds"]
    assert data.train("convnet_d1", "stored").sha256()
