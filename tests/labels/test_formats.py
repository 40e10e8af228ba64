"""Every kind of label store: what it keeps, what it costs, and that it replays the views that the teacher saw."""

import json
import logging

import pytest
import torch

from hf_condense.config import LabelSettings
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.labels import columns, regeneration, replay
from hf_condense.labels import store as store_module
from hf_condense.labels import views as views_module
from hf_condense.labels.encodings import Bytes, Largest
from hf_condense.labels.formats import kept_epochs, store_format
from hf_condense.labels.regeneration import compare_probes
from hf_condense.labels.store import LabelStore, write_given, write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import view_batches

POLICY = ViewPolicy(8, crop=(0.3, 1.0), mix="cutmix")
EPOCHS, KEY, CPU = 12, Key(5), torch.device("cpu")
FORMS = {
    "full": {},
    "full, keyed": {"views": "keyed"},
    "int8": {},
    "int8, keyed": {"views": "keyed"},
    "pruned": {"keep_every": 4},
    "packed": {"views_per_image": 5, "top_k": 1},
    "packed, explicit": {"views_per_image": 5, "top_k": 1, "views": "explicit"},
    "virtual": {},
}


def settings_of(name: str) -> LabelSettings:
    return LabelSettings(store=name.partition(",")[0], **FORMS[name])


@pytest.fixture
def make(tmp_path, teacher, images):
    """Writes a store of `count` images in batches of 10, and gives it back with its images and labels."""

    def write(name="full", folder=None, policy=POLICY, teacher=teacher, count=25, **more):
        x, y = images(count), torch.arange(count) % 3
        form = store_format(settings_of(name))
        folder = tmp_path / (folder or name.replace(", ", "-"))
        return write_store(folder, x, y, teacher, policy, KEY, EPOCHS, 10, CPU, form=form, **more), x, y

    return write


def as_format_2(store, x, y):
    """The store as it was written by the first versions: of one epoch a row group and a file."""
    path = store.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["format"] = 2
    del manifest["settings"]["epochs_per_group"]
    path.write_text(json.dumps(manifest))
    return LabelStore.open(store.folder), x, y


def replayed(store, x, y, **more):
    return [[*store.replay(epoch, x, y, **more)] for epoch in range(store.epochs)]


@pytest.mark.parametrize("count", [25, 21])
@pytest.mark.parametrize("name", FORMS)
def test_every_store_replays_views_of_the_full_one_with_its_labels(make, teacher, name, count):
    store, x, y = make(name, count=count)
    kept = store.settings.get("kept", range(EPOCHS))
    assert store.epochs == len(kept) == {"pruned": 3, "packed": 5}.get(name.partition(",")[0], EPOCHS)
    error = {"int": 0.004, "pac": 0.004, "vir": 0.0}.get(name[:3], 5e-4)  # a share of the range of the logits
    for number, batches in zip(kept, replayed(store, x, y, teacher=teacher), strict=True):
        expected = view_batches(x, y, POLICY, KEY, number, 10)
        for (_, _, want), batch in zip(expected, batches, strict=True):
            assert torch.equal(batch.images, want.images) and torch.equal(batch.labels, want.labels)
            assert torch.equal(batch.partner, want.partner) and batch.lam == want.lam
            logits = teacher.logits(want.images)
            if name.startswith("packed"):  # of 3 classes 1 is kept: the others have their mean
                top = logits.argmax(1, keepdim=True)
                mean = (logits.sum(1, keepdim=True) - logits.gather(1, top)) / 2
                logits = mean.expand(-1, 3).scatter(1, top, logits.gather(1, top))
            assert (batch.soft - logits).abs().max() <= error * (logits.max() - logits.min())


@pytest.mark.parametrize("name", FORMS)
def test_bytes_are_those_of_the_files_and_divisors_of_the_batch_are_parts_of_it(make, teacher, name):
    store, x, y = make(name)
    assert store.bytes == sum(p.stat().st_size for p in store.folder.iterdir())
    store.verify()
    for whole, parts in zip(
        replayed(store, x, y, teacher=teacher), replayed(store, x, y, batch_size=5, teacher=teacher)
    ):
        assert torch.equal(torch.cat([b.soft for b in whole]), torch.cat([b.soft for b in parts]))


