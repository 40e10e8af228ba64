"""Coresets on digits: every selection, its oracle, what it shares, what it refuses, and the ends of a ranking."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hf_condense import CondensationTrainer, create_method
from hf_condense.data.cache import cache_folder
from hf_condense.data.image_spec import ImageSpec
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError, DataError, ModelError
from hf_condense.methods.coreset import SELECTIONS
from hf_condense.methods.watched import watched
from hf_condense.models.embedding import embed
from hf_condense.models.loading import load_model
from hf_condense.models.training import predict
from hf_condense.selection import dynamics as dynamics_module
from recipes.coreset import as_selection
from tests import forked
from tests.selection.test_herding import brute_force

CPU = torch.device("cpu")
EPOCHS = 3
SHORT = {"dynamics_epochs": 4, "dynamics_batch": 64, "el2n_epochs": 3, "cad_window": 2, "cad_band": 1}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    """A folder with a trained network, as published ones are read."""
    from hf_condense.models.checkpoints import write_checkpoint

    folder = tmp_path_factory.mktemp("backbone")
    facts = {"num_classes": 10, "image_size": 8, "channels": 1, "mean": (0.3,), "std": (0.4,)}
    write_checkpoint(load_model("convnet_d2", ImageSpec(**facts), key=dynamics_module.Key(5)), folder, 8)
    return str(folder)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> CondensationTrainer:
    return CondensationTrainer(
        "coreset", "digits", output_dir=str(tmp_path_factory.mktemp("coreset")), ipc=2, max_per_class=60, max_test=300,
        base_model="convnet_d1", squeeze_epochs=5, squeeze_lr=0.05, threads=1, precision="fp32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def context(trainer):
    return trainer.prepare()


def select(context, folder, selection, ipc=2, seed=0, **settings):
    method = create_method("coreset", selection=selection, **{**SHORT, **settings})
    changed = replace(context, ipc=ipc, key=context.key / seed)
    return Engine(Accelerator(cpu=True), folder / f"{selection}-{ipc}-{seed}", 10**9).run(method, changed)


def nearest_neighbour(context, test, made) -> float:
    """Top-1 of the label of the nearest chosen image, in pixels."""
    a, b = (i.float().flatten(1) for i in (test.decoded(), made.images))
    return float((made.labels[torch.cdist(a, b).argmin(1)].numpy() == test.labels).mean())


@pytest.mark.parametrize("selection", list(SELECTIONS))
def test_every_selection_gives_distinct_real_images_of_the_class(context, tmp_path, selection, backbone):
    made, again = (select(context, tmp_path / n, selection, ipc=3, backbone=backbone) for n in "ab")
    assert torch.equal(made.images, again.images) and made.images.shape == (30, 1, 8, 8)
    each = 4 if selection == "pca_tiles" else 1
    origin = made.origin.reshape(30, each)
    assert len(set(origin.ravel().tolist())) == 30 * each
    assert (context.train.labels[origin] == made.labels.numpy()[:, None]).all()
    if selection != "pca_tiles":
        assert torch.equal(made.images, context.train.images(made.origin))
    fewer = select(context, tmp_path, selection, ipc=2, backbone=backbone)
    if selection not in ("k_medoids", "backbone_centres"):
        assert fewer.origin.tolist() == [o for i, o in enumerate(made.origin.tolist()) if i % 3 < 2]


def test_herding_is_the_formula_on_the_features_before_the_head(context, tmp_path):
    made = select(context, tmp_path, "herding", ipc=4)
    model, rows = context.observers[0].model, context.train.rows_of(7)
    f = embed(model, context.train.images(rows).float() / 255).double()
    assert made.origin[28:32].tolist() == rows[brute_force(f, 4)].tolist()


@pytest.mark.parametrize(("name", "d"), [("convnet_w32", 512), ("resnet18", 512), ("torchvision/squeezenet1_1", 512)])
def test_features_are_what_the_head_sees(name, d):
    model = load_model(
        name, ImageSpec(num_classes=4, image_size=32, channels=3, mean=(0.5,), std=(0.5,)), key=dynamics_module.Key(0)
    )
    model.freeze()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = embed(model, images)
    assert found.shape == (2, d)
    if hasattr(model.backbone, "forward_head"):
        features = model.backbone.forward_features((images - 0.5) / 0.5)
        assert torch.allclose(found, model.backbone.forward_head(features, pre_logits=True))


def test_random_is_the_draw_of_the_method_random(context, tmp_path):
    other = Engine(Accelerator(cpu=True), tmp_path / "random", 10**9).run(
        create_method("random"), replace(context, key=context.key / 0)
    )
    assert torch.equal(select(context, tmp_path, "random").images, other.images)


def recorded(context, folder, **changes) -> dynamics_module.Dynamics:
    from hf_condense.data.augmentation import ViewPolicy
    from hf_condense.models.training import FitRecipe

    options = {"key": context.key / "record", "device": CPU, "cache_folder": folder, **changes}
    return dynamics_module.training_dynamics(
        "convnet_d1", FitRecipe(EPOCHS, 0.05), 64, context.train, ViewPolicy(8, flip=0.0), **options
    )


def test_the_record_is_that_of_each_epoch_and_made_once(context, tmp_path, monkeypatch):
    seen, original = [], dynamics_module.look

    def look(model, *rest):
        seen.append(predict(model, context.train.decoded(), CPU))
        return original(model, *rest)

    monkeypatch.setattr(dynamics_module, "look", look)
    first, again = recorded(context, tmp_path), recorded(context, tmp_path)
    assert len(seen) == EPOCHS and first is again and len(list((tmp_path / "dynamics").glob("[!.]*"))) == 1
    labels = torch.from_numpy(context.train.labels)
    for epoch, logits in enumerate(seen):
        share = logits.softmax(1)
        assert torch.allclose(first.probability[epoch], share[torch.arange(len(labels)), labels], atol=1e-5)
        assert torch.equal(first.correct[epoch], logits.argmax(1) == labels)
        onehot = torch.eye(10)[labels]
        assert torch.allclose(first.el2n[epoch], (share - onehot).norm(dim=1), atol=1e-5)
    assert first.correct[-1].float().mean() > first.correct[0].float().mean()


def test_a_killed_record_goes_on_and_ends_the_same(context, tmp_path):
    """Killed before each file that it writes; the unfinished training is kept after every epoch."""
    import os
    import signal

    from hf_condense import files
    from hf_condense.models import training

    whole = recorded(context, tmp_path / "whole")
    struck = tmp_path / "struck"
    struck.write_text("")

    def mortal():
        def fault(moment, path):
            if moment == "before" and f"{path} {path.exists()}" not in struck.read_text().splitlines():
                with struck.open("a") as f:
                    f.write(f"{path} {path.exists()}\n")
                os.kill(os.getpid(), signal.SIGKILL)

        files.on_replace = fault
        fit = training.fit
        dynamics_module.train_on.__globals__["fit"] = lambda *a, **k: fit(*a, **k, save_every=0.0)
        recorded(context, tmp_path / "cache")

    lives = 0
    while (code := forked.run(mortal)) == -signal.SIGKILL:
        lives += 1
        assert lives < 40
    assert code == 0 and lives >= 2 * EPOCHS
    after = recorded(context, tmp_path / "cache")
    assert torch.equal(whole.el2n, after.el2n) and torch.equal(whole.correct, after.correct)


def test_scores_come_from_the_record(context, tmp_path):
    """The hard and the easy end hold the largest and smallest mean over the first epochs; forgetting its counts."""
    hard, easy, forgotten = (select(context, tmp_path, s, ipc=5) for s in ("el2n_hard", "el2n_easy", "forgetting"))
    learned = select(context, tmp_path / "last", "forgetting", ipc=5, never_learned="last")
    files = list((cache_folder() / "dynamics").glob("*.safetensors"))
    method = create_method("coreset", selection="el2n_hard", **SHORT)
    record = watched(method.settings, replace(context, key=context.key / 0))
    assert set(files) == set((cache_folder() / "dynamics").glob("*.safetensors"))  # one record for all of them
    for c in range(10):
        rows = context.train.rows_of(c)
        mean = record.el2n[:3, rows].mean(0).numpy()
        mine = slice(5 * c, 5 * c + 5)
        assert np.array_equal(hard.origin[mine], rows[np.argsort(-mean)[:5]])
        assert np.array_equal(easy.origin[mine], rows[np.argsort(mean)[:5]])
        counts = {}
        for row in rows:
            h = record.correct[:, row].tolist()
            counts[row] = sum(a and not b for a, b in pairwise(h)) if any(h) else 99
        for made, never in ((forgotten, 99), (learned, -1)):
            ranks = {row: never if count == 99 else count for row, count in counts.items()}
            taken = sorted((ranks[r] for r in made.origin[mine]), reverse=True)
            assert taken == sorted(ranks.values(), reverse=True)[:5]
    assert not record.correct.any(0).all() and forgotten.origin.tolist() != learned.origin.tolist()


def test_the_easy_end_of_forgetting_and_both_ends_of_cad_come_from_the_record(context, tmp_path):
    easy, high, low = (select(context, tmp_path, s, ipc=5) for s in ("forgetting_easy", "cad_high", "cad_low"))
    record = watched(
        create_method("coreset", selection="cad_high", **SHORT).settings, replace(context, key=context.key / 0)
    )
    spread = record.probability[:2].double().numpy().std(0)  # of four epochs one window of two: the first two
    for c in range(10):
        rows, mine = context.train.rows_of(c), slice(5 * c, 5 * c + 5)
        ranked = rows[np.argsort(spread[rows], kind="stable")]
        assert set(low.origin[mine]) == set(ranked[:5]) and set(high.origin[mine]) == set(ranked[-5:])
        history = record.correct[:, easy.origin[mine]]
        assert history.any(0).all(), "what was never learned is not easy"
        assert not (history[:-1] & ~history[1:]).any()  # most digits are never forgotten


def test_what_looks_at_no_observer_trains_none(tmp_path, backbone):
    for selection in ("random", "forgetting", "backbone_centres"):
        folder = tmp_path / selection
        made = CondensationTrainer(
            "coreset", "digits", output_dir=str(folder), ipc=1, max_per_class=20, base_model="convnet_d1", regimes="hard",
            store="none", selection=selection, backbone=backbone, threads=1, dynamics_epochs=2,
        ).condense()  # fmt: skip
        assert len(made.labels) == 10 and not (folder / "pool").exists(), selection


def test_one_image_a_class_from_the_right_end_classifies_and_from_the_flipped_end_does_not(context, trainer, tmp_path):
    test = trainer.splits.test

    def score(selection, seed):
        return nearest_neighbour(context, test, select(context, tmp_path, selection, ipc=1, seed=seed))

    for seed in range(3):
        easy, hard, drawn = (score(s, seed) for s in ("el2n_easy", "el2n_hard", "random"))
        assert easy > hard + 0.1, f"seed {seed}: easy {easy:.3f}, hard {hard:.3f}"
        assert score("herding", seed) > drawn
    # the sign of herding's distance flipped: the images farthest from the mean
    flipped = select(context, tmp_path, "herding", ipc=1)
    rows = []
    for c in range(10):
        of = context.train.rows_of(c)
        f = embed(context.observers[0].model, context.train.images(of).float() / 255).double()
        rows.append(of[brute_force(f, 1, sign=-1)[0]])
    flipped.images = context.train.images(np.array(rows))
    assert score("herding", 0) > nearest_neighbour(context, test, flipped) + 0.1


def test_what_cannot_be_is_refused(context, tmp_path):
    with pytest.raises(DataError, match="ipc=90: expected at most 60 .class '0' has 60 training images"):
        select(context, tmp_path, "herding", ipc=90)
    with pytest.raises(DataError, match="ipc=16: expected at most 15.* and each takes 4"):
        select(context, tmp_path, "pca_tiles", ipc=16)
    with pytest.raises(ConfigError, match="selection='best': expected random, herding"):
        create_method("coreset", selection="best")
    with pytest.raises(ConfigError, match="backbone=None"):
        create_method("coreset", selection="backbone_centres")
    with pytest.raises(ConfigError, match="dynamics_epochs=1: expected 2 or more"):
        create_method("coreset", selection="forgetting", dynamics_epochs=1)
    with pytest.raises(ConfigError, match="dynamics_epochs=10: expected 11 or more, with --cad_window 5"):
        create_method("coreset", selection="cad_high", dynamics_epochs=10)
    with pytest.raises(ModelError, match="backbone='convnet_d1': expected published weights"):
        select(context, tmp_path, "backbone_centres", backbone="convnet_d1")
    with pytest.raises(ModelError, match="backbone='resnet18'.*Connect to the network"):
        select(context, tmp_path, "backbone_centres", backbone="resnet18")  # tests are offline


def test_the_recipe_takes_a_selection_as_its_method():
    assert as_selection(["--method", "herding", "--ipc", "1"]) == ["--selection", "herding", "--ipc", "1"]
    assert as_selection(["--ipc", "1", "--method=el2n"]) == ["--ipc", "1", "--selection", "el2n_easy"]
    assert as_selection(["--dataset", "el2n"]) == ["--dataset", "el2n"]


def test_every_preset_resolves_and_says_where_its_values_come_from():
    from hf_condense.run.resolve import load_preset, preset_names, resolve

    names = preset_names("coreset")
    assert names == ["cifar10", "cifar100", "digits", "fashion_mnist", "mnist", "svhn", "tiny-imagenet"]
    for name in names:
        config = resolve({"method": "coreset", "dataset": name}, lambda data: pytest.fail("asked for facts"))
        assert config.preset == f"coreset/{name}"
        assert set(load_preset("coreset", name, 10, "paper").sources.values()) <= {"ours", "published", "third party"}
