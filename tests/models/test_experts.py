"""Expert trajectories (A9): what is kept is what was trained, whoever trains it and wherever it is stopped."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import contextmanager
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from hf_condense import files
from hf_condense.data.cache import cache_folder
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.whitening import Whitening
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.models import expert_training
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.models.expert_training import ExpertRecipe, encoded_images
from hf_condense.models.experts import train_experts
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.training import evaluate_top1
from tests import forked
from tests.matching import CPU, digits, networks

FAMILIES = ("color", "crop", "cutout", "scale", "rotate")
RECIPE = ExpertRecipe(3, lr=0.05, momentum=0.5, batch=32, families=FAMILIES)
KEY = Key(0, "experts")


def few():
    return digits().subset(range(0, 600, 10))


def train(
    recipe: ExpertRecipe = RECIPE, count: int = 2, *, name: str = "convnet_d1", source=None, **given
) -> ExpertBuffer:
    source = source or few()
    return train_experts(networks(source, name), source, recipe, count, **{"key": KEY, "device": CPU} | given)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if not p.name.endswith(".lock")}


@contextmanager
def elsewhere(folder: Path):
    """Another cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_CONDENSE_CACHE", str(folder))
        yield


@pytest.fixture(scope="module")
def buffer() -> ExpertBuffer:
    return train()


def test_snapshots_begin_at_the_initial_weights_and_differ(buffer):
    fresh = networks(few())
    for expert in range(2):
        assert torch.equal(buffer.snapshot(expert, 0), FlatNetwork(fresh.numbered(expert, KEY)).flatten())
    found = [buffer.snapshot(e, t) for e in range(2) for t in range(4)]
    assert all(not torch.equal(a, b) for a, b in combinations(found, 2))
    assert all(x.shape == (buffer.size,) and x.dtype == torch.float32 and x.device == CPU for x in found)
    flat = FlatNetwork(fresh(KEY))
    assert (buffer.experts, buffer.epochs, buffer.size, buffer.table) == (2, 3, flat.size, flat.table)


def test_files_have_the_size_of_what_is_in_them_and_are_read_back_to_the_bit(buffer):
    again = ExpertBuffer.open(buffer.folder, verify=True)
    assert all(torch.equal(again.snapshot(e, t), buffer.snapshot(e, t)) for e in range(2) for t in range(4))
    on_disk = sum(path.stat().st_size for path in buffer.folder.glob("expert-*"))
    assert on_disk == buffer.bytes == pytest.approx(2 * 4 * buffer.size * 4, rel=0.01)
    with pytest.raises(ConfigError, match="0 to 3"):
        buffer.snapshot(0, 4)
    with pytest.raises(ConfigError, match="0 to 1"):
        buffer.snapshot(2, 0)


def test_an_epoch_is_plain_sgd_on_encoded_images_in_the_order_of_the_key():
    source, recipe = few(), ExpertRecipe(1, lr=0.05, batch=32, families=(), weight_decay=0.1)
    buffer, network = train(recipe, 1), networks(source).numbered(0, KEY)
    images, labels = source.decoded().float() / 255, torch.from_numpy(source.labels)
    order = torch.from_numpy((KEY / 0 / "training" / "order" / 0).permutation(60))
    for rows in order.split(32):
        network.zero_grad()
        F.cross_entropy(network(images[rows]), labels[rows]).backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.05 * (p.grad + 0.1 * p)
    torch.testing.assert_close(buffer.snapshot(0, 1), FlatNetwork(network).flatten(), atol=1e-5, rtol=1e-4)


def test_experts_learn_and_augmentation_is_part_of_it(buffer):
    source = digits()
    trained, network = train(ExpertRecipe(6, 0.05, batch=32, families=()), 1, source=source), networks(source)(KEY)
    flat, images, labels = FlatNetwork(network), source.decoded(), torch.from_numpy(source.labels)
    scores = []
    for epoch in (0, 6):
        flat.load_(trained.snapshot(0, epoch))
        scores.append(evaluate_top1(network, images, labels, CPU))
    assert scores[0] < 0.4 and scores[1] > 0.8, scores
    plain = train(ExpertRecipe(3, lr=0.05, momentum=0.5, batch=32, families=()))
    assert torch.equal(plain.snapshot(0, 0), buffer.snapshot(0, 0))
    assert not torch.equal(plain.snapshot(0, 1), buffer.snapshot(0, 1))


