"""Optimises the images of one shard: steps, clamp, checkpoints, and the way back from one. Knows no method."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from hf_condense.data.pixels import to_uint8
from hf_condense.data.pyramid import PyramidPixels
from hf_condense.data.randomness import Key
from hf_condense.data.spaces import PixelSpace, pixel_space
from hf_condense.data.upload import to_device
from hf_condense.data.whitening import Whitening
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.files import load_tensors, save_tensors
from hf_condense.models.schedules import multiplier
from hf_condense.objectives.base import Objective
from hf_condense.plan import Recipe, Shard
from hf_condense.progress import Progress

log = logging.getLogger(__name__)
SNAPSHOTS = 4  # pictures of a shard on its way
LARGEST = 1e6  # of what is optimised, in size: pixels beyond it are no image


class ShardOptimiser:
    """The images of a shard on their way.

    Args:
        pixels: the space in which they are moved.
        first: float unit pixels [n, C, S, S] that they begin as, on the device.
        key: of the shard.
        checkpoint: file that holds an interrupted optimisation; removed by `finish`.
        sum_over: processes that work on this shard together, each with the terms of its own classes; None for one.
    """

    def __init__(
        self,
        shard: Shard,
        recipe: Recipe,
        objective: Objective,
        pixels: PixelSpace,
        first: torch.Tensor,
        key: Key,
        checkpoint: Path,
        sum_over: Accelerator | None = None,
    ) -> None:
        self.shard, self.recipe, self.objective, self.pixels = shard, recipe, objective, pixels
        self.key, self.checkpoint, self.sum_over = key, checkpoint, sum_over
        self.writes = sum_over is None or sum_over.is_main_process
        labels = torch.tensor(shard.labels)
        self.labels = to_device(labels, first.device)
        if sum_over is not None:
            objective.share = (sum_over.process_index, sum_over.num_processes)
        objective.start(shard, first, labels, key)
        self.z = pixels.initial(objective.begin(first)).contiguous().requires_grad_(True)
        self.optimiser = make_optimiser(self.z, objective.learnables(), recipe)
        self.done = self._resume()
        if sum_over is not None:
            sum_over.wait_for_everyone()  # no process writes a checkpoint before all have read it

    def run(
        self,
        checkpoint_every: int,
        progress: Progress,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """All steps that are left.

        Args:
            checkpoint_every: steps between checkpoints.
            class_names: of a shard whose images callbacks get a few times; None for others.

        Raises:
            ConfigError: the images diverged.
            Stopped: a callback has stopped the run; the checkpoint holds the steps so far.
        """
        steps = self.recipe.steps
        while self.done < steps:
            logs = self.step(self.done)
            before, self.done = self.done, self.done + 1
            progress.advance(1)
            if self.done % progress.log_every == 0 or self.done == steps:  # the only place that waits for the device
                values = {name: float(torch.stack(parts).mean()) for name, parts in logs.items()}
                progress.log(values)
            if class_names and self.writes and self.done * SNAPSHOTS // steps > before * SNAPSHOTS // steps:
                name, images = f"{self.shard.id}-step{self.done:05d}", to_uint8(self._unit())
                progress.images(name, {self.shard.id: images}, torch.tensor(self.shard.labels), class_names)
            if self.done % checkpoint_every == 0 or self.done == steps or progress.stopping:
                self.refuse_diverged()
                if self.writes and self.done < steps:
                    self._save()
            if self.done < steps:
                progress.stop_if_asked()

    def step(self, step: int) -> dict[str, list[torch.Tensor]]:
        """One update of the images and of what is learned beside them; returns what the terms log."""
        recipe, objective, key = self.recipe, self.objective, self.key / "step" / step
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * multiplier(recipe.schedule, step, recipe.steps)
        self.optimiser.zero_grad(set_to_none=True)
        images = self._unit().requires_grad_(True)
        logs: dict[str, list[torch.Tensor]] = {}
        for term in objective.terms(images, self.labels, step, key):
            term.loss.backward()  # one term at a time: memory of one term
            for name, value in term.logs.items():
                logs.setdefault(name, []).append(value)
        if self.sum_over is not None:
            self._sum_gradients([images, *(t for t in objective.learnables().values() if t.requires_grad)])
        self.z.grad = self.pixels.vjp(self.z, images.grad)
        self.optimiser.step()
        if recipe.clamp_every and (step + 1) % recipe.clamp_every == 0:
            self.pixels.clamp_(self.z.data)
        objective.after(images, step, key)
        if objective.revises(step):
            self._begin_again(self.pixels.encode(objective.revise(self._unit(), step, key)))
        grown = self.pixels.grown(self.z.detach(), step, self.key)
        if grown is not None:
            self._begin_again(grown)
        return logs

    def result(self, with_state: bool) -> dict[str, torch.Tensor]:
        """What the shard's file holds: uint8 images, float ones where they are never clamped, learnables; the
        objective's state for shards that come after it in a chain."""
        found = {"images": to_uint8(self._unit())}
        if not self.recipe.clamp_every:
            found["pixels"] = self._unit().float().cpu()
        found |= {f"learnable.{name}": value.detach().cpu() for name, value in self.objective.learnables().items()}
        if with_state:
            found |= {f"objective.{k}": v for k, v in self.objective.state_dict().items()}
        return found

    def refuse_diverged(self) -> None:
        """Raises ConfigError where what is optimised is no number any more, or too large for one of an image."""
        tensors = [self.z, *self.objective.learnables().values()]
        if not all(bool((tensor.abs() < LARGEST).all()) for tensor in tensors):
            allowed = f"a rate at which images stay below {LARGEST:.0e}; those of {self.shard.id} did not"
            rates = "".join(f" or the rate of {name}" for name in self.recipe.rates)
            raise ConfigError("lr", self.recipe.lr, allowed, f"lower it{rates}, and redo this stage with --overwrite")

    def _unit(self) -> torch.Tensor:
        return self.pixels.decode(self.z.detach())

    def _begin_again(self, z: torch.Tensor) -> None:
        """Puts images, of another size perhaps, in the place of the old ones, under a new optimiser."""
        self.z = z.detach().contiguous().requires_grad_(True)
        self.optimiser = make_optimiser(self.z, self.objective.learnables(), self.recipe)

    def _sum_gradients(self, tensors: list[torch.Tensor]) -> None:
        """Every process has the terms of its own classes; rows of other classes get zeros, so sums are exact."""
        for tensor in tensors:
            grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            tensor.grad = self.sum_over.reduce(grad, "sum")

    def _save(self) -> None:
        tensors = {"pixels": self.z.detach()}
        tensors |= {f"objective.{k}": v for k, v in self.objective.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser.{i}.{k}": v for k, v in state.items() if v is not None})
        for name, value in self.objective.learnables().items():
            tensors[f"learnable.{name}"] = value.detach()
        save_tensors(self.checkpoint, {k: v.cpu() for k, v in tensors.items()}, {"step": self.done})

    def _resume(self) -> int:
        """Puts a checkpoint back, if there is one; returns the step to go on from."""
        if not self.checkpoint.exists():
            return 0
        tensors, metadata = load_tensors(self.checkpoint)
        z = tensors["pixels"]
        if z.shape[:2] != self.z.shape[:2]:  # the side may change on the way
            found, wanted = tuple(z.shape[:2]), tuple(self.z.shape[:2])
            raise ArtefactError(str(self.checkpoint), found, f"{wanted} images and channels", "delete the file")
        with torch.no_grad():
            for name, value in learnables(tensors).items():
                self.objective.learnables()[name].copy_(value)
        self.objective.load_state_dict(objective_state(tensors))
        self._begin_again(z.to(self.z))
        state: dict[int, dict] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, number, entry = name.split(".")
                state.setdefault(int(number), {})[entry] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        log.info("resumed %s at step %d", self.checkpoint.stem, metadata["step"])
        return metadata["step"]


def space_of(
    recipe: Recipe,
    first: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    whitening: Whitening | None = None,
) -> PixelSpace:
    """The space of a recipe, for images like `first` [n, C, S, S], on their device; other arguments as of `pixel_space`."""
    if recipe.space == "pyramid":
        return PyramidPixels(first.shape[1], first.shape[-1], recipe.grow_every, first.device)
    return pixel_space(recipe.space, mean, std, first.device, whitening)


def make_optimiser(z: torch.Tensor, learnables: dict[str, torch.Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the images and what is learned beside them, each at its own rate."""
    groups = [{"params": [z], "lr": recipe.lr}]
    groups += [{"params": [learnables[name]], "lr": rate} for name, rate in recipe.rates.items()]
    for group in groups:
        group["initial_lr"] = group["lr"]
    if recipe.optimizer == "sgd":
        for name, group in zip(recipe.rates, groups[1:]):
            group["momentum"] = recipe.momenta.get(name, recipe.momentum)
        return torch.optim.SGD(groups, recipe.lr, momentum=recipe.momentum)
    return torch.optim.Adam(groups, recipe.lr, betas=recipe.betas)


def learnables(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What was learned beside pixels, of a checkpoint or shard file."""
    return {k.removeprefix("learnable."): v for k, v in tensors.items() if k.startswith("learnable.")}


def objective_state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The objective's own entries of a checkpoint or shard file."""
    return {k.removeprefix("objective."): v for k, v in tensors.items() if k.startswith("objective.")}
