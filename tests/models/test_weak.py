"""Weak pools: prior and post, floor and ceiling, found again, resumed, shared, used by name, made on the command line."""

import logging
from dataclasses import replace

import pytest
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from hf_condense.cli import main
from hf_condense.config import DataSettings, SqueezeSettings, WeakPoolSettings
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError, ModelError
from hf_condense.models import real_training
from hf_condense.models import weak as weak_module
from hf_condense.models.cifar_nets import WideResNet
from hf_condense.models.members import ModelPool
from hf_condense.models.pool import PoolTraining, squeeze
from hf_condense.models.pool_folder import read_pool
from hf_condense.models.weak import weak_pool
from hf_condense.run.resolve import resolve
from hf_condense.trainer import CondensationTrainer
from tests.forked import finish, fork, noted

default_cfgs = generate_default_cfgs({"small_wrn.untrained": {"input_size": (3, 8, 8), "classifier": "classifier"}})


@register_model
def small_wrn(pretrained=False, **kwargs):
    """The smallest network with BatchNorms and residuals, so that pools are made in a second or two."""
    return build_model_with_cfg(WideResNet, "small_wrn", pretrained, **{"depth": 10, "width": 1, **kwargs})


CPU = torch.device("cpu")
KEY = Key(0, "squeeze")
BASE = SqueezeSettings(
    base_model=("small_wrn",), squeeze_epochs=5, squeeze_lr=0.02, squeeze_batch=16, min_top1_over_chance=1.0
)
POST = WeakPoolSettings(
    pool_kind="post", pool_size=3, prune_ratios=(0.2, 0.3), recalibration_images=100, top1_floor=0.3
)
PRIOR = WeakPoolSettings(
    pool_kind="prior", prior_epochs=(2, 4), recalibration_images=100, top1_floor=0.1, top1_ceiling=2
)
POLICY = ViewPolicy(size=8, crop=(0.7, 1.0), flip=0.0, per="batch")


@pytest.fixture(scope="module")
def digits():
    return open_source(DataSettings(dataset="digits", max_per_class=25, max_test=100), Key(0))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def training_of(digits, folder, settings=BASE, progress=False) -> PoolTraining:
    return PoolTraining(settings, digits.train, digits.test, 8, KEY, CPU, folder, flip=False, progress=progress)


def make(digits, folder, weak, settings=BASE, policy=POLICY, accelerator=None, progress=False):
    return weak_pool(training_of(digits, folder, settings, progress), weak, policy, accelerator)


@pytest.fixture(scope="module")
def base(digits, cache):
    return squeeze(training_of(digits, cache))[0]


@pytest.fixture(scope="module")
def post(digits, cache, base):
    return make(digits, cache, POST)


@pytest.fixture(scope="module")
def prior(digits, cache, base):
    return make(digits, cache, PRIOR)


def hashes(pool):
    return [m.sha256 for m in pool]


def test_pruned_members_follow_the_base(post, base):
    assert post.names == [f"small_wrn{cut}" for cut in ("", "@pruned0.2-0", "@pruned0.3-0", "@pruned0.2-1")]
    assert [m.kind for m in post] == ["base", "post", "post", "post"] and [m.ratio for m in post][1:] == [
        0.2,
        0.3,
        0.2,
    ]
    assert post[0].sha256 == base.sha256 and post[0].model.sha256() == base.model.sha256(), "the base is not changed"
    assert post[1].sha256 != post[3].sha256 and post[1].parameters == post[3].parameters
    assert post[0].macs > post[1].macs == post[3].macs > post[2].macs > 0
    assert all(not m.model.training and not any(p.requires_grad for p in m.model.parameters()) for m in post)


def test_copies_are_those_of_one_training_that_ends_in_the_base(prior, base, digits, cache, tmp_path):
    assert prior.names == ["small_wrn", "small_wrn@epoch2", "small_wrn@epoch4"]
    assert prior[0].sha256 == base.sha256, "a base that was there before, and its training again for the copies"
    assert [(m.kind, m.epoch, m.epochs, m.macs) for m in prior][1:] == [("prior", e, e, base.macs) for e in (2, 4)]
    alone = make(digits, tmp_path, PRIOR)
    assert hashes(alone) == hashes(prior), "or all from the one training"
    # the copy is the network as it was: a training that stops there ends in its weights
    short = squeeze(training_of(digits, tmp_path, replace(BASE, squeeze_epochs=2)))[0]
    weights = {k: v for k, v in short.model.state_dict().items() if "running" not in k and "tracked" not in k}
    copy = prior[1].model.state_dict()
    assert all(torch.equal(copy[k], v) for k, v in weights.items())
    assert not torch.equal(copy["backbone.features.4.running_mean"], short.model.backbone.features[4].running_mean)
    as_it_was = make(digits, tmp_path, replace(PRIOR, recalibrate=False))
    assert as_it_was[1].sha256 == short.sha256


