"""Condense: the synthetic images, from the method's plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hf_condense.engine import Engine
from hf_condense.files import read_json, write_json
from hf_condense.hub.provenance import describe_network
from hf_condense.methods.base import Context
from hf_condense.models.graphs import CudaRecorder
from hf_condense.plan import Synthetic
from hf_condense.run.base import Run
from hf_condense.run.probe import Probe
from hf_condense.run.squeeze import Squeeze, source_settings
from hf_condense.run.stage import Cost, Outputs, Stage
from hf_condense.run.statistics import Statistics


@dataclass(frozen=True)
class Condensed:
    """What synthesis has made.

    Args:
        networks: those beside the pool that it has looked through, as the provenance names them.
    """

    synthetic: Synthetic
    networks: list[dict[str, Any]]


class Condense(Stage[Condensed]):
    """Runs the plan of the method on the engine."""

    name, place, after = "condense", "shards", (Statistics, Squeeze)
    networks = "networks.json"

    def after_in(self, run: Run) -> tuple[type[Stage], ...]:
        """The pool only where the method looks through it: what labels are made of changes no image."""
        if not run.method.info.pool:
            return ()
        return (Statistics,) if run.statistics else (Squeeze,)

    def version_in(self, run: Run) -> int:
        return run.method.VERSION

    def settings(self, run: Run) -> dict[str, Any]:
        c = run.config
        own = {"method": c.run.method, "ipc": c.run.ipc, "variant": c.run.variant, **asdict(c.method)}
        if run.method.trains_students:
            own["students"] = run.student_trainer.fingerprint
        if run.method.info.pool:
            return own
        # what the pool is made of changes nothing, but which network is drawn untrained does
        return {**source_settings(run), "network": c.squeeze.base_model[0], **own}

    def make(self, run: Run, done: Outputs, folder: Path) -> None:
        context = observed(run, done)
        settings = run.config.run
        recorder = CudaRecorder() if settings.cuda_graphs and run.device.type == "cuda" else None
        Engine(run.accelerator, run.folder, settings.checkpoint_every, recorder).run(run.method, context)
        if run.accelerator.is_main_process:
            used = [describe_network(used.model, [used.role]) for used in run.method.networks(context)]
            write_json(folder / self.networks, used)

    def clear(self, folder: Path) -> None:
        for checkpoint in (folder / "checkpoints").glob("*.safetensors"):
            if (folder / checkpoint.name).exists():  # killed just after its shard was written
                checkpoint.unlink()

    def load(self, run: Run, done: Outputs, folder: Path) -> Condensed:
        networks = read_json(folder / self.networks) if (folder / self.networks).exists() else []
        return Condensed(Engine(run.accelerator, run.folder).result(run.plan), networks)

    def cost(self, run: Run, probe: Probe) -> Cost:
        shards, method = run.plan.optimised, run.method
        seconds = method.images_before(len(run.train)) * probe.base[0].training
        seconds += len(run.plan.groups[0]) * probe.start(run.plan.groups[0][0])
        if not shards:
            return Cost(seconds / probe.processes)
        # steps of later stages see the images of all before: of those between the first and the last it is in proportion
        first, last = shards[0].stage, shards[-1].stage
        largest = {at: max((s for s in shards if s.stage == at), key=lambda s: len(s.rows)) for at in (first, last)}
        tried = {at: probe.step(shard) for at, shard in largest.items()}
        each = {at: tried[at].seconds / len(largest[at].rows) for at in tried}
        for shard in shards:
            later = (shard.stage - first) / max(1, last - first)
            image = each[first] + later * (each[last] - each[first])
            seconds += method.recipe(shard, run.spec).steps * len(shard.rows) * image
        return Cost(seconds / probe.processes, max(step.memory for step in tried.values()))


def observed(run: Run, done: Outputs) -> Context:
    """The run as the method sees it, with observers and statistics where it looks through a pool."""
    if not run.method.info.pool:
        return run.context
    statistics = done[Statistics] if run.statistics else None
    return replace(run.context, observers=done[Squeeze].observers, statistics=statistics)
