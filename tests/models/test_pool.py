"""The squeeze: trains, measures, refuses, keeps, resumes, shares work between processes."""

import json
import os
from dataclasses import replace

import pytest
import timm
import torch

from hf_condense.config import DataSettings, SqueezeSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.errors import ArtefactError, ModelError
from hf_condense.models import pool as pool_module
from hf_condense.models import real_training
from hf_condense.models.pool import ModelPool, PoolTraining, squeeze
from hf_condense.models.real_training import training_policy
from hf_condense.models.training import evaluate_top1
from tests.forked import finish, fork, noted

CPU = torch.device("cpu")
KEY = Key(0, "squeeze")
SETTINGS = SqueezeSettings(
    base_model=("convnet_d1", "convnet_w32"),
    squeeze_epochs=2,
    squeeze_lr=0.05,
    squeeze_batch=8,
    min_top1_over_chance=1.0,
)


@pytest.fixture(scope="module")
def digits():
    return open_source(DataSettings(dataset="digits", max_per_class=20, max_test=100), Key(0))


def make(digits, folder, settings=SETTINGS, key=KEY, accelerator=None, **kwargs):
    plain = {"image_size": 8, "device": CPU, "flip": False, "progress": False}
    training = PoolTraining(settings, digits.train, digits.test, key=key, cache_folder=folder, **{**plain, **kwargs})
    return squeeze(training, accelerator)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return make(digits, folder, dataset="digits"), folder


