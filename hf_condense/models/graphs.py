"""CUDA graphs: the kernels of a function of fixed shape, captured once and then launched together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WARM_UPS = 3  # calls before a capture, in which libraries choose their algorithms


class Recorder(Protocol):
    """Captures work on a device. The work reads and writes the same memory in every replay, and the host computes nothing."""

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """The results of `work`, and what computes them again in their place."""


class CudaRecorder:
    """Captures CUDA graphs, which share one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
        aside = torch.cuda.Stream()  # captures refuse work of the default stream that is still waited for
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            found = work()
        self._pool = self._pool or graph.pool()
        return found, graph.replay


class Graphed:
    """A function of one tensor that is captured for each shape of it, and replayed; differentiable once.

    Replays write over the memory of the one before: a result is a copy, but the way back is that of the last call. It
    is refused after a further call of the same shape.

    Args:
        function: tensor -> tensors. It reads its argument and tensors that stay where they are (weights), and changes
            nothing; it draws no numbers, copies nothing from the host, and reads nothing back.
        recorder: captures it.
    """

    def __init__(self, function: Callable[[Tensor], Sequence[Tensor]], recorder: Recorder) -> None:
        self.function, self.recorder = function, recorder
        self._captured: dict[tuple, _Captured] = {}

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        gradient = torch.is_grad_enabled() and x.requires_grad
        place = gradient, x.shape, x.dtype, x.device
        if place not in self._captured:
            self._captured[place] = _Captured(self.function, x, gradient, self.recorder)
        captured = self._captured[place]
        return _Replayed.apply(x, captured) if gradient else captured.forward(x)


class _Captured:
    """The graphs of one shape: from `x` to the results, and from their gradients to that of `x`."""

    def __init__(self, function: Callable, x: Tensor, gradient: bool, recorder: Recorder) -> None:
        self.x = x.detach().clone().requires_grad_(gradient)
        self.calls = 0
        with torch.set_grad_enabled(gradient):
            self.found, self._forward = recorder.record(lambda: tuple(function(self.x)))
        if gradient:
            self.slopes = [torch.zeros_like(part) for part in self.found]
            # through what the captured call has kept; kept on, because replays write into it
            back = partial(torch.autograd.grad, self.found, self.x, self.slopes, retain_graph=True)
            (self.slope,), self._backward = recorder.record(back)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            self.x.copy_(x)
        self._forward()
        self.calls += 1
        return tuple(part.detach().clone() for part in self.found)

    def backward(self, slopes: Sequence[Tensor | None]) -> Tensor:
        for mine, given in zip(self.slopes, slopes):
            mine.zero_() if given is None else mine.copy_(given)
        self._backward()
        return self.slope.clone()


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, captured: _Captured) -> tuple[Tensor, ...]:
        found = captured.forward(x)
        ctx.captured, ctx.call = captured, captured.calls
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, *slopes: Tensor | None) -> tuple[Tensor, None]:
        if ctx.call != ctx.captured.calls:
            raise RuntimeError("a captured function was called again before the gradient of its last call was taken")
        return ctx.captured.backward(slopes), None
