"""The engine on a toy method: exact resume inside a shard, any order of shards, chained groups, learned tensors."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hf_condense import files
from hf_condense.data.randomness import Key
from hf_condense.engine import Engine
from hf_condense.errors import ArtefactError
from hf_condense.methods.base import Context, Method
from hf_condense.objectives.base import Objective, Term
from hf_condense.plan import Plan, Recipe, Start, blocks


class Towards(Objective):
    """Pulls images to a grey level that drifts with the steps seen, under keyed noise; learns a weight as well."""

    def start(self, shard, images, labels, key):
        self.seen = getattr(self, "seen", 0)
        self.weight = torch.ones(1, requires_grad=True)

    def learnables(self):
        return {"weight": self.weight}

    def terms(self, images, labels, step, key):
        noise = torch.from_numpy(key.numpy().standard_normal(images.shape)).float()
        target = (labels.view(-1, 1, 1, 1) + 1) / 4 + 0.01 * self.seen
        yield Term(((images - target) ** 2).sum(), "pull", {"pull": images.detach().sum()})
        yield Term((self.weight * noise * images).sum() * 0.1, "noise")

    def after(self, images, step, key):
        self.seen += 1

    def state_dict(self):
        return {"seen": torch.tensor(self.seen)}

    def load_state_dict(self, state):
        self.seen = int(state["seen"])


@dataclass(frozen=True)
class ToySettings:
    chained: bool = False


class Toy(Method):
    name = "random"
    Settings = ToySettings

    def plan(self, num_classes, ipc):
        starts = super().plan(num_classes, ipc)
        return Plan(starts.labels, (*starts.groups, blocks(starts.labels, 3, "toy")), self.settings.chained)

    def start(self, shard, context, ready=None):
        images = torch.from_numpy(
            (context.key / shard.id).numpy().integers(0, 256, (len(shard.rows), 1, 4, 4), np.uint8)
        )
        return Start(images, np.asarray(shard.rows))

    def recipe(self, shard, spec):
        return Recipe(steps=10, lr=0.1)

    def objective(self, context, ready=None):
        return Towards()


def synthesise(folder, chained=False, every=3, process=(0, 1)):
    source = SimpleNamespace(num_classes=2, mean=(0.5,), std=(0.25,), class_names=["a", "b"])
    context = Context(source, 4, 4, Key(0), torch.device("cpu"), "fp32")
    accelerator = SimpleNamespace(
        process_index=process[0],
        num_processes=process[1],
        is_main_process=process[0] == 0,
        wait_for_everyone=lambda: None,
    )
    accelerator = Accelerator(cpu=True) if process == (0, 1) else accelerator
    return Engine(accelerator, folder, every).run(Toy(ToySettings(chained)), context)


@pytest.fixture(autouse=True)
def no_faults():
    yield
    files.on_replace = None


@pytest.mark.parametrize("chained", [False, True])
def test_a_run_stopped_at_any_file_ends_as_if_it_had_not_been(tmp_path, chained):
    whole = synthesise(tmp_path / "whole", chained)
    replaced = 0

    class Stop(BaseException):
        pass

    for moment in ("before", "after"):
        for stop_at in range(12):
            count = 0

            def fault(when, path):
                nonlocal count
                count += when == moment
                if count > stop_at and when == moment:
                    raise Stop

            folder = tmp_path / f"{moment}{stop_at}"
            files.on_replace = fault
            try:
                synthesise(folder, chained)
            except Stop:
                replaced += 1
            files.on_replace = None
            again = synthesise(folder, chained)
            assert torch.equal(again.images, whole.images), f"{moment} file {stop_at}"
    assert replaced >= 20, "the faults did not strike"


def test_steps_are_not_repeated_after_a_stop(tmp_path):
    seen = []

    class Stop(BaseException):
        pass

    def fault(when, path):
        if path.parent.name == "checkpoints" and when == "after" and len(seen) == 0:
            seen.append(path)
            raise Stop

    files.on_replace = fault
    with pytest.raises(Stop):
        synthesise(tmp_path)
    files.on_replace = None
    assert files.load_tensors(seen[0])[1]["step"] == 3
    synthesise(tmp_path)
    assert not list((tmp_path / "shards" / "checkpoints").iterdir()), "checkpoints of finished shards are removed"


def test_chained_shards_differ_from_independent_ones(tmp_path):
    chained, independent = synthesise(tmp_path / "a", True), synthesise(tmp_path / "b", False)
    assert torch.equal(chained.images[:3], independent.images[:3]) and not torch.equal(
        chained.images, independent.images
    )
    assert torch.equal(chained.initial, independent.initial) and not torch.equal(chained.initial, chained.images)


def test_shards_made_by_two_processes_in_turn_equal_those_of_one(tmp_path, monkeypatch):
    one = synthesise(tmp_path / "one")
    monkeypatch.setattr(Engine, "gather", lambda self, plan: None)
    shared = tmp_path / "two"
    # start shards first (the barrier of a real run), then the rest in the other order
    for rank in (1, 0, 1, 0):
        try:
            synthesise(shared, process=(rank, 2))
        except ArtefactError as error:  # start shards of the other process are not there yet
            assert "start-" in str(error)
    monkeypatch.undo()
    assert torch.equal(synthesise(shared).images, one.images)
