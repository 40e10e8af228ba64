"""Statistics: what the observers remember, or measure, of the real data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_condense.models.statistics import STATISTICS_VERSION, RealStatistics
from hf_condense.models.statistics_files import write_statistics
from hf_condense.processes import Processes
from hf_condense.run.base import Run
from hf_condense.run.probe import Probe
from hf_condense.run.squeeze import Squeeze
from hf_condense.run.stage import Cost, Outputs, Stage


class Statistics(Stage[list[RealStatistics]]):
    """One pass over the real images for each observer, where the method asks for one."""

    name, place, version, after = "statistics", "statistics", STATISTICS_VERSION, (Squeeze,)

    def used(self, run: Run) -> bool:
        return run.method.info.pool and run.statistics is not None

    def settings(self, run: Run) -> dict[str, Any]:
        c = run.config.squeeze
        observers = c.observers or ("weak",) * run.config.weak.weak or c.base_model
        return {**asdict(run.statistics), "observers": observers}

    def make(self, run: Run, done: Outputs, folder: Path) -> None:
        models, request = done[Squeeze].observers.models, run.statistics
        write_statistics(
            _paths(folder, len(models)),
            models,
            run.train,
            request.policy,
            request.patch,
            run.key / "statistics",
            run.device,
            mode=request.mode,
            kinds=request.kinds,
            processes=Processes(run.accelerator),
        )

    def load(self, run: Run, done: Outputs, folder: Path) -> list[RealStatistics]:
        return [RealStatistics.load(path) for path in _paths(folder, len(done[Squeeze].observers))]

    def cost(self, run: Run, probe: Probe) -> Cost:
        return Cost(len(run.train) * sum(observer.forward for observer in probe.observers))


def _paths(folder: Path, count: int) -> list[Path]:
    return [folder / f"{i:02d}.safetensors" for i in range(count)]
