"""Runs a method's plan: shards, steps, clamp, checkpoints, distribution and exact resume. Knows no method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from hf_condense.data.spaces import pixel_space
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.files import load_tensors, remove_leftovers, save_tensors
from hf_condense.methods.base import Context, Method, Plan, Recipe, Shard
from hf_condense.models.schedules import multiplier
from hf_condense.objectives.base import Objective
from hf_condense.objectives.parameterisation import to_uint8, to_unit
from hf_condense.progress import Progress

log = logging.getLogger(__name__)
SNAPSHOTS = 4  # pictures of the first shard on its way


@dataclass
class Synthetic:
    """What a plan made.

    Args:
        images: uint8 [N, C, S, S], the published images.
        initial: uint8 [N, C, S, S], the same rows before any optimisation.
        labels: int64 [N].
        origin: row in the source of each first image, -1 where there is none.
        pixels: float32 [N, C, S, S] unit pixels of methods whose images leave [0, 1], else None.
        stages: int64 [N], PDD stage of each image; None where there is one stage only.
        learned: what was learned beside images (a learning rate), by name: one value a stage.
        soft_labels: float32 [N, K] probabilities that the objective has given the images, else None.
    """

    images: torch.Tensor
    initial: torch.Tensor
    labels: torch.Tensor
    origin: np.ndarray
    pixels: torch.Tensor | None = None
    stages: torch.Tensor | None = None
    learned: dict[str, list[float]] = field(default_factory=dict)
    soft_labels: torch.Tensor | None = None


class Engine:
    """Runs the shards of a plan into `folder/shards`, resuming from what is there.

    Args:
        accelerator: tells processes apart; shards of a group are dealt to them in turn.
        folder: the run folder.
        checkpoint_every: steps between checkpoints inside a shard; a kill loses at most that much.
        on_log: gets (values, step) of the shard that the main process works on.
        on_snapshot: gets (shard, step, uint8 images) a few times for the first shard.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        checkpoint_every: int = 200,
        on_log: Callable[[dict[str, float], int], None] | None = None,
        on_snapshot: Callable[[Shard, int, torch.Tensor], None] | None = None,
    ) -> None:
        self.accelerator, self.folder, self.checkpoint_every = accelerator, Path(folder), checkpoint_every
        self.on_log, self.on_snapshot = on_log or (lambda values, step: None), on_snapshot or (lambda *_: None)

    def run(self, method: Method, context: Context) -> Synthetic:
        """Makes every shard of the method's plan that is not there yet, and gathers the rows.

        Returns the same images for any number of processes and after any interruption.
        """
        plan = method.plan(context.num_classes, context.ipc)
        rank = self.accelerator.process_index
        if self.accelerator.is_main_process:
            remove_leftovers(self.folder / "shards")
            for checkpoint in (self.folder / "shards" / "checkpoints").glob("*.safetensors"):
                if (self.folder / "shards" / checkpoint.name).exists():  # killed just after its shard was written
                    checkpoint.unlink()
        self.accelerator.wait_for_everyone()
        for number, group in enumerate(plan.groups):
            made = all(self._path(shard).exists() for shard in group)
            self.accelerator.wait_for_everyone()  # nobody makes a shard before all have seen what is there
            if made:
                continue
            here = method.ready(group[0], context, self._earlier(plan, group[0].stage))
            mine = self._share(plan, group)
            todo = [shard for shard in mine if not self._path(shard).exists()]
            recipe = method.recipe(context.num_classes, context.ipc, context.image_size)
            steps = recipe.steps if recipe and group[0].kind == "optimise" else 1
            title = f"synthesis {number + 1}/{len(plan.groups)} ({group[0].kind})"
            with Progress(title, total=len(mine) * steps, show=rank == 0) as progress:
                progress.advance((len(mine) - len(todo)) * steps)
                self._run_shards(method, here, plan, mine, todo, progress)
            self.accelerator.wait_for_everyone()
        return self._gather(plan.groups)

    def _earlier(self, plan: Plan, stage: int) -> Synthetic | None:
        """What the stages before this one have made; None in the first."""
        before = [group for group in plan.groups if group[0].stage < stage]
        return self._gather(before) if before else None

    def _share(self, plan: Plan, group: tuple[Shard, ...]) -> tuple[Shard, ...]:
        """The shards of a group that this process works on."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        if plan.joint and group[0].kind == "optimise":
            return group
        if plan.chained:
            return () if rank else group
        return group[rank::world]

    def _run_shards(self, method, context, plan: Plan, mine, todo, progress: Progress) -> None:
        carried = None
        for shard in mine:
            if shard.kind == "start":
                if shard in todo:
                    self._start(method, context, shard)
                    progress.advance(1)
                continue
            if plan.chained and carried is None:
                carried = method.objective(context)
            if shard in todo:
                self._optimise(method, context, plan, shard, carried or method.objective(context), progress)
            elif carried is not None:
                carried.load_state_dict(objective_state(load_tensors(self._path(shard))[0]))

    def _path(self, shard: Shard) -> Path:
        return self.folder / "shards" / f"{shard.id}.safetensors"

    def _start(self, method: Method, context: Context, shard: Shard) -> None:
        start = method.start(shard, context)
        save_tensors(self._path(shard), {"images": start.images.cpu(), "origin": torch.as_tensor(start.origin)})

    def _first_images(self, plan: Plan, shard: Shard) -> torch.Tensor:
        """Unit pixels of the shard's rows, from the start shards."""
        wanted, found = set(shard.rows), {}
        for group in plan.groups:
            for other in group:
                if other.kind == "start" and wanted & set(other.rows):
                    images = to_unit(load_tensors(self._path(other))[0]["images"])
                    found.update({row: images[i] for i, row in enumerate(other.rows) if row in wanted})
        return torch.stack([found[row] for row in shard.rows])

    def _optimise(
        self, method: Method, context: Context, plan: Plan, shard: Shard, objective: Objective, progress: Progress
    ) -> None:
        recipe = method.recipe(context.num_classes, context.ipc, context.image_size)
        key, device = context.key / shard.id, context.device
        pixels = pixel_space(recipe.space, context.train.mean, context.train.std, device, context.whitening)
        labels = torch.tensor(shard.labels, device=device)
        first = self._first_images(plan, shard).to(device)
        z = pixels.encode(first).contiguous().requires_grad_(True)
        main = not plan.joint or self.accelerator.is_main_process
        if plan.joint:
            objective.share = (self.accelerator.process_index, self.accelerator.num_processes)
        objective.start(shard, first, labels, key)
        optimiser = make_optimiser(z, objective.learnables(), recipe)
        checkpoint = self.folder / "shards" / "checkpoints" / f"{shard.id}.safetensors"  # goes with them
        begin = self._resume(checkpoint, z, objective, optimiser)
        progress.advance(begin)
        if plan.joint:
            self.accelerator.wait_for_everyone()  # nobody writes a checkpoint before all have read it
        pictured = main and shard == plan.groups[-1][0]
        for step in range(begin, recipe.steps):
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * multiplier(recipe.schedule, step, recipe.steps)
            optimiser.zero_grad(set_to_none=True)
            images = pixels.decode(z.detach()).requires_grad_(True)
            logs: dict[str, list[torch.Tensor]] = {}
            for term in objective.terms(images, labels, step, key / "step" / step):
                term.loss.backward()  # one term at a time: memory of one term
                for name, value in term.logs.items():
                    logs.setdefault(name, []).append(value)
            if plan.joint:
                self._sum_gradients([images, *(t for t in objective.learnables().values() if t.requires_grad)])
            z.grad = pixels.pull(images.grad)
            optimiser.step()
            if recipe.clamp_every and (step + 1) % recipe.clamp_every == 0:
                pixels.clamp_(z.data)
            objective.after(images, step, key / "step" / step)
            progress.advance(1)
            done = step + 1
            if done % progress.log_every == 0 or done == recipe.steps:  # the only place that waits for the device
                values = {name: float(torch.stack(parts).mean()) for name, parts in logs.items()}
                progress.say(values)
                self.on_log(values, done)
            if pictured and done * SNAPSHOTS // recipe.steps > step * SNAPSHOTS // recipe.steps:
                self.on_snapshot(shard, done, to_uint8(pixels.decode(z.detach())))
            if done % self.checkpoint_every == 0 or done == recipe.steps:
                refuse_diverged(shard, recipe, [z, *objective.learnables().values()])
                if main and done < recipe.steps:
                    self._checkpoint(checkpoint, z, objective, optimiser, done)
        if not main:
            return
        found = {"images": to_uint8(pixels.decode(z.detach()))}
        if not recipe.clamp_every:
            found["pixels"] = pixels.decode(z.detach()).float().cpu()
        found.update({f"learnable.{name}": value.detach().cpu() for name, value in objective.learnables().items()})
        if plan.chained:
            found.update({f"objective.{k}": v for k, v in objective.state_dict().items()})
        save_tensors(self._path(shard), found)
        checkpoint.unlink(missing_ok=True)

    def _sum_gradients(self, tensors: list[torch.Tensor]) -> None:
        """Every process has the terms of its own classes; rows of other classes get zeros, so sums are exact."""
        for tensor in tensors:
            grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            tensor.grad = self.accelerator.reduce(grad, "sum")

    def _checkpoint(self, path: Path, z: torch.Tensor, objective: Objective, optimiser, step: int) -> None:
        tensors = {"pixels": z.detach(), **{f"objective.{k}": v for k, v in objective.state_dict().items()}}
        for i, state in optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser.{i}.{k}": v for k, v in state.items() if v is not None})
        for name, value in objective.learnables().items():
            tensors[f"learnable.{name}"] = value.detach()
        save_tensors(path, {k: v.cpu() for k, v in tensors.items()}, {"step": step})

    def _resume(self, path: Path, z: torch.Tensor, objective: Objective, optimiser) -> int:
        """Puts a checkpoint back, if there is one; returns the step to go on from."""
        if not path.exists():
            return 0
        tensors, metadata = load_tensors(path)
        if tensors["pixels"].shape != z.shape:
            raise ArtefactError(str(path), tuple(tensors["pixels"].shape), f"{tuple(z.shape)}", "delete the file")
        with torch.no_grad():
            z.copy_(tensors["pixels"])
            for name, value in learnables(tensors).items():
                objective.learnables()[name].copy_(value)
        objective.load_state_dict(objective_state(tensors))
        state: dict[int, dict] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, number, entry = name.split(".")
                state.setdefault(int(number), {})[entry] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        log.info("resumed %s at step %d", path.stem, metadata["step"])
        return metadata["step"]

    def _gather(self, groups: Sequence[tuple[Shard, ...]]) -> Synthetic:
        """The rows of all shards in `groups`, the newest images of each."""
        images: dict[int, torch.Tensor] = {}
        initial: dict[int, torch.Tensor] = {}
        pixels: dict[int, torch.Tensor] = {}
        soft: dict[int, torch.Tensor] = {}
        origin: dict[int, int] = {}
        labels: dict[int, int] = {}
        stages: dict[int, int] = {}
        learned: dict[str, list[float]] = {}
        for shard in (shard for group in groups for shard in group):
            tensors = load_tensors(self._path(shard))[0]
            made = to_uint8(tensors["images"]) if tensors["images"].is_floating_point() else tensors["images"]
            images.update(zip(shard.rows, made))
            pixels.update(zip(shard.rows, tensors.get("pixels", ())))
            for name, value in learnables(tensors).items():
                if name == "soft_labels":  # the newest rows are the shard's own, after those of earlier stages
                    soft.update(zip(shard.rows, value[-len(shard.rows) :]))
                else:
                    learned.setdefault(name, []).append(float(value))
            if shard.kind == "start":
                initial.update(zip(shard.rows, made))
                origin.update(zip(shard.rows, tensors["origin"].tolist()))
                labels.update(zip(shard.rows, shard.labels))
                stages.update(dict.fromkeys(shard.rows, shard.stage))
        rows = sorted(labels)

        def stacked(found: dict[int, torch.Tensor]) -> torch.Tensor | None:
            return torch.stack([found[row] for row in rows]) if found else None

        staged = max(stages.values()) > 1
        return Synthetic(
            stacked(images), stacked(initial), torch.tensor([labels[row] for row in rows]),
            np.array([origin[row] for row in rows], dtype=np.int64), stacked(pixels),
            torch.tensor([stages[row] for row in rows]) if staged else None, learned, stacked(soft),
        )  # fmt: skip


