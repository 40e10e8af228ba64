"""What the tests of the matching methods share: digits without a pool, one optimised set, the sign flipped."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from hf_condense import create_method, files
from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.engine import Engine
from hf_condense.methods.base import Context
from hf_condense.models.fresh import FreshNetworks
from hf_condense.objectives.base import Term
from hf_condense.plan import Synthetic

CPU = torch.device("cpu")


@cache
def digits(max_per_class: int = 60):
    """Training images of scikit-learn's digits, 8 px."""
    return open_source(DataSettings("digits", max_per_class=max_per_class), Key(0, "data")).train


def networks(source, name: str = "convnet_d1") -> FreshNetworks:
    return FreshNetworks(name, source.plain_spec, device=CPU)  # fmt: skip


def context(ipc: int, seed: int = 0, name: str = "convnet_d1") -> Context:
    source = digits()
    return Context(source, source.image_size, ipc, Key(seed), CPU, "fp32", False, fresh=networks(source, name))


class Given:
    """A sampler of these rows of each class, with these weights, and no others."""

    def __init__(self, rows: dict, weights: dict | None = None) -> None:
        self.chosen, self.shares = rows, weights or {}

    def begin(self, step, turn, network, classes) -> None:
        pass

    def rows(self, c):
        return self.chosen[c]

    def weights(self, c):
        return self.shares.get(c)


def synthesise(method: str, given: Context, folder: Path, sign: int = 1, every: int = 10**9, **settings) -> Synthetic:
    """A condensed set; `sign=-1` optimises the objective the wrong way."""
    made = create_method(method, **settings)
    if sign < 0:
        objective = made.objective

        def flipped(given: Context, ready=None):
            found = objective(given, ready)
            terms = found.terms
            found.terms = lambda *a: (Term(-t.loss, t.name, t.logs) for t in terms(*a))
            return found

        made.objective = flipped
    return Engine(Accelerator(cpu=True), folder, every).run(made, given)


def stopped_and_resumed(method: str, given: Context, folder: Path, stop_at: int, every: int, **settings) -> Synthetic:
    """The set of a run that was stopped just after its `stop_at`-th checkpoint, of one in `every` steps, and run again."""

    class Stop(BaseException):
        pass

    seen = 0

    def fault(when: str, path: Path) -> None:
        nonlocal seen
        seen += path.parent.name == "checkpoints" and when == "after"
        if seen == stop_at:
            raise Stop

    files.on_replace = fault
    try:
        with pytest.raises(Stop):
            synthesise(method, given, folder, every=every, **settings)
    finally:
        files.on_replace = None
    return synthesise(method, given, folder, every=every, **settings)


def matching_loss(method: str, given: Context, made: Synthetic, images: torch.Tensor, steps: int, **settings) -> float:
    """The method's loss on `images`, in networks and batches that synthesis did not draw."""
    unseen = replace(given, key=Key(12345, "unseen"))
    objective = create_method(method, **settings).objective(unseen)
    objective.start(None, images, made.labels, unseen.key)
    key, total = unseen.key / "judge", 0.0
    for step in range(steps):
        total += sum(float(t.loss.detach()) for t in objective.terms(images, made.labels, step, key / step))
    return total / steps
