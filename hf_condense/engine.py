"""Runs a method's plan: groups of shards, their distribution over processes, and what is there already. Knows no method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from hf_condense.data.crops import centre
from hf_condense.data.pixels import to_uint8, to_unit
from hf_condense.files import load_tensors, remove_leftovers, save_tensors
from hf_condense.methods.base import Context, Method
from hf_condense.models.graphs import Recorder
from hf_condense.objectives.base import Objective
from hf_condense.plan import Plan, Shard, Synthetic
from hf_condense.progress import Progress
from hf_condense.shard_optimiser import ShardOptimiser, learnables, objective_state, space_of


class Engine:
    """Runs the shards of a plan into `folder/shards`, resuming from what is there.

    Args:
        accelerator: tells processes apart; shards of a group are dealt to them in turn.
        folder: the run folder.
        checkpoint_every: steps between checkpoints inside a shard; a kill loses at most that much.
        recorder: captures parts of steps that have a fixed shape; None for none.
    """

    def __init__(
        self, accelerator: Accelerator, folder: Path, checkpoint_every: int = 200, recorder: Recorder | None = None
    ) -> None:
        self.accelerator, self.folder, self.checkpoint_every = accelerator, Path(folder), checkpoint_every
        self.recorder = recorder

    def run(self, method: Method, context: Context) -> Synthetic:
        """Makes every shard of the method's plan that is not there yet, and gathers the rows.

        Returns the same images for any number of processes and after any interruption.
        """
        plan = method.plan(context.num_classes, context.ipc)
        if self.accelerator.is_main_process:
            remove_leftovers(self.folder / "shards")
        self.accelerator.wait_for_everyone()
        for number, group in enumerate(plan.groups):
            made = all(self._path(shard).exists() for shard in group)
            self.accelerator.wait_for_everyone()  # no process makes a shard before all have seen which exist
            if not made:
                self._run_group(method, context, plan, number)
                self.accelerator.wait_for_everyone()
        return self.result(plan)

    def result(self, plan: Plan) -> Synthetic:
        """What the plan has made; stages are named where students go through them too."""
        made = self.gather(plan.groups)
        return replace(made, stages=None) if plan.one_set else made

    def gather(self, groups: Sequence[tuple[Shard, ...]]) -> Synthetic:
        """The rows of all shards in `groups`, the newest images of each."""
        images: dict[int, torch.Tensor] = {}
        initial: dict[int, torch.Tensor] = {}
        pixels: dict[int, torch.Tensor] = {}
        soft: dict[int, torch.Tensor] = {}
        origin: dict[int, int | list[int]] = {}
        labels: dict[int, int] = {}
        stages: dict[int, int] = {}
        learned: dict[str, list[float]] = {}
        for shard in (shard for group in groups for shard in group):
            tensors = load_tensors(self._path(shard))[0]
            made = to_uint8(tensors["images"]) if tensors["images"].is_floating_point() else tensors["images"]
            images.update(zip(shard.rows, made))
            pixels.update(zip(shard.rows, tensors.get("pixels", ())))
            for name, value in learnables(tensors).items():
                if name == "soft_logits":
                    name, value = "soft_labels", value.softmax(1)
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
            stacked(images),
            stacked(initial),
            torch.tensor([labels[row] for row in rows]),
            _origins([origin[row] for row in rows]),
            stacked(pixels and {row: pixels.get(row, to_unit(images[row])) for row in rows}),
            torch.tensor([stages[row] for row in rows]) if staged else None,
            learned,
            stacked(soft),
        )

    def earlier(self, plan: Plan, stage: int) -> Synthetic | None:
        """What the PDD stages before this one have made; None in the first."""
        before = [group for group in plan.groups if group[0].stage < stage]
        return self.gather(before) if before else None

    def _run_group(self, method: Method, context: Context, plan: Plan, number: int) -> None:
        group, rank = plan.groups[number], self.accelerator.process_index
        ready = method.ready(group[0], context, self.earlier(plan, group[0].stage))
        mine = self._share(plan, group)
        todo = [shard for shard in mine if not self._path(shard).exists()]
        optimised = group[0].kind == "optimise"
        steps = {s.id: method.recipe(s, context.spec).steps if optimised else 1 for s in mine}
        title = f"synthesis {number + 1}/{len(plan.groups)} ({group[0].kind})"
        with Progress(title, total=sum(steps.values()), show=rank == 0) as progress:
            progress.advance(sum(steps[s.id] for s in mine if s not in todo))
            if optimised:
                self._optimise_all(method, context, ready, plan, number, mine, todo, progress)
                return
            for shard in todo:
                start = method.start(shard, context, ready)
                tensors = {"images": start.images.cpu(), "origin": torch.as_tensor(start.origin)}
                save_tensors(self._path(shard), tensors)
                progress.advance(1)
                progress.stop_if_asked()

    def _share(self, plan: Plan, group: tuple[Shard, ...]) -> tuple[Shard, ...]:
        """The shards of a group that this process works on."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        if plan.joint and group[0].kind == "optimise":
            return group
        if plan.chained:
            return () if rank else group
        return group[rank::world]

    def _optimise_all(
        self,
        method: Method,
        context: Context,
        ready: Any,
        plan: Plan,
        number: int,
        mine: Sequence[Shard],
        todo: Sequence[Shard],
        progress: Progress,
    ) -> None:
        """The shards of this process in a group that moves images; a chain keeps one objective for all of them."""
        chain = method.objective(context, ready) if plan.chained and mine else None
        for shard in mine:
            if shard in todo:
                objective = chain or method.objective(context, ready)
                first = self._newest_images(plan.groups[:number], shard).to(context.device)
                self._optimise(method, context, plan, shard, objective, first, progress)
            elif chain is not None:
                chain.load_state_dict(objective_state(load_tensors(self._path(shard))[0]))

    def _optimise(
        self,
        method: Method,
        context: Context,
        plan: Plan,
        shard: Shard,
        objective: Objective,
        first: torch.Tensor,
        progress: Progress,
    ) -> None:
        recipe, train = method.recipe(shard, context.spec), context.train
        pixels = space_of(recipe, first, train.mean, train.std, context.whitening)
        checkpoint = self.folder / "shards" / "checkpoints" / f"{shard.id}.safetensors"  # goes with them
        objective.recorder = self.recorder
        if objective.needs_sources:
            objective.sources = self._sources(plan.groups, shard, context)
        work = ShardOptimiser(
            shard,
            recipe,
            objective,
            pixels,
            first,
            shard.key(context.key),
            checkpoint,
            self.accelerator if plan.joint else None,
        )
        shown = train.class_names if shard == plan.groups[-1][0] else None
        with progress.part(shard.id, recipe.steps) as part:
            if work.done:
                part.advance(work.done)
            work.run(self.checkpoint_every, part, shown)
        if work.writes:
            save_tensors(self._path(shard), work.result(with_state=plan.chained))
            checkpoint.unlink(missing_ok=True)

    def _path(self, shard: Shard) -> Path:
        return self.folder / "shards" / f"{shard.id}.safetensors"

    def _newest_images(self, groups: Sequence[tuple[Shard, ...]], shard: Shard) -> torch.Tensor:
        """Unit pixels of the shard's rows, as the last of these groups with such a row has made them."""
        missing, found = set(shard.rows), {}
        for other in (other for group in reversed(groups) for other in group):
            if missing & set(other.rows):
                tensors = load_tensors(self._path(other))[0]
                images = to_unit(tensors.get("pixels", tensors["images"]))
                found.update({row: images[i] for i, row in enumerate(other.rows) if row in missing})
                missing -= set(other.rows)
        return torch.stack([found[row] for row in shard.rows])

    def _sources(self, groups: Sequence[tuple[Shard, ...]], shard: Shard, context: Context) -> torch.Tensor:
        """uint8 [n, cells, C, S, S], the real images that the first images of the shard's rows were made of."""
        found: dict[int, Any] = {}
        for other in (other for group in groups for other in group if other.kind == "start"):
            if set(other.rows) & set(shard.rows):
                found.update(zip(other.rows, load_tensors(self._path(other))[0]["origin"].tolist()))
        rows = _origins([found[row] for row in shard.rows]).reshape(len(shard.rows), -1)
        images = centre(context.train.images(rows.ravel()), context.image_size)
        return images.reshape(*rows.shape, *images.shape[1:])


def _origins(found: list[int | list[int]]) -> np.ndarray:
    """Source rows int64 [N], or [N, cells]; -1 for the cells that an image of fewer does not have."""
    rows = [np.atleast_1d(row) for row in found]
    cells = max(map(len, rows))
    whole = np.stack([np.pad(row, (0, cells - len(row)), constant_values=-1) for row in rows])
    return whole if cells > 1 else whole[:, 0]