def test_more_experts_extend_what_is_there(buffer, tmp_path):
    with elsewhere(tmp_path):
        one = train(count=1)
        first = (one.folder / "expert-00000.safetensors").stat().st_mtime_ns
        two = train(count=2)
        assert two.folder == one.folder and content(two.folder) == content(buffer.folder)
        assert (two.folder / "expert-00000.safetensors").stat().st_mtime_ns == first
        fewer = train(count=1)  # the others stay
        assert (fewer.experts, fewer.bytes) == (1, two.bytes // 2) and content(two.folder) == content(buffer.folder)


def test_another_source_recipe_network_or_key_is_another_buffer(buffer):
    given = networks(few())
    folders = [
        train_experts(fresh, source, recipe, 1, key=key, device=CPU).folder
        for fresh, source, recipe, key in (
            (given, few(), RECIPE, KEY / "other"),
            (given, few().subset(range(50)), RECIPE, KEY),
            (given, few(), ExpertRecipe(3, lr=0.06, batch=32), KEY),
            (networks(few(), "convnet_d2"), few(), RECIPE, KEY),
            (FreshNetworks(given.name, ImageSpec(**given.facts), device=CPU, whitening=Whitening.fit(few().decoded())), few(), RECIPE, KEY),
        )
    ]  # fmt: skip
    assert len({buffer.folder, *folders}) == 6


def test_stopped_before_any_file_the_same_bytes_come_out(buffer, tmp_path, monkeypatch):
    """Inside an expert, between experts, and before the manifest; just after a file is just before the next."""
    written: list[str] = []

    class Stop(Exception):
        pass

    def note(moment: str, path: Path, stop_at: float = math.inf) -> None:
        if moment == "before":
            written.append(path.name)
            if len(written) > stop_at:
                raise Stop

    with elsewhere(tmp_path):
        monkeypatch.setattr(files, "on_replace", note)
        train()
        unbroken = written.copy()
        assert {"0002.safetensors", "fit.safetensors", "expert-00000.safetensors", "manifest.json"} <= {*unbroken}
        for stop_at in range(len(unbroken)):
            shutil.rmtree(tmp_path)
            written.clear()
            monkeypatch.setattr(files, "on_replace", partial(note, stop_at=stop_at))
            with pytest.raises(Stop):
                train()
            assert written == unbroken[: stop_at + 1]
            monkeypatch.setattr(files, "on_replace", None)
            assert content(train().folder) == content(buffer.folder), unbroken[stop_at]


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    """Killed in the second expert's last epoch: only that epoch is trained again."""

    class Stop(Exception):
        pass

    def fault(moment: str, path: Path) -> None:
        if moment == "after" and path.name == "0003.safetensors" and path.parent.name == "unfinished-00001":
            raise Stop

    with elsewhere(tmp_path):
        monkeypatch.setattr(files, "on_replace", fault)
        with pytest.raises(Stop):
            train()
        epochs = []
        monkeypatch.setattr(
            files, "on_replace", lambda moment, path: epochs.append(path.name) if moment == "after" else None
        )
        again = train()
        assert epochs == ["0000.safetensors", "0003.safetensors", "expert-00001.safetensors", "manifest.json"]
        left = {p.name for p in again.folder.rglob("*") if not p.name.endswith(".lock")}
        assert left == {"manifest.json", "expert-00000.safetensors", "expert-00001.safetensors"}


def test_a_killed_write_leaves_nothing_behind(tmp_path):
    def killed() -> None:
        files.on_replace = lambda moment, path: os._exit(9) if path.name == "expert-00000.safetensors" else None
        train(count=1)

    with elsewhere(tmp_path):
        assert forked.run(killed) == 9
        assert list(cache_folder().rglob(".*.part"))
        train(count=1)
        assert not list(cache_folder().rglob(".*.part"))


def test_two_processes_make_what_one_makes(buffer, tmp_path):
    def work() -> None:
        torch.set_num_threads(1)
        found = train(accelerator=Accelerator(cpu=True))
        assert found.experts == 2 and torch.equal(found.snapshot(1, 3), buffer.snapshot(1, 3))

    with elsewhere(tmp_path):
        assert forked.run_together(work, 2) == [0, 0]
        assert content(next((tmp_path / "experts").iterdir())) == content(buffer.folder)


def test_rates_that_ruin_an_expert_are_refused():
    with pytest.raises(ConfigError, match=r"expert_lr=1e\+20.*finite; those of expert 0.*Lower it"):
        train(ExpertRecipe(3, lr=1e20, batch=32))
    with pytest.raises(ConfigError, match="the same after 0 and 1 epochs"):
        train(ExpertRecipe(3, lr=1e-60, batch=32))
    with pytest.raises(ConfigError, match="keep snapshots as float32"):  # moved, but by less than float16 can tell
        train(ExpertRecipe(3, lr=1e-9, batch=32, dtype="float16"))


def test_half_precision_halves_the_files_and_rounds(buffer):
    half = train(ExpertRecipe(**vars(RECIPE) | {"dtype": "float16"}))
    assert half.bytes == pytest.approx(buffer.bytes / 2, rel=0.01)
    for expert in range(2):
        kept = [half.snapshot(expert, t) for t in range(4)]
        assert all(torch.equal(kept[t], buffer.snapshot(expert, t).half().float()) for t in range(4))
        whole = [buffer.snapshot(expert, t) for t in range(4)]
        for (a, b), (c, d) in zip(pairwise(kept), pairwise(whole)):
            assert (a - b).square().sum() == pytest.approx(float((c - d).square().sum()), rel=1e-2)


def test_experts_of_a_folder_are_taken_when_they_fit(buffer, tmp_path):
    shutil.copytree(buffer.folder, tmp_path / "given")
    given, other = tmp_path / "given", few().subset(range(50))
    with elsewhere(tmp_path / "cache"):
        taken = train(count=1, source=other, folder=given)
        assert (taken.folder, taken.experts) == (given, 1) and torch.equal(taken.snapshot(0, 2), buffer.snapshot(0, 2))
        assert not cache_folder().exists()  # nothing is trained
        with pytest.raises(ArtefactError, match="up to 2"):
            train(count=3, folder=given)
        with pytest.raises(ConfigError, match=r"expert_folder.*experts of convnet_d2 \(\d+ weights\)"):
            train(folder=given, name="convnet_d2")
        with pytest.raises(ConfigError, match="4 or more"):
            train(ExpertRecipe(4), folder=given)
        facts = networks(few()).facts
        white = FreshNetworks("convnet_d1", ImageSpec(**facts), device=CPU, whitening=Whitening.fit(few().decoded()))
        with pytest.raises(ConfigError, match="have seen .*zca"):
            train_experts(white, few(), RECIPE, 2, key=KEY, device=CPU, folder=given)
        damaged = bytearray((given / "expert-00000.safetensors").read_bytes())
        damaged[-1] ^= 1
        (given / "expert-00000.safetensors").write_bytes(damaged)
        with pytest.raises(ArtefactError, match="expert-00000"):
            train(folder=given)


def test_images_are_encoded_once_or_as_they_are_needed(monkeypatch):
    source, rows = few(), torch.tensor([3, 0, 59])
    network = networks(source)(KEY)
    once = encoded_images(source, network, CPU)(rows)
    monkeypatch.setattr(expert_training, "DEVICE_BYTES", 0)
    assert torch.equal(once, encoded_images(source, network, CPU)(rows))
    assert torch.equal(once, network.normalise(source.images(rows.numpy()).float() / 255))
