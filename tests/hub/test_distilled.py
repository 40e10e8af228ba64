"""Loading verifies; every label regime, transformers' Trainer and a plain loop train on what was loaded."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from datasets import load_dataset
from torch import nn

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key, keyed
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.hub import provenance
from hf_condense.hub.artefact import decode_png, encode_png, write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.inspection import inspect_folder
from hf_condense.labels.store import write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.image_model import ImageModel

PARQUET = "data/train-00000-of-00001.parquet"
POLICY = ViewPolicy(size=8, crop=(0.5, 1.0), mix="cutmix")


def network(seed: int = 0, channels: int = 3) -> ImageModel:
    with keyed(Key(seed, "network")):
        backbone = nn.Sequential(
            nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
        )
    return ImageModel(backbone, num_classes=3, mean=(0.5,) * channels, std=(0.25,) * channels, channels=channels)


def colours() -> torch.Tensor:
    """12 images of three classes that a small network can tell apart."""
    noise = torch.from_numpy(Key(3).numpy().integers(0, 60, (12, 3, 8, 8), dtype="uint8"))
    for c in range(3):
        noise[4 * c : 4 * c + 4, c] += 150
    return noise


@pytest.fixture
def folder(artefact, content_of, tmp_path):
    """A set with soft labels and a store of two epochs in batches of six."""
    images, labels, teacher = colours(), torch.arange(3).repeat_interleave(4), Ensemble([network()])
    device = torch.device("cpu")
    store = write_store(tmp_path / "labels", images, labels, teacher, POLICY, Key(0, "labels"), 2, 6, device)
    training = provenance.training_block("small", POLICY, 6, 2)
    known = {"name": "convnet_w32", "roles": ["teacher"], "sha256": network().sha256(), "top1": None}
    made = artefact(
        images=images,
        content=content_of(
            training=training, regimes=["hard", "stored", "online"], models=[known], store=store.settings
        ),
        soft_labels=teacher.soft_labels(images, device),
        store_folder=tmp_path / "labels",
    )
    write_artefact(tmp_path / "set", made)
    return tmp_path / "set"


def test_what_was_written_is_read(artefact, tmp_path):
    made = artefact(1, stages=torch.arange(12) // 6, float_images=torch.randn(12, 1, 8, 8))
    content = write_artefact(tmp_path / "set", made)
    data = DistilledDataset.load(tmp_path / "set")
    for name in ("images", "labels", "soft_labels", "stages", "float_images"):
        assert torch.equal(getattr(data, name), getattr(made, name)), name
        assert getattr(data, name).dtype == getattr(made, name).dtype, name
    assert data.class_names == made.class_names and data.content == content and len(data) == 12
    assert data.to_dataset().features["label"].names == made.class_names
    assert data.store is None


def test_a_run_folder_is_found_by_its_dataset(artefact, tmp_path):
    write_artefact(tmp_path / "run" / "dataset", artefact())
    assert len(DistilledDataset.load(tmp_path / "run")) == 12


def edit(column: str, change):
    def tamper(folder):
        table = pq.read_table(folder / PARQUET)
        place = table.column_names.index(column)
        values = table[column].to_pylist()
        values[2] = change(values[2])
        pq.write_table(
            table.set_column(place, table.field(column), pa.array(values, table.field(column).type)), folder / PARQUET
        )

    return tamper


def one_pixel(picture):
    image = decode_png(picture["bytes"], 3).copy()
    image[0, 0, 0] ^= 1
    return {**picture, "bytes": encode_png(image)}


def swapped_rows(folder):
    table = pq.read_table(folder / PARQUET)
    pq.write_table(table.take([1, 0, *range(2, 12)]), folder / PARQUET)


def other_class_order(folder):
    table = pq.read_table(folder / PARQUET)
    metadata = {k: v.replace(b'["plane", "car"', b'["car", "plane"') for k, v in table.schema.metadata.items()}
    assert metadata != table.schema.metadata
    pq.write_table(table.replace_schema_metadata(metadata), folder / PARQUET)


def truncated(folder):
    (folder / PARQUET).write_bytes((folder / PARQUET).read_bytes()[:-100])


def broken_png(folder):
    edit("image", lambda p: {**p, "bytes": p["bytes"][:20]})(folder)


def other_hash(folder):
    both = json.loads((folder / "condensation.json").read_text())
    both["content"]["content_hash"] = "sha256:" + "0" * 64
    (folder / "condensation.json").write_text(json.dumps(both))


def written(text):
    return lambda folder: (folder / "condensation.json").write_text(text)


def without(*names):
    """Takes one part out of condensation.json."""

    def tamper(folder):
        both = json.loads((folder / "condensation.json").read_text())
        place = both
        for name in names[:-1]:
            place = place[name]
        del place[names[-1]]
        (folder / "condensation.json").write_text(json.dumps(both))

    return tamper


def rewritten(change):
    def tamper(folder):
        pq.write_table(change(pq.read_table(folder / PARQUET)), folder / PARQUET)

    return tamper


@pytest.mark.parametrize(
    "tamper",
    [
        written("{}"), written("[]"), written("[" * 100_000), written('{"content": {}, "record": {}}'),
        without("content", "images", "channels"), without("content", "source", "id"), without("record", "files"),
        lambda folder: (folder / PARQUET).rename(folder / "data" / "train.parquet"),
        lambda folder: (folder / PARQUET).rename(folder / "data" / "train-of-many.parquet"),
        rewritten(lambda table: table.drop_columns("label")), rewritten(lambda table: table.drop_columns("image")),
        rewritten(lambda table: table.replace_schema_metadata({})), rewritten(lambda table: table.slice(0, 0)),
        rewritten(lambda table: table.replace_schema_metadata({"huggingface": "{"})),
        edit("image", lambda p: None), edit("image", lambda p: {"bytes": encode_png(colours()[0, :, :4].numpy())}),
    ],
    ids=[
        "nothing", "list", "deep", "no parts", "channels", "source", "files", "name", "count", "label", "image",
        "features", "rows", "metadata", "cell", "size",
    ],
)  # fmt: skip
def test_what_this_library_never_writes_is_refused(artefact, tmp_path, tamper):
    write_artefact(tmp_path / "set", artefact())
    tamper(tmp_path / "set")
    for reader in (DistilledDataset.load, inspect_folder):
        with pytest.raises(ArtefactError) as caught:
            reader(tmp_path / "set")
        assert caught.value.next_step


@pytest.mark.parametrize(
    "tamper",
    [
        edit("image", one_pixel), edit("label", lambda c: (c + 1) % 3), edit("soft_label", lambda p: [0.0, 0.5, 0.5]),
        swapped_rows, other_class_order, truncated, broken_png, other_hash,
        lambda folder: (folder / PARQUET).unlink(), lambda folder: (folder / "condensation.json").unlink(),
    ],
    ids=["pixel", "label", "soft", "rows", "classes", "truncated", "png", "hash", "missing", "no record"],
)  # fmt: skip
def test_tampering_is_refused(artefact, tmp_path, tamper):
    write_artefact(tmp_path / "set", artefact())
    DistilledDataset.load(tmp_path / "set")
    tamper(tmp_path / "set")
    with pytest.raises(ArtefactError) as caught:
        DistilledDataset.load(tmp_path / "set")
    assert caught.value.next_step


def test_other_parquet_bytes_of_the_same_data_hold(artefact, tmp_path):
    write_artefact(tmp_path / "set", artefact())
    table, before = pq.read_table(tmp_path / "set" / PARQUET), (tmp_path / "set" / PARQUET).read_bytes()
    pq.write_table(table, tmp_path / "set" / PARQUET, compression="snappy", row_group_size=5)
    assert (tmp_path / "set" / PARQUET).read_bytes() != before
    DistilledDataset.load(tmp_path / "set")


def test_nothing_there_says_what_to_do():
    with pytest.raises(ArtefactError, match="Check the name and revision"):
        DistilledDataset.load("no-such/dataset")


def test_hard_batches_cover_the_set_and_repeat_by_epoch(folder):
    data = DistilledDataset.load(folder)
    first, again, later = (list(data.training_batches("hard", epoch)) for epoch in (0, 0, 1))
    assert [len(b.labels) for b in first] == [6, 6]
    assert sorted(torch.cat([b.labels for b in first]).tolist()) == data.labels.tolist()
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again))
    assert not torch.equal(first[0].images, later[0].images)
    assert first[0].soft is None and first[0].images.dtype == torch.float32 and first[0].partner is not None
    assert [len(b.labels) for b in data.training_batches("hard", 0, batch_size=5)] == [5, 5, 2]


def test_stored_labels_are_the_teachers_answers_to_these_views(folder):
    data, teacher = DistilledDataset.load(folder), Ensemble([network()])
    for epoch in (1, 0):
        batches = list(data.training_batches("stored", epoch))
        assert sum(len(b.labels) for b in batches) == 12
        for batch in batches:
            assert torch.equal(batch.soft, teacher.logits(batch.images).half().float())
    assert [len(b.labels) for b in data.training_batches("stored", 0, batch_size=3)] == [3] * 4


def test_datasets_reads_the_store_as_a_config(folder, tmp_path):
    views = load_dataset(str(folder), "soft_labels", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(views) == 2 * 12 and len(views[0]["logits"]) == 3
    default = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert default.column_names == ["image", "label", "soft_label"]


def test_online_labels_come_from_the_teacher_given(folder):
    data, teacher = DistilledDataset.load(folder), Ensemble([network()])
    for batch in data.training_batches("online", 3, teacher=teacher):
        assert torch.equal(batch.soft, teacher.logits(batch.images))


def test_a_teacher_with_other_weights_is_refused_before_any_batch(folder, artefact, content_of, tmp_path):
    data = DistilledDataset.load(folder)
    for use in (data.training_batches, lambda regime, _, **more: data.train("convnet_d1", regime, **more)):
        with pytest.raises(ConfigError, match="with the weights that labelled the set.*read_checkpoint") as caught:
            use("online", 0, teacher=Ensemble([network(5)]))
        assert caught.value.field == "teacher" and network(5).sha256()[:16] in caught.value.value
        with pytest.raises(ConfigError, match="RUN/pool/models"):
            use("online", 0)
    (folder.parent / "pool" / "models").mkdir(parents=True)  # of the run that holds the set
    with pytest.raises(ConfigError, match=str(folder.parent / "pool" / "models")):
        data.training_batches("online", 0)
    write_artefact(tmp_path / "bare", artefact(content=content_of(models=[], regimes=["hard", "online"])))
    bare, taught = DistilledDataset.load(tmp_path / "bare"), network(5)
    with pytest.raises(ConfigError, match="teacher"):  # nothing is recorded: at least it is a trained one
        bare.training_batches("online", 0, teacher=Ensemble([taught]))
    taught.needs_squeeze = False
    assert next(bare.training_batches("online", 0, teacher=Ensemble([taught]))).soft is not None


def test_what_a_regime_needs_is_said(folder, artefact, tmp_path):
    data = DistilledDataset.load(folder)
    with pytest.raises(ConfigError, match="convnet_w32"):
        data.training_batches("online", 0)
    with pytest.raises(ConfigError, match="stored, hard, online"):
        data.training_batches("soft", 0)
    bare = artefact(soft_labels=None, soft_label_kind=None)
    write_artefact(tmp_path / "bare", bare)
    data = DistilledDataset.load(tmp_path / "bare")
    with pytest.raises(ArtefactError, match="what was published: hard"):
        data.training_batches("stored", 0)
    with pytest.raises(ArtefactError, match="no soft labels"):
        data.torch_dataset(soft=True)


def test_labels_that_did_not_arrive_are_told_from_those_that_never_were(folder):
    shutil.rmtree(folder / "soft_labels")
    with pytest.raises(ArtefactError, match="soft_labels='missing'.*Fetch the dataset again"):
        DistilledDataset.load(folder)


def test_a_record_of_a_later_format_is_refused(artefact, tmp_path):
    content = write_artefact(tmp_path / "set", artefact())
    both = json.loads((tmp_path / "set" / "condensation.json").read_text())
    (tmp_path / "set" / "condensation.json").write_text(json.dumps({**both, "content": {**content, "format": 9}}))
    for reader in (DistilledDataset.load, inspect_folder):
        with pytest.raises(ArtefactError, match="format of.*=9.*Install a newer hf-condense"):
            reader(tmp_path / "set")


def test_other_networks_than_image_models_are_refused_in_words(folder):
    data = DistilledDataset.load(folder)
    with pytest.raises(ConfigError, match="network='Linear'.*ImageModel.*load_model"):
        data.train(nn.Linear(3, 3), "hard")
    with pytest.raises(ConfigError, match="teacher='Linear'.*Ensemble"):
        data.training_batches("online", 0, teacher=nn.Linear(3, 3))


def test_it_is_shown_in_one_line(folder):
    shown = repr(DistilledDataset.load(folder))
    assert "\n" not in shown and len(shown) < 300 and "cifar10 in 4 images per class" in shown and str(folder) in shown


def test_a_store_of_other_images_is_refused(folder, artefact, tmp_path):
    other = artefact(images=255 - colours(), store_folder=folder / "soft_labels")
    write_artefact(tmp_path / "other", other)
    with pytest.raises(ArtefactError, match="Relabel"):
        DistilledDataset.load(tmp_path / "other").training_batches("stored", 0)


def test_plain_loop_learns(folder):
    """The example of the README."""
    model = network(1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)

    data = DistilledDataset.load(folder)
    for epoch in range(25):
        for batch in data.training_batches("hard", epoch):
            loss = F.cross_entropy(model(batch.images), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    assert (model(data.images / 255).argmax(1) == data.labels).float().mean() > 0.9


@pytest.mark.parametrize("soft", [False, True])
def test_transformers_trainer_learns(folder, tmp_path, soft):
    """The example of the README; soft labels need one line for the loss."""
    from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3, downsample_in_first_stage=False
    )
    with keyed(Key(0, "trainer")):
        model = ResNetForImageClassification(config)
        before = {k: v.clone() for k, v in model.named_parameters()}
        args = TrainingArguments(
            str(tmp_path / "out"), max_steps=30, per_device_train_batch_size=6, learning_rate=0.01, report_to="none",
            use_cpu=True, disable_tqdm=True, save_strategy="no",
        )  # fmt: skip
        loss = (lambda outputs, labels, **_: F.cross_entropy(outputs.logits, labels)) if soft else None

        data = DistilledDataset.load(folder)
        trainer = Trainer(model, args, train_dataset=data.torch_dataset(soft=soft), compute_loss_func=loss)
        trainer.train()

    assert all(not torch.equal(before[k], v) for k, v in model.named_parameters())
    if not soft:
        found = trainer.predict(data.torch_dataset()).predictions.argmax(1)
        assert (torch.from_numpy(found) == data.labels).float().mean() > 0.9


def test_torch_dataset_applies_a_transform(folder):
    data = DistilledDataset.load(folder)
    item = data.torch_dataset(transform=lambda image: image * 2 - 1)[3]
    assert torch.equal(item["pixel_values"], data.images[3].float() / 255 * 2 - 1)
    assert item["labels"] == data.labels[3]
