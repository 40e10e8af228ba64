"""The training loop of all networks of this library: observers, experts and students."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_condense.config import check
from hf_condense.data.pixels import unit_pixels
from hf_condense.data.randomness import Key, keyed
from hf_condense.files import fingerprint
from hf_condense.models.data_parallel import DataParallel, mean_loss
from hf_condense.models.finite import need_finite_loss
from hf_condense.models.fit_state import FitState
from hf_condense.models.schedules import SCHEDULES, multiplier
from hf_condense.precision import autocast
from hf_condense.progress import Progress


@dataclass
class Batch:
    """The input of one step, augmented and on the device.

    Args:
        images: float unit pixels [b, C, H, W].
        labels: int64 [b], class of each image before mixing.
        partner: int64 [b], which image of the batch was mixed in, or None.
        lam: share of the image itself after mixing; 1 without mixing.
        soft: soft labels or logits [b, K] of these very images, or None.
    """

    images: Tensor
    labels: Tensor
    partner: Tensor | None = None
    lam: float = 1.0
    soft: Tensor | None = None


@dataclass(frozen=True)
class FitRecipe:
    """How a network is trained, apart from its data and its loss.

    Weight decay acts on tensors with more than one axis only, unless `decay_all`. `ema` is the rate of the averaged
    weights (None: no average). `accumulation` batches make one optimiser step, weighted as one large batch.
    `restart` begins with a new optimiser, without momentum, in every epoch whose rate is not that of the one before.
    `rates` makes the training one of stages of equal length: the schedule runs once for each of them, with that base
    rate in place of `lr`. Weights go on from stage to stage, and so does momentum, unless `reset_between`.
    `fused` updates all weights in one kernel (adam and adamw): faster, and equal up to rounding.
    """

    epochs: int
    lr: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decay_all: bool = False
    schedule: str = "constant"
    schedule_params: dict[str, Any] = field(default_factory=dict)
    warmup_epochs: int = 0
    warmup_factor: float = 0.01
    ema: float | None = None
    accumulation: int = 1
    precision: str = "fp32"
    grad_clip: float | None = None
    restart: bool = False
    rates: tuple[float, ...] | None = None
    reset_between: bool = False
    fused: bool = False

    def __post_init__(self) -> None:
        check(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        check(self.lr > 0, "lr", self.lr, "above 0")
        check(self.optimizer in ("sgd", "adamw", "adam"), "optimizer", self.optimizer, "sgd, adamw, adam")
        check(self.schedule in SCHEDULES, "schedule", self.schedule, ", ".join(SCHEDULES))
        check(self.precision in ("fp32", "bf16"), "precision", self.precision, "fp32, bf16")
        check(self.ema is None or 0 <= self.ema < 1, "ema", self.ema, "a rate in [0, 1)")
        check(self.accumulation >= 1, "accumulation", self.accumulation, "1 or more")
        steps = self.schedule in ("constant", "multistep", "step") and not self.warmup_epochs
        check(not self.restart or steps, "restart", self.schedule, "multistep or step, without warm-up")
        if self.rates is not None:
            check(all(rate > 0 for rate in self.rates), "rates", self.rates, "above 0, one a stage")
            whole = len(self.rates) > 0 and self.epochs % len(self.rates) == 0
            check(whole, "epochs", self.epochs, f"a multiple of {len(self.rates)} stages")

    def rate(self, epoch: int) -> float:
        """The learning rate that holds in `epoch`."""
        warm = {"warmup_epochs": self.warmup_epochs, "warmup_factor": self.warmup_factor}
        base, length = self.lr, self.epochs
        if self.rates is not None:
            length //= len(self.rates)
            base, epoch = self.rates[epoch // length], epoch % length
        return base * multiplier(self.schedule, epoch, length, **warm, **self.schedule_params)

    def forgets(self, epoch: int) -> bool:
        """Whether the optimiser is reset at the start of `epoch`."""
        if epoch == 0:
            return False
        if self.rates is not None and epoch % (self.epochs // len(self.rates)) == 0:
            return self.reset_between
        return self.restart and self.rate(epoch) != self.rate(epoch - 1)


@dataclass
class FitResult:
    """The trained network, its averaged twin, and one row a finished epoch (epoch, loss, lr)."""

    model: nn.Module
    ema_model: nn.Module | None
    history: list[dict]
    seconds: float
    steps: int


def build_optimizer(model: nn.Module, recipe: FitRecipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the trainable parameters of `model`; biases and norms in a group without decay."""
    learned = [p for p in model.parameters() if p.requires_grad]
    decays = [p for p in learned if recipe.decay_all or p.ndim > 1]
    spared = [p for p in learned if not (recipe.decay_all or p.ndim > 1)]
    groups = [{"params": decays, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    cls = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return cls(groups, lr=recipe.lr, betas=recipe.betas, fused=recipe.fused or None)


class AveragedModel:
    """Exponential moving average of the weights, from the initial ones on; buffers are the online model's.

    Buffers are not averaged because the published accuracies were measured so (arXiv:2404.13733, official code).
    """

    def __init__(self, model: nn.Module, rate: float) -> None:
        self.online, self.rate = model, rate
        self.model = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """One step: average <- rate * average + (1 - rate) * weights."""
        torch._foreach_lerp_(list(self.model.parameters()), list(self.online.parameters()), 1 - self.rate)

    @torch.no_grad()
    def take_buffers(self) -> nn.Module:
        for mine, other in zip(self.model.buffers(), self.online.buffers()):
            mine.copy_(other)
        return self.model


def fit(
    model: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    loss: Callable[[Tensor, Batch], Tensor],
    recipe: FitRecipe,
    *,
    device: torch.device,
    key: Key,
    parallel: DataParallel | None = None,
    on_epoch: Callable[[int, nn.Module, nn.Module | None, dict], None] | None = None,
    progress: Progress | None = None,
    state_folder: Path | None = None,
    save_every: float = 20.0,
    setting: str = "network",
    remedy: str = "lower its learning rate",
) -> FitResult:
    """Trains `model` in this process and returns it in eval mode.

    Args:
        batches: epoch number -> the epoch's batches, on `device`; must give the same batches for the same epoch.
        loss: (logits [b, K] fp32, batch) -> the mean loss of the batch.
        key: names the streams of dropout and other layers that draw numbers; each epoch has its own.
        parallel: trains on all processes at once, each of which gives its part of every batch; None on this one alone.
        on_epoch: called with (epoch, model, averaged model or None, row of the history) after each epoch; it may
            change the mode of the models and add to the row.
        progress: advances by one an epoch and logs loss and rate; by default callbacks get them under the name of `key`.
        state_folder: where the unfinished fit is kept, at most once in `save_every` seconds; a second call with the
            same arguments goes on from there and ends with the same weights. The caller deletes it.
        setting: by which the network was chosen, and `remedy`: what to change when it diverges; for the message.

    Raises:
        ModelError: the loss of an epoch is infinite or no number.
        Stopped: a callback has stopped the run; the state is kept.
        ArtefactError: `state_folder` holds another fit's state.
    """
    model.to(device)
    progress = progress or Progress(str(key), recipe.epochs, show=False)
    if recipe.precision == "bf16":
        model.to(memory_format=torch.channels_last)  # the layout in which low-precision convolutions are fast
    optimizer = build_optimizer(model, recipe)
    average = AveragedModel(model, recipe.ema) if recipe.ema is not None else None
    start, steps, seconds, history, state = 0, 0, 0.0, [], None
    if state_folder is not None:
        shapes = [[name, list(p.shape)] for name, p in model.named_parameters()]
        mean = average.model if average else None
        state = FitState(state_folder, model, optimizer, mean, fingerprint([recipe, str(key), shapes]))
        start, steps, seconds, history = state.load()
        if start:
            progress.advance(start)
    began, saved = time.monotonic() - seconds, time.monotonic()
    for epoch in range(start, recipe.epochs):
        model.train()
        with keyed(key / epoch):
            total, count, taken = _run_epoch(
                model, batches(epoch), loss, recipe, epoch, optimizer, average, device, parallel
            )
        steps += taken
        loss_of_epoch = mean_loss(total, count, parallel) if taken else math.nan
        row = {"epoch": epoch, "loss": loss_of_epoch, "lr": recipe.rate(epoch)}
        history.append(row)
        if on_epoch:
            on_epoch(epoch, model, average.take_buffers() if average else None, row)
        if taken:
            name = getattr(model, "name", type(model).__name__)
            need_finite_loss(loss_of_epoch, name, epoch + 1, recipe.epochs, setting, remedy)
        progress.advance()
        progress.log({name: row[name] for name in ("loss", "lr", "accuracy") if name in row})
        if epoch + 1 == recipe.epochs:
            break
        writes = parallel is None or parallel.processes.main
        if state and writes and (progress.stopping or time.monotonic() - saved >= save_every):
            state.save(epoch + 1, steps, time.monotonic() - began, history)
            saved = time.monotonic()
        progress.stop_if_asked()
    ema_model = average.take_buffers().eval() if average else None
    return FitResult(model.eval(), ema_model, history, time.monotonic() - began, steps)


def _run_epoch(model, batches, loss, recipe, epoch, optimizer, average, device, parallel) -> tuple[Tensor, int, int]:
    """(sum of losses, images, optimiser steps) of this process. Reads nothing back from the device."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(epoch)
    if recipe.forgets(epoch):
        optimizer.state.clear()
    total, count, steps = torch.zeros((), device=device), 0, 0
    for group in _groups(batches, recipe.accumulation):
        size = sum(len(b.labels) for b in group)
        for batch in group:
            images = batch.images
            if recipe.precision == "bf16":
                images = images.contiguous(memory_format=torch.channels_last)
            with autocast(device, recipe.precision == "bf16"):
                logits = model(images)
            value = loss(logits.float(), batch)
            (value * (len(batch.labels) / size)).backward()
            total += value.detach() * len(batch.labels)
            count += len(batch.labels)
        if parallel is not None:
            parallel.average_gradients(model.parameters())
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average:
            average.update()
        steps += 1
    return total, count, steps


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, device: torch.device, batch_size: int = 256, size: int | None = None
) -> Tensor:
    """Logits fp32 [N, K] on the CPU, in eval mode, of uint8 or unit-pixel images [N, C, S, S]."""
    was_training = model.training
    model.to(device).eval()
    parts = [model(unit_pixels(part, device, size)).float() for part in images.split(batch_size)]
    model.train(was_training)
    return torch.cat(parts).cpu()  # read back once


def evaluate_top1(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    device: torch.device,
    batch_size: int = 256,
    size: int | None = None,
) -> float:
    """Share of images whose largest logit is the label's (0 to 1)."""
    return top1_of(predict(model, images, device, batch_size, size), torch.as_tensor(labels))


def top1_of(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of logits [N, K] whose largest one is the label's, int64 [N]."""
    return (logits.argmax(1) == labels).double().mean().item()