def modified(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_found_again_by_all_that_made_them(post, digits, cache):
    before = modified(cache)
    assert hashes(make(digits, cache, POST)) == hashes(post) and modified(cache) == before
    fewer = make(digits, cache, replace(POST, pool_size=2))
    assert hashes(fewer) == hashes(post)[:3] and modified(cache) == before, "members do not depend on their company"
    other = make(digits, cache, replace(POST, pool_size=1), policy=replace(POLICY, crop=(0.3, 1.0)))
    assert other[0].sha256 == post[0].sha256 and other[1].sha256 != post[1].sha256, "the views of the synthesis count"


def test_a_base_that_cannot_be_pruned_gives_early_copies_and_a_warning(digits, tmp_path, caplog):
    base = replace(BASE, base_model=("cifar_shufflenetv2_x0_5",), squeeze_epochs=2, min_top1_over_chance=0.0)
    limits = {"top1_floor": 0.0, "top1_ceiling": 100.0}
    pool = make(digits, tmp_path, WeakPoolSettings(pool_kind="post", pool_size=1, **limits), base, progress=True)
    assert [(member.kind, member.epoch) for member in pool[1:]] == [("prior", 1)]
    assert "copies from the training of the base (--pool_kind prior)" in caplog.text
    assert "expected a network that can be pruned" in caplog.text


def test_saved_members_load_equal_and_say_what_they_are(post, digits, tmp_path):
    post.save(tmp_path / "pool")
    again = ModelPool.load(tmp_path / "pool")
    images = torch.rand(3, 1, 8, 8)
    for a, b in zip(post, again):
        assert torch.equal(a.model(images), b.model(images))
        assert {k: v for k, v in vars(a).items() if k != "model"} == {k: v for k, v in vars(b).items() if k != "model"}
    card = (tmp_path / "pool" / "02-small_wrn-pruned0.3-0" / "README.md").read_text()
    for said in (
        "post: 30 % of the channels pruned",
        "M multiply-adds",
        "timm alone cannot load it",
        "read_checkpoint",
    ):
        assert said in card
    assert "timm alone" not in (tmp_path / "pool" / "00-small_wrn" / "README.md").read_text()
    assert read_pool(tmp_path / "pool", digits.train).names == post.names
    three = open_source(DataSettings(dataset="digits", classes=("1", "2", "3"), max_per_class=5), Key(0)).train
    with pytest.raises(ModelError, match="pool_folder.*class names"):
        read_pool(tmp_path / "pool", three)
    with pytest.raises(ModelError, match="pool_folder.*hf-condense pool"):
        read_pool(tmp_path / "nowhere", three)


def test_weak_and_strong_members_are_left_out_with_their_numbers(post, digits, cache, caplog):
    shares = sorted(m.top1 / post[0].top1 for m in post[1:])
    assert shares[0] < shares[-1], "the test needs members of different strength"
    between = (shares[0] + shares[-1]) / 2
    with caplog.at_level(logging.WARNING):
        strong = make(digits, cache, replace(POST, top1_floor=between), progress=True)
        few = make(digits, cache, replace(POST, top1_ceiling=between))
    assert all(m.top1 >= between * post[0].top1 for m in strong[1:])
    assert sorted(strong.names[1:] + few.names[1:]) == sorted(post.names[1:])
    assert f"{100 * post[0].top1:.1f} %" in caplog.text and "left out: small_wrn@pruned" in caplog.text
    with pytest.raises(ModelError, match=r"(?s)150 % or more of the base's top-1.*@pruned0.3-0 .* %.*prune less"):
        make(digits, cache, replace(POST, top1_floor=1.5))


def test_more_copies_than_wanted_are_thinned_evenly(prior, digits, cache):
    every = replace(PRIOR, prior_epochs=(1, 2, 3, 4), top1_floor=0.0)
    assert make(digits, cache, replace(every, pool_size=2)).names[1:] == [
        "small_wrn@epoch1",
        "small_wrn@epoch4",
    ]
    assert make(digits, cache, replace(every, prior_epochs=None, pool_size=1)).names[1:] == ["small_wrn@epoch4"]


def test_published_weights_are_the_base_and_the_copies_from_scratch(post, digits, cache, tmp_path):
    post[:1].save(tmp_path / "pool")
    folder = str(tmp_path / "pool" / "00-small_wrn")
    taken = make(digits, cache, PRIOR, replace(BASE, base_model=(folder,), pretrained=True, squeeze_epochs=0))
    assert taken[0].top1 == post[0].top1 and taken[0].epochs == 0
    assert taken[1].name == f"{folder}@epoch2" and not taken[1].source["pretrained"]
    with pytest.raises(ConfigError, match="squeeze_epochs=0"):
        unsaid = replace(PRIOR, prior_epochs=None)
        make(digits, cache, unsaid, replace(BASE, base_model=(folder,), pretrained=True, squeeze_epochs=0))


@pytest.mark.parametrize("weak", [PRIOR, POST], ids=["prior", "post"])
def test_a_killed_pool_goes_on(weak, request, digits, tmp_path, monkeypatch):
    whole, real, done = request.getfixturevalue(weak.pool_kind), real_training.fit, []

    def dies(model, batches, *args, **kwargs):
        def stops(epoch):
            done.append(epoch)
            if len(done) == 4:
                raise KeyboardInterrupt
            return batches(epoch)

        return real(model, stops, *args, **kwargs, save_every=0.0)

    monkeypatch.setattr(real_training, "fit", dies)
    with pytest.raises(KeyboardInterrupt):
        make(digits, tmp_path, weak)
    if weak is PRIOR:
        assert [p.name[-10:] for p in (tmp_path / "models").iterdir() if "epoch" in p.name] == ["-epoch0002"]
    assert hashes(make(digits, tmp_path, weak)) == hashes(whole)
    epochs = 5 + (len(whole) - 1) * (weak is POST)
    assert len(done) == epochs + 1, "only the epoch in which it was killed is done twice"
    assert not list(tmp_path.rglob("*.fit"))


@pytest.mark.parametrize("weak", [PRIOR, POST], ids=["prior", "post"])
def test_processes_share_the_work(weak, request, digits, tmp_path, monkeypatch):
    whole, made, real = request.getfixturevalue(weak.pool_kind), [], weak_module._Maker.member

    def counted(self, candidate, base):
        made.append(candidate.name)
        return real(self, candidate, base)

    monkeypatch.setattr(weak_module._Maker, "member", counted)

    class Rank:
        num_processes = 2

        def __init__(self, index):
            self.process_index, self.shares = index, []

        def log(self, values, step):
            pass

        def wait_for_everyone(self):
            self.shares.append(list(made))

    for index in (0, 1):
        rank = Rank(index)
        made.clear()
        assert hashes(make(digits, tmp_path, weak, accelerator=rank)) == hashes(whole)
        assert rank.shares == [[], whole.names[1:][index::2]], "nothing before the base is there, then its own share"


def test_two_runs_make_a_weak_model_once(prior, digits, tmp_path, monkeypatch):
    one = replace(PRIOR, prior_epochs=(2,))
    log = noted(monkeypatch, weak_module, "recalibrate", tmp_path)
    runs = [fork(lambda: make(digits, tmp_path, one)) for _ in range(2)]
    assert [finish(run) for run in runs] == [0, 0] and log.read_text() == "recalibrate\n"
    assert hashes(make(digits, tmp_path, one)) == hashes(prior)[:2]


def test_roles(post):
    weak = post.names[1:]
    assert post.observers().names == weak and post[:1].observers().names == post.names[:1]
    assert post.observers([weak[1], "small_wrn"]).names == [weak[1], "small_wrn"]
    for source, names in (("base", post.names[:1]), ("pool", weak), ("both", post.names)):
        assert post.teachers(None, source).names == names
    assert (
        post.teachers([weak[0]], "base").names == weak[:1] and post[:1].teachers(None, "pool").names == post.names[:1]
    )
    with pytest.raises(ModelError, match="pruned0.2-0"):
        post.observers(["small_wrn@pruned0.2-7"])


TINY = {
    "dataset": "digits", "ipc": 1, "max_per_class": 15, "max_test": 40, "base_model": "small_wrn",
    "squeeze_epochs": 3, "squeeze_batch": 16, "min_top1_over_chance": 0.0, "top1_floor": 0.0, "recalibration_images": 60,
    "protocol": "small", "student_epochs": 2, "student_seeds": 1, "students": "convnet_d1", "threads": 1,
    "precision": "fp32",
}  # fmt: skip


def test_synthesis_looks_through_weak_models_and_leaves_them_alone(tmp_path):
    own = {"iterations": 3, "pool_kind": "post", "pool_size": 2, "label_source": "both"}
    trainer = CondensationTrainer("edc", output_dir=str(tmp_path / "run"), **TINY, **own)
    context = trainer.prepare()
    assert context.observers.names == ["small_wrn@pruned0.2-0", "small_wrn@pruned0.4-0"]
    before = [m.model.sha256() for m in context.observers]
    Engine(trainer.accelerator, trainer.folder, 10).run(trainer.method, context)
    assert [m.model.sha256() for m in context.observers] == before, "weights and buffers"
    assert len(trainer.teacher().models) == 3
    label = CondensationTrainer("edc", output_dir=str(tmp_path / "run"), **TINY, **{**own, "label_source": "pool"})
    assert label.stages()["relabel"].fingerprint != trainer.stages()["relabel"].fingerprint
    assert label.stages()["condense"].fingerprint == trainer.stages()["condense"].fingerprint
    with pytest.raises(ConfigError, match="importance_noise=0.5: expected 0.3, with which squeeze"):
        CondensationTrainer("edc", output_dir=str(tmp_path / "run"), **TINY, **own, importance_noise=0.5)


def test_a_pool_on_the_command_line_serves_a_run(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [f"--{k}={v}" for k, v in TINY.items()]
    with caplog.at_level(logging.INFO):
        assert main(["pool", *flags, "--kind", "post", "--size=1"]) == 0
    said = caplog.text
    for part in ("kind", "top-1", "mult-adds", "small_wrn@pruned0.3-0", "30 % pruned", "runs/pool-post-digits"):
        assert part in said
    made = ModelPool.load(tmp_path / "runs/pool-post-digits/pool/models")
    assert made.names == ["small_wrn", "small_wrn@pruned0.3-0"]
    run = CondensationTrainer(
        "random", output_dir=str(tmp_path / "run"), **TINY, pool_folder="runs/pool-post-digits", label_source="pool"
    )
    assert hashes(run.squeeze()) == hashes(made) and len(run.teacher().models) == 1
    assert main(["pool", *flags, "--size", "0"]) == 2
    assert "pool_size=0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"pool_kind": "post", "base_model": "convnet_d1,convnet_w32"},
            "base_model=.*one name with --pool_kind post",
        ),
        ({"pool_kind": "weak"}, "pool_kind='weak': expected none, prior, post"),
        ({"pool_size": 0}, "pool_size=0"),
        ({"prune_ratios": "0.2,1.0"}, "prune_ratios=.*below 1"),
        ({"prior_epochs": "3,2"}, "prior_epochs=.*rising"),
        ({"importance_noise": -1}, "importance_noise"),
        ({"finetune_lr": 0}, "finetune_lr"),
        ({"recalibration_images": 1}, "recalibration_images"),
        ({"pool_kind": "prior", "top1_ceiling": 0.5}, "top1_ceiling=0.5: expected above top1_floor"),
        ({"label_source": "teacher"}, "label_source=.*base, pool, both"),
    ],
)
def test_bad_settings_are_named(flags, message):
    with pytest.raises(ConfigError, match=message):
        resolve({"method": "edc", "dataset": "digits", **flags}, lambda data: (10, 8))


def test_a_training_too_short_for_copies_is_said(digits, tmp_path):
    with pytest.raises(ConfigError, match="prior_epochs=.*: expected 1 to 4"):
        make(digits, tmp_path, replace(PRIOR, prior_epochs=(2, 5)))
    with pytest.raises(ConfigError, match="squeeze_epochs=1: expected 2 or more"):
        make(digits, tmp_path, PRIOR, replace(BASE, squeeze_epochs=1))