@pytest.mark.parametrize("name", FORMS)
def test_every_store_knows_what_its_labels_are(make, teacher, name):
    s = make(name)[0].settings
    assert (s["kind"], s["temperature"], s["teacher"]["average"]) == ("logits", None, "logits")
    assert s["store"] == name.partition(",")[0] and s["view_version"] == 1
    assert [m["sha256"] for m in s["teacher"]["members"]] == [m.sha256() for m in teacher.models]


@pytest.mark.parametrize("name", ["int8", "pruned", "packed", "virtual"])
def test_an_interrupted_store_goes_on_and_other_settings_are_refused(make, name, monkeypatch):
    monkeypatch.setattr(store_module, "GROUP_BYTES", 1000)
    monkeypatch.setattr(store_module, "FILE_BYTES", 2000)  # a few epochs a file
    whole, x, y = make(name, "whole")
    broken, *_ = make(name, "broken")
    broken_files = sorted(broken.folder.glob("*.parquet"))
    assert len(broken_files) > 1 or name == "virtual"
    broken_files[-1].unlink()
    with pytest.raises(ArtefactError, match="missing"):
        LabelStore.open(broken.folder)
    again, *_ = make(name, "broken")
    assert again.manifest["files"] == whole.manifest["files"]
    with pytest.raises(ArtefactError, match="store"):
        make("full, keyed", "broken")


def test_a_pruned_store_is_a_part_of_the_full_one(make):
    (full, x, y), (pruned, *_) = make("full"), make("pruned")
    for place, number in enumerate(pruned.settings["kept"]):
        for one, two in zip(pruned.replay(place, x, y), full.replay(number, x, y), strict=True):
            assert torch.equal(one.images, two.images) and torch.equal(one.soft, two.soft)


def test_which_epochs_are_kept():
    pruned = store_format(LabelSettings("pruned", keep_every=40))
    assert [len(kept_epochs(pruned, Key(0), n)) for n in (1, 39, 80, 125)] == [1, 1, 2, 3]
    kept = kept_epochs(pruned, Key(0), 400)
    assert kept == sorted(set(kept)) and kept != kept_epochs(pruned, Key(1), 400) and max(kept) < 400
    packed = store_format(LabelSettings("packed", views_per_image=10))
    assert kept_epochs(packed, Key(0), 4) == [0, 1, 2, 3] and len(kept_epochs(packed, Key(0), 40)) == 10
    with pytest.raises(ConfigError, match="views"):
        LabelSettings("virtual", views="explicit")
    for name, value in (("top_k", 0), ("value_bits", 9), ("keep_every", 0)):
        with pytest.raises(ConfigError, match=name):
            LabelSettings("packed", **{name: value})


def test_stores_whose_last_batch_is_one_image_replay_as_they_were_made_or_not_at_all(make, monkeypatch):
    """As they were made before the last two batches were evened out."""
    with monkeypatch.context() as before:
        before.setattr(views_module, "leaves_one", lambda images, batch_size: False)
        before.setattr(store_module, "FILE_BYTES", 1)
        before.setattr(store_module, "GROUP_BYTES", 1)
        (explicit, x, y), (keyed, *_) = (as_format_2(*make(name, count=21)) for name in ("full", "full, keyed"))
        made = replayed(explicit, x, y)
    assert [len(batch.labels) for batch in made[0]] == [10, 10, 1]
    for before, now in zip(made, replayed(explicit, x, y), strict=True):
        for one, two in zip(before, now, strict=True):
            assert torch.equal(one.images, two.images) and torch.equal(one.soft, two.soft)
    with pytest.raises(ArtefactError, match="drawn otherwise"):
        list(keyed.replay(0, x, y))


