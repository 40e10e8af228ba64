"""Captured functions: the logic of CUDA graphs, with a recorder that replays operations on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.steps import MadeUpImages, step_of
from hf_condense.models.graphs import CudaRecorder, Graphed

CPU = torch.device("cpu")


class Replayer(TorchDispatchMode):
    """Replays noted operations with the values that the host had: each writes its result where the first one did.

    So it is wrong wherever a graph would be: numbers of the host, copies from it and new tensors are those of the capture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple] = []
        self.recorded = 0

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        self.noted, self.recorded = [], self.recorded + 1
        with self:
            found = work()
        noted = self.noted
        return found, lambda: self._replay(noted)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            self.noted.append((operation, args, kwargs or {}, found))
        return found

    @staticmethod
    @torch.no_grad()
    def _replay(noted: list[tuple]) -> None:
        for operation, args, kwargs, found in noted:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old is not new and old.numel():
                    old.detach().copy_(new)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).requires_grad_(False)


def seen(network: nn.Module) -> Callable[[Tensor], Sequence[Tensor]]:
    def look(x: Tensor) -> Sequence[Tensor]:
        logits = network(x)
        return logits, logits.square().mean(0)

    return look


def slope(function: Callable, x: Tensor) -> tuple[list[Tensor], Tensor]:
    x = x.clone().requires_grad_(True)
    found = function(x)
    (found[0].softmax(1)[:, 0].sum() + 0.1 * found[1].sum()).backward()
    return [part.detach() for part in found], x.grad


def test_replays_give_results_and_gradients_of_new_values(network):
    recorder = Replayer()
    graphed = Graphed(seen(network), recorder)
    for seed in range(3):
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(slope(graphed, x), slope(seen(network), x))
        with torch.no_grad():
            torch.testing.assert_close(graphed(x), seen(network)(x))
    assert recorder.recorded == 3  # forward and back; forward alone
    slope(graphed, torch.rand(1, 3, 8, 8))
    assert recorder.recorded == 5  # another shape


def test_a_part_of_the_loss_may_use_one_result_only(network):
    graphed, x = Graphed(seen(network), Replayer()), torch.rand(2, 3, 8, 8)
    given, expected = (x.clone().requires_grad_(True) for _ in range(2))
    slope(graphed, x)  # leaves slopes behind
    graphed(given)[1].sum().backward()
    seen(network)(expected)[1].sum().backward()
    torch.testing.assert_close(given.grad, expected.grad)


def test_values_of_the_host_would_be_those_of_the_capture(network):
    """The recorder shows what a graph would do: this function is not one for it."""
    number = iter(range(10))
    graphed = Graphed(lambda x: (x * next(number),), Replayer())
    with torch.no_grad():
        first, second = (graphed(torch.ones(2))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_the_way_back_of_an_earlier_call_is_refused(network):
    graphed, x = Graphed(seen(network), Replayer()), torch.rand(2, 3, 8, 8, requires_grad=True)
    first, _ = graphed(x), graphed(x)
    with pytest.raises(RuntimeError, match="called again"):
        first[0].sum().backward()


SETTINGS = {"iterations": 8, "shard_size": 8}


def pixels(name: str, recorder, steps: int = 5, device: torch.device = CPU, **settings) -> Tensor:
    source = MadeUpImages(4, 8, 12)
    work = step_of(name, source, ("convnet_bn_w32",) * 2, device, ipc=2, **SETTINGS, **settings)
    work.objective.recorder = recorder
    for number in range(steps):
        work.step(number)
    return work.z.detach().cpu()


@pytest.mark.parametrize(
    ("name", "settings"), [("edc", {"class_matching": "per_class", "drop_rate": 0.5}), ("sre2l", {}), ("gvbsm", {})]
)
def test_steps_with_captured_observers_equal_those_without(name, settings):
    recorder = Replayer()
    torch.testing.assert_close(pixels(name, recorder, **settings), pixels(name, None, **settings))
    assert recorder.recorded > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["edc", "sre2l"])
def test_steps_with_cuda_graphs_equal_those_without(name):
    device = torch.device("cuda")
    torch.testing.assert_close(
        pixels(name, CudaRecorder(), device=device), pixels(name, None, device=device), rtol=1e-4, atol=1e-4
    )