def modified(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_members_are_trained_measured_and_frozen(trained, digits):
    pool, folder = trained
    assert pool.names == ["convnet_d1", "convnet_w32"] and len(pool) == 2
    for member in pool:
        assert not member.model.training and not any(p.requires_grad for p in member.model.parameters())
        assert member.top1 == evaluate_top1(
            member.model, digits.test.decoded(), torch.from_numpy(digits.test.labels), CPU
        )
        assert member.sha256 == member.model.sha256() and member.epochs == 2 and not member.model.needs_squeeze
        assert member.parameters == sum(p.numel() for p in member.model.parameters())
    assert pool[0].top1 > 0.5  # five times chance
    assert sorted(p.name for p in folder.iterdir()) == ["models"]
    assert not list(folder.rglob("*.fit"))


def test_found_again_and_made_again_are_equal(trained, digits, tmp_path):
    pool, folder = trained
    before = modified(folder)
    assert [m.sha256 for m in make(digits, folder)] == [m.sha256 for m in pool]
    assert modified(folder) == before
    assert [m.sha256 for m in make(digits, tmp_path)] == [m.sha256 for m in pool]


def test_a_member_does_not_depend_on_its_company(trained, digits, tmp_path):
    pool, folder = trained
    before = modified(folder)
    alone = make(digits, folder, replace(SETTINGS, base_model=("convnet_w32",)))
    assert alone[0].sha256 == pool[1].sha256 and modified(folder) == before
    other = make(digits, tmp_path, replace(SETTINGS, base_model=("convnet_d1",)), Key(1, "squeeze"))
    assert other[0].sha256 != pool[0].sha256


def test_saved_pool_loads_equal_here_and_in_timm(trained, tmp_path):
    pool, _ = trained
    pool.save(tmp_path / "pool")
    pool.save(tmp_path / "pool")  # over itself
    again = ModelPool.load(tmp_path / "pool")
    images = torch.rand(3, 1, 8, 8)
    for a, b in zip(pool, again):
        assert torch.equal(a.model(images), b.model(images))
        assert (a.name, a.top1, a.sha256, a.source, a.epochs, a.parameters) == (
            b.name,
            b.top1,
            b.sha256,
            b.source,
            b.epochs,
            b.parameters,
        )
    folders = json.loads((tmp_path / "pool" / "manifest.json").read_text())["members"]
    assert folders == ["00-convnet_d1", "01-convnet_w32"]
    model = timm.create_model(f"local-dir:{tmp_path / 'pool' / folders[0]}", pretrained=True).eval()
    torch.testing.assert_close(model((images - pool[0].model.mean) / pool[0].model.std), pool[0].model(images))
    assert pool.select(["convnet_w32"]).names == ["convnet_w32"]
    with pytest.raises(ModelError, match="Did you mean convnet_w32"):
        pool.select(["convnet_w23"])
    (tmp_path / "pool" / folders[1] / "model.safetensors").unlink()
    with pytest.raises(ArtefactError):
        ModelPool.load(tmp_path / "pool")


def test_chance_is_refused_naming_label_order_where_it_can_differ(trained, digits, tmp_path):
    with pytest.raises(ModelError, match=r"Train longer \(--squeeze_epochs\)"):
        make(digits, tmp_path, replace(SETTINGS, base_model=("convnet_d1",), squeeze_lr=1e-6))  # learns nothing
    # flipping the sign of what is learned must trip the same gate
    shuffled = replace(digits, test=digits.test.subset(range(50)))
    shuffled.test.labels = (shuffled.test.labels + 1) % 10
    with pytest.raises(ModelError, match="Train longer"):
        make(shuffled, tmp_path, replace(SETTINGS, base_model=("convnet_d1",)))
    trained[0].save(tmp_path / "pool")
    own = (str(tmp_path / "pool" / "00-convnet_d1"),)
    taken = replace(SETTINGS, base_model=own, pretrained=True, squeeze_epochs=0)
    with pytest.raises(ModelError, match="The usual cause is another label order"):
        make(shuffled, tmp_path, taken)


def test_published_weights_as_they_are(trained, digits, tmp_path):
    pool, _ = trained
    pool.save(tmp_path / "pool")
    folder = str(tmp_path / "pool" / "00-convnet_d1")
    settings = replace(SETTINGS, base_model=(folder,), pretrained=True, squeeze_epochs=0)
    taken = make(digits, tmp_path / "cache", settings)[0]
    assert taken.top1 == pool[0].top1 and taken.epochs == 0 and taken.source["pretrained"]
    three = open_source(DataSettings(dataset="digits", classes=("7", "1", "4"), max_per_class=10, max_test=60), Key(0))
    assert make(three, tmp_path / "cache", settings)[0].top1 > pool[0].top1 - 0.1  # rows in the dataset's order
    renamed = replace(digits)
    renamed.train.class_names = tuple(f"class {i}" for i in range(10))
    try:
        with pytest.raises(ModelError, match="do not map"):
            make(renamed, tmp_path / "other", settings)
    finally:
        digits.train.class_names = digits.test.class_names


def test_killed_training_goes_on(trained, digits, tmp_path, monkeypatch):
    pool, _ = trained
    settings = replace(SETTINGS, base_model=("convnet_d1",))
    real = real_training.fit

    def dies(model, batches, *args, **kwargs):
        def stops(epoch):
            if epoch == 1:
                raise KeyboardInterrupt
            return batches(epoch)

        return real(model, stops, *args, **kwargs, save_every=0.0)

    monkeypatch.setattr(real_training, "fit", dies)
    with pytest.raises(KeyboardInterrupt):
        make(digits, tmp_path, settings)
    assert len(list(tmp_path.rglob("*.fit/fit.safetensors"))) == 1
    epochs = []

    def watched(model, batches, *args, **kwargs):
        return real(model, lambda epoch: epochs.append(epoch) or batches(epoch), *args, **kwargs)

    monkeypatch.setattr(real_training, "fit", watched)
    assert make(digits, tmp_path, settings)[0].sha256 == pool[0].sha256
    assert epochs == [1] and not list(tmp_path.rglob("*.fit"))


def test_processes_share_the_work(trained, digits, tmp_path):
    """Each rank alone trains only its share before the barrier; the pool is the same."""
    pool, _ = trained

    class Rank:
        num_processes = 2

        def __init__(self, index):
            self.process_index, self.made = index, None

        def log(self, values, step):
            pass

        def wait_for_everyone(self):
            self.made = len([p for p in (tmp_path / "models").iterdir() if not p.name.endswith(".lock")])
            if self.process_index == 0:
                assert self.made == 1

    assert [m.sha256 for m in make(digits, tmp_path, accelerator=Rank(0))] == [m.sha256 for m in pool]
    assert [m.sha256 for m in make(digits, tmp_path, accelerator=Rank(1))] == [m.sha256 for m in pool]


def test_two_runs_train_a_member_once(trained, digits, tmp_path, monkeypatch):
    """The second one waits for the first and finds its network."""
    settings = replace(SETTINGS, base_model=("convnet_d1",))
    log = noted(monkeypatch, pool_module, "train_on", tmp_path)
    runs = [fork(lambda: make(digits, tmp_path, settings)) for _ in range(2)]
    assert [finish(run) for run in runs] == [0, 0] and log.read_text() == "train_on\n"
    assert make(digits, tmp_path, settings)[0].sha256 == trained[0][0].sha256


def test_views_of_the_squeeze():
    assert training_policy(SETTINGS, 32, 32, True).pad == 4 and training_policy(SETTINGS, 32, 32, False).flip == 0
    assert training_policy(SETTINGS, 224, 256, True).crop == (0.08, 1.0)
    own = replace(SETTINGS, squeeze_crop_min=0.5, squeeze_pad=2)
    assert training_policy(own, 32, 32, True).crop == (0.5, 1.0)


def test_repeated_names_are_refused(digits, tmp_path):
    with pytest.raises(ModelError, match="each name once"):
        make(digits, tmp_path, replace(SETTINGS, base_model=("convnet_d1", "convnet_d1")))


@pytest.mark.skipif(
    "HF_CONDENSE_DATA" not in os.environ, reason="HF_CONDENSE_DATA does not name a folder with real datasets"
)
def test_photographs_at_224_pixels(real_data, tmp_path):
    settings = DataSettings(dataset=str(real_data / "grocery_photos"), max_per_class=2, max_test=8, image_size=64)
    photos = open_source(settings, Key(0))
    squeezing = replace(SETTINGS, base_model=("test_efficientnet",), squeeze_epochs=1, min_top1_over_chance=0.0)
    pool = make(photos, tmp_path, squeezing, image_size=64, flip=True)
    assert pool[0].model(photos.test.images([0]).float() / 255).shape == (1, photos.train.num_classes)


def test_a_squeeze_that_diverges_names_the_network(digits, tmp_path):
    """Whatever the patience, as in a quick run: labels of such a network would be no numbers."""
    settings = replace(SETTINGS, base_model=("convnet_w32",), squeeze_lr=1e8, min_top1_over_chance=0.0)
    with pytest.raises(ModelError, match="^invalid base_model='convnet_w32'.*loss.*--squeeze_lr"):
        make(digits, tmp_path, settings)
    assert not list(tmp_path.rglob("member.json"))


def test_weights_that_are_no_numbers_are_refused(trained, digits, tmp_path):
    import copy

    member = trained[0][1]
    model = copy.deepcopy(member.model)
    name, weight = next((name, p) for name, p in model.named_parameters() if p.ndim > 1)
    weight.data.view(-1)[0] = torch.nan
    sick = replace(member, model=model, sha256=model.sha256())
    ModelPool([sick]).save(tmp_path / "pool")
    with pytest.raises(ModelError, match=f"'convnet_w32'.*1 of the .* numbers in {name}"):
        ModelPool.load(tmp_path / "pool")
    folder = next((tmp_path / "pool").glob("*w32"))
    given = SqueezeSettings(base_model=(str(folder),), squeeze_epochs=0, pretrained=True, min_top1_over_chance=0.0)
    with pytest.raises(ModelError, match=f"^invalid base_model=.*1 of the.* numbers in {name}"):
        make(digits, tmp_path / "cache", given)


def test_outputs_that_are_no_numbers_are_refused(trained, digits):
    """Finite weights can be too large for finite outputs."""
    import copy

    from hf_condense.models.members import PoolMember

    model = copy.deepcopy(trained[0][1].model)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1e30)
    with pytest.raises(ModelError, match="^invalid base_model='large'.*those for 100 of 100 images are not"):
        PoolMember.measured("large", model, digits.test, CPU, 8, epochs=1)
