"""What a run will take: the sum of what its stages say, from a probe of its networks."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from hf_condense.memory import peak_bytes
from hf_condense.run import probe
from hf_condense.run.base import Run
from hf_condense.run.counted import Counted, flops, seconds_on, traffic
from hf_condense.run.counted_probe import CountedProbe
from hf_condense.run.devices import BANDWIDTH_REACHED, CONTEXT, PRODUCTS_REACHED, Device, device_named
from hf_condense.run.pipeline import Pipeline

log = logging.getLogger(__name__)
LONG = 3600.0  # seconds above which the ways to a shorter run are named
SHORTER = (
    "  --quick shows the whole path in about a minute, --dry_run this estimate alone; shorter are a smaller network "
    "(--base_model, --students convnet_w32), --protocol small, fewer --regimes, --baselines or --student_seeds"
)


def estimate(pipeline: Pipeline) -> dict[str, float]:
    """Seconds of each stage by name, and "memory" and "disk" in bytes. Every figure is a rough one."""
    run = pipeline.run
    probed = probe.Probe(run)
    costs = {stage.name: stage.cost(run, probed) for stage in pipeline.stages.values()}
    found = {name: cost.seconds for name, cost in costs.items()}
    weights = sum(4 * network.weights for network in probed.measured.values())
    memory = probed.before + max(cost.memory for cost in costs.values()) + weights
    memory = max(memory, peak_bytes(run.device))  # what was tried has been in use already
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


def announce(pipeline: Pipeline, device: str | None = None) -> None:
    """Prints the estimate for the stages; says that it is one.

    Args:
        device: name of a device that need not be here (`run.devices`); defaults to that of the run.
    """
    elsewhere = device_named(device) if device else None
    if not pipeline.run.accelerator.is_main_process:
        return
    found = lines_for(pipeline, elsewhere) if elsewhere else lines(estimate(pipeline))
    for line in found:
        log.info(line)


@dataclass(frozen=True)
class Elsewhere:
    """What a run is expected to take on a device that is not here: by stage, and bytes of device memory and disk."""

    seconds: dict[str, float]
    flops: dict[str, float]
    traffic: dict[str, float]
    memory: float
    disk: float


def estimate_for(pipeline: Pipeline, device: Device, precision: str) -> Elsewhere:
    """The estimate for one process on `device`, from operations that are counted and none that are timed."""
    run, counted = pipeline.run, Counted()
    probes = [CountedProbe(run, v, precision, counted) for v in (seconds_on(device), flops, traffic)]
    costs = [{stage.name: stage.cost(run, probe) for stage in pipeline.stages.values()} for probe in probes]
    by_stage = [{name: cost.seconds for name, cost in of.items()} for of in costs]
    images = math.prod(run.train.shape) if run.train.fits_in_memory else 0
    largest = max(cost.memory for cost in costs[0].values())
    memory = CONTEXT + largest + sum(4 * passes.weights for passes in counted.passes.values()) + images
    disk = sum(cost.disk for cost in costs[0].values()) + real_images(run)["disk"]
    return Elsewhere(*by_stage, memory, disk)


def lines_for(pipeline: Pipeline, device: Device) -> list[str]:
    """The estimate for a device as text."""
    c = pipeline.run.config
    precision = c.run.precision if c.came_from["precision"] in ("flag", "file") else device.precision
    found = estimate_for(pipeline, device, precision)
    stages = [
        f"  {name}: {duration(seconds)}; {found.flops[name]:.3g} FLOP, {found.traffic[name] / 1e9:.3g} GB moved"
        for name, seconds in found.seconds.items()
        if seconds
    ]
    too_much = "" if found.memory <= device.memory * 1e9 else f": more than the {device.memory:g} GB it has"
    return [
        f"estimated, not measured: {device.title}, one process, observers in {precision} (peaks: {device.source})",
        *stages,
        f"  together about {duration(sum(found.seconds.values()))}; memory of the device about "
        f"{found.memory / 1e9:.2f} GB{too_much}; disk about {found.disk / 1e9:.2f} GB",
        f"  taken for granted: {PRODUCTS_REACHED:.0%} of the peak of products and {BANDWIDTH_REACHED:.0%} of the bandwidth "
        "are reached; the time to launch operations, which bounds small networks, is not counted",
    ]


def lines(found: dict[str, Any]) -> list[str]:
    """The estimate as text."""
    seconds = {name: value for name, value in found.items() if name not in ("memory", "disk")}
    parts = ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items() if value)
    return [
        f"estimate on this machine (networks and steps tried on a few images; done stages are skipped): {parts}",
        f"  together about {duration(sum(seconds.values()))}; memory about {found['memory'] / 1e9:.2f} GB, "
        f"disk about {found['disk'] / 1e9:.2f} GB",
        *([SHORTER] if sum(seconds.values()) > LONG else []),
    ]


def duration(seconds: float) -> str:
    """Seconds in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
