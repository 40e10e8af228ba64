"""What a run will take: the sum of what its stages say, from a probe of its networks."""

from __future__ import annotations

import logging
import math
from typing import Any

from hf_condense.memory import peak_bytes
from hf_condense.run import probe
from hf_condense.run.base import Run
from hf_condense.run.pipeline import Pipeline

log = logging.getLogger(__name__)


def estimate(pipeline: Pipeline) -> dict[str, float]:
    """Seconds of each stage by name, and "memory" and "disk" in bytes. Every figure is a rough one."""
    run = pipeline.run
    probed = probe.Probe(run)
    costs = {stage.name: stage.cost(run, probed) for stage in pipeline.stages.values()}
    found = {name: cost.seconds for name, cost in costs.items()}
    weights = sum(4 * network.weights for network in probed.measured.values())
    memory = peak_bytes(run.device) + max(cost.memory for cost in costs.values()) + weights
    images = real_images(run)
    return {**found, "memory": memory + images["memory"], "disk": sum(c.disk for c in costs.values()) + images["disk"]}


def real_images(run: Run) -> dict[str, float]:
    """Bytes of decoded real images in memory, and in a file where the limit of `--decode_gb` is exceeded.

    Test images are decoded once; training images too where they fit, and beyond that only for the row of all of them.
    """
    c, found = run.config, {"memory": 0.0, "disk": 0.0}
    full = "full" in c.evaluation.baselines
    whole = full or (c.squeeze.squeeze_epochs and run.train.fits_in_memory)
    for source in [run.test] + [run.train] * bool(whole):
        found["memory" if source.fits_in_memory else "disk"] += math.prod(source.shape)
    return found


def announce(pipeline: Pipeline) -> None:
    """Prints the estimate for the stages; says that it is one."""
    if not pipeline.run.accelerator.is_main_process:
        return
    for line in lines(estimate(pipeline)):
        log.info(line)


def lines(found: dict[str, Any]) -> list[str]:
    """The estimate as text."""
    seconds = {name: value for name, value in found.items() if name not in ("memory", "disk")}
    parts = ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items() if value)
    return [
        f"estimate on this machine (from {probe.IMAGES} images a network; done stages are skipped): {parts}",
        f"  together about {duration(sum(seconds.values()))}; memory about {found['memory'] / 1e9:.2f} GB, "
        f"disk about {found['disk'] / 1e9:.2f} GB",
    ]


def duration(seconds: float) -> str:
    """Seconds in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