def make_optimiser(z: torch.Tensor, learnables: dict[str, torch.Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the images and what is learned beside them, each at its own rate."""
    groups = [{"params": [z], "lr": recipe.lr}]
    groups += [{"params": [learnables[name]], "lr": rate} for name, rate in recipe.rates.items()]
    for group in groups:
        group["initial_lr"] = group["lr"]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.lr, momentum=recipe.momentum)
    return torch.optim.Adam(groups, recipe.lr, betas=recipe.betas)


def refuse_diverged(shard: Shard, recipe: Recipe, tensors: list[torch.Tensor]) -> None:
    """Raises ConfigError where what is optimised is no longer finite: as bytes it would be black images."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        allowed = f"a rate at which images stay finite; those of {shard.id} did not"
        rates = "".join(f" or the rate of {name}" for name in recipe.rates)
        raise ConfigError("lr", recipe.lr, allowed, f"lower it{rates}, and redo this stage with --overwrite")


def learnables(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What was learned beside pixels, of a checkpoint or shard file."""
    return {k.removeprefix("learnable."): v for k, v in tensors.items() if k.startswith("learnable.")}


def objective_state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The objective's own entries of a checkpoint or shard file."""
    return {k.removeprefix("objective."): v for k, v in tensors.items() if k.startswith("objective.")}