def test_keyed_views_that_are_drawn_otherwise_are_refused(make, monkeypatch):
    store, x, y = make("int8, keyed")
    assert replayed(store, x, y)
    drawn = replay.epoch_views
    monkeypatch.setattr(replay, "epoch_views", lambda policy, key, *rest: drawn(policy, key / "new", *rest))
    with pytest.raises(ArtefactError, match="epoch 2.*drawn otherwise"):
        list(store.replay(2, x, y))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_value_of_the_others_keeps_every_kept_probability(temperature):
    logits = 2.5 * torch.randn(50, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[:, 3] += 12

    def probabilities(encoding):  # without the rounding to 8 bits
        kept, top = logits.topk(10, 1)
        others = encoding._others(logits, kept, top)[:, None].expand(-1, 100)
        return (others.scatter(1, top, kept) / temperature).softmax(1).gather(1, top)

    exact = (logits / temperature).softmax(1).gather(1, logits.topk(10, 1).indices)
    assert torch.allclose(probabilities(Largest(10, temperature)), exact, rtol=1e-12)
    assert not torch.allclose(probabilities(Largest(10, 2 * temperature)), exact, rtol=1e-3)


def test_the_mean_of_the_others_is_the_limit_of_high_temperatures_and_nearest():
    logits = torch.randn(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept, top = logits.topk(5, 1)
    mean = Largest(5)._others(logits, kept, top)
    assert torch.allclose(Largest(5, 1e6)._others(logits, kept, top), mean, atol=1e-5)
    rest = logits.scatter(1, top, torch.nan)
    squared = [(rest - (mean + shift)[:, None]).square().nansum() for shift in (-0.01, 0.0, 0.01)]
    assert squared[1] < squared[0] and squared[1] < squared[2]


def test_packed_labels_are_nearest_at_the_temperature_they_were_made_for():
    generator = torch.Generator().manual_seed(2)
    logits = 2.5 * torch.randn(200, 1000, generator=generator)
    logits[torch.arange(200), torch.arange(200)] += 12

    def divergence(found, temperature):
        one, two = ((z / temperature).log_softmax(1) for z in (logits, found))
        return float((one.exp() * (one - two)).sum(1).mean())

    cold, warm = (e.decode(e.encode(logits), 1000) for e in (Largest(10, 1.0), Largest(10, 20.0)))
    assert divergence(cold, 1.0) < 0.7 * divergence(warm, 1.0)
    assert divergence(warm, 20.0) < min(0.008, divergence(cold, 20.0))
    # the ten largest probabilities alone have next to nothing of a target that is nearly flat
    probabilities, top = (logits / 20).softmax(1).topk(10, 1)
    alone = torch.full_like(logits, 1e-12).scatter(1, top, probabilities).log() * 20
    assert divergence(alone, 20.0) > 1


@pytest.mark.parametrize("encoding", [lambda bits: Largest(9, bits=bits), lambda bits: Bytes(bits, shared=True)])
def test_every_bit_less_doubles_the_step(encoding):
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(4))
    errors = [(e.decode(e.encode(logits), 10) - logits).abs().max() for e in map(encoding, (8, 4))]
    room = logits.max() - logits.min()
    assert errors[0] < 1.1 * room / 255 / 2 and room / 15 / 2.2 < errors[1] < 1.1 * room / 15 / 2


def test_8_bits_are_nearer_than_a_thousandth_of_a_nat():
    logits = 2.5 * torch.randn(200, 1000, generator=torch.Generator().manual_seed(3))
    found = Bytes().decode(Bytes().encode(logits), 1000)
    one, two = logits.log_softmax(1), found.log_softmax(1)
    assert float((one.exp() * (one - two)).sum(1).mean()) < 1e-3
    same = torch.full((2, 10), 3.0)
    assert torch.equal(Bytes().decode(Bytes().encode(same), 10), same)


def test_as_many_logits_as_classes_lose_nothing_but_precision_and_need_no_class_numbers(tmp_path, teacher, images):
    x, y = images(25), torch.arange(25) % 3
    form = store_format(LabelSettings("packed", views_per_image=2, top_k=10))
    store = write_store(tmp_path / "many", x, y, teacher, POLICY, KEY, 2, 10, CPU, form=form)
    assert "top" not in columns.read_group(replay.pq.ParquetFile(store.folder / "views-00000.parquet"), 0)
    for batch in store.replay(0, x, y):
        assert (batch.soft - teacher.logits(batch.images)).abs().max() < 0.004 * batch.soft.abs().max() + 1e-3


def test_probabilities_that_were_made_elsewhere_come_back_as_logits(tmp_path, teacher, images):
    x, y = images(20), torch.arange(20) % 3

    def given(epoch):
        for rows, views, batch in view_batches(x, y, POLICY, KEY, epoch, 10):
            yield rows, views, (teacher.logits(batch.images) / 4).softmax(1)

    facts = {"members": [], "average": "probabilities", "bn": "running", "precision": "fp32"}
    store = write_given(
        tmp_path, x, POLICY, 2, 10, 3, given, teacher=facts, kind="probabilities", temperature=4.0, dtype="float32"
    )
    assert (store.settings["kind"], store.settings["views"], store.settings["temperature"]) == (
        "probabilities", "explicit", 4.0,
    )  # fmt: skip
    for batch in store.replay(1, x, y):
        logits = teacher.logits(batch.images)
        assert torch.allclose(batch.soft.log_softmax(1), logits.log_softmax(1), atol=1e-4)


class Shifted(torch.nn.Module):
    """A network whose first logit is a little larger than another's."""

    def __init__(self, model, shift: float) -> None:
        super().__init__()
        self.model, self.shift, self.num_classes = model, shift, model.num_classes

    def forward(self, images):
        return self.model(images) + self.shift * torch.eye(self.num_classes)[0]


def test_virtual_labels_are_equal_to_the_bit_or_close_and_other_ones_are_refused(make, teacher, model, caplog):
    store, x, y = make("virtual")
    caplog.set_level(logging.INFO)
    made = replayed(store, x, y, teacher=Ensemble([model(1), model(2)]))  # loaded again, on the same machine
    assert "equal" in caplog.text and len(caplog.records) == 1  # compared once, not every epoch
    for epoch, batches in enumerate(made):
        online = (teacher.logits(b.images) for _, _, b in view_batches(x, y, POLICY, KEY, epoch, 10))
        assert all(torch.equal(b.soft, soft) for b, soft in zip(batches, online, strict=True))
    near = Ensemble([Shifted(m, 1e-3) for m in teacher.models])
    assert store.regeneration(near, x, y).verdict == "close"
    other = Ensemble([model(1), model(3)])
    assert store.regeneration(other, x, y).verdict == "different"
    for wrong in (other, Ensemble([model(1), model(2)], "probabilities"), Ensemble([model(1)])):
        with pytest.raises(ArtefactError, match="different.*convnet_w32"):
            list(store.replay(0, x, y, teacher=wrong))
    with pytest.raises(ConfigError, match="teacher.*convnet_w32"):
        list(store.replay(0, x, y))


def test_a_virtual_store_keeps_some_labels_and_nothing_else(make, teacher, monkeypatch):
    monkeypatch.setattr(regeneration, "PROBES", 32)
    store, x, y = make("virtual")
    kept = columns.read_group(replay.pq.ParquetFile(store.folder / "views-00000.parquet"), 0)
    assert kept["logits"].shape == (32, 3) and kept["logits"].dtype == torch.float32
    assert store.regeneration(teacher, x, y).verdict == "equal"
    content = (store.folder / "views-00000.parquet").read_bytes()
    (store.folder / "views-00000.parquet").write_bytes(content.replace(content[500:504], b"\0\0\0\0", 1))
    with pytest.raises(ArtefactError, match="sha256"):
        list(LabelStore.open(store.folder).replay(0, x, y, teacher=teacher))


def test_a_shift_of_all_logits_is_not_close():
    kept = torch.randn(40, 10)
    assert compare_probes(kept, kept.clone(), 1e-3).verdict == "equal"
    assert compare_probes(kept, kept + 1e-4 * torch.randn(40, 10), 1e-3).verdict == "close"
    shifted = compare_probes(kept, kept + 1.0, 1e-3)
    assert shifted.divergence < 1e-6 and shifted.verdict == "different"


@pytest.mark.parametrize(
    "name, most", [("full, keyed", 0.5), ("int8, keyed", 0.45), ("pruned", 0.45), ("packed", 0.15), ("virtual", 0.3)]
)
def test_smaller_stores_are_smaller(tmp_path, teacher, images, name, most):
    x, y = images(40), torch.arange(40) % 3
    sizes = []
    for chosen in ("full", name):
        form = store_format(settings_of(chosen))
        made = write_store(tmp_path / chosen, x, y, teacher, POLICY, KEY, 30, 20, CPU, form=form)
        sizes.append(made.bytes - (made.folder / "manifest.json").stat().st_size)
    assert sizes[1] < most * sizes[0]


@pytest.mark.parametrize("name", ["int8", "packed", "full, keyed"])
def test_datasets_reads_them_without_this_library(make, tmp_path, name):
    from datasets import load_dataset

    store, x, y = make(name)
    paths = [str(p) for p in sorted(store.folder.glob("*.parquet"))]
    loaded = load_dataset("parquet", data_files=paths, cache_dir=str(tmp_path / "cache"), split="train")
    assert len(loaded) == 25 * store.epochs
    row, (_, _, labels) = loaded[0], next(iter(store.batches(0)))
    if name == "int8":
        assert [row["low"] + row["step"] * code for code in row["codes"]] == pytest.approx(
            labels[0].tolist(), abs=1e-5
        )
    if name == "packed":
        assert row["top"] == [int(labels[0].argmax())]
