"""From what a person asked for to a settled run: settings, source, method, protocol and device, checked before any work."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hf_condense.config import DataSettings
from hf_condense.data.names import KNOWN, canonical_name
from hf_condense.data.randomness import Key
from hf_condense.data.source import SOURCE_KEY, Splits, open_source
from hf_condense.data.whitening import Whitening, fitted_whitening
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.memory import keep_freed_memory
from hf_condense.methods import method_class
from hf_condense.methods.base import Method
from hf_condense.models.linear_probe import PREFIX
from hf_condense.plan import Plan, SetSpec
from hf_condense.precision import resolve_precision, settle_arithmetic
from hf_condense.run.base import Run
from hf_condense.run.launch import agreed, check_equal, from_main, join
from hf_condense.run.preflight import check_known, check_networks, check_trackers, scorable
from hf_condense.run.resolve import Config, read_yaml, resolve

log = logging.getLogger(__name__)


def settle(method: str | Method | None, dataset: Any, flags: Mapping[str, Any]) -> Run:
    """The run that these words mean, the same on all processes; nothing is written.

    Args:
        method, dataset: as of `CondensationTrainer`.
        flags: settings by name; `config` names a YAML file.

    Raises:
        ConfigError, DataError, ModelError: something cannot be as asked, on one of the processes at least.
    """
    processes = join()  # before any work, and before anything asks for a device
    threads = from_main(processes, torch.get_num_threads())  # machines may have other numbers of cores
    with agreed(processes):
        run = _settled(method, dataset, flags, threads)
    values = {name: value for section in run.config.sections().values() for name, value in section.items()}
    images = {"training images": run.train.fingerprint, "test images": run.test.fingerprint}
    check_equal(processes, {**values, **images})
    return run


def _settled(method: str | Method | None, dataset: Any, flags: Mapping[str, Any], threads: int) -> Run:
    """What `settle` gives, on one process, which waits for no other; `threads` where a person or an earlier start says none."""
    # None is a value of most settings, but of these it means that they are not given
    flags = {name: value for name, value in flags.items() if value is not None or name not in ("base_model", "config")}
    given = None
    if isinstance(method, Method):
        check_known(method)
        flags = {**asdict(method.settings), **flags}
        method = method.name
    if method is not None:
        flags["method"] = method
    if isinstance(dataset, (str, os.PathLike)):
        flags["dataset"] = str(dataset)
    elif dataset is not None:
        given = dataset
        flags.setdefault("dataset", getattr(getattr(dataset, "info", None), "dataset_name", None) or "given")
    opened: dict[DataSettings, Splits] = {}

    def open_once(data: DataSettings) -> Splits:
        if data not in opened:
            opened[data] = open_source(data, SOURCE_KEY, given)
        return opened[data]

    def facts(data: DataSettings) -> tuple[int, int]:
        train = open_once(data).train
        return train.num_classes, train.image_size

    config = resolve(flags, facts)
    folder = run_folder(config)
    check_trackers(config.run.trackers)
    accelerator = Accelerator(log_with=list(config.run.trackers) or None, project_dir=str(folder / "logs"))
    config = pin(config, folder, accelerator.device, threads)
    torch.set_num_threads(config.run.threads)
    settle_arithmetic(accelerator.device)
    keep_freed_memory()
    made: Method = method_class(config.run.method)(config.method)
    config = probing(config, made)
    splits = open_once(config.data)
    spec = SetSpec(splits.train.num_classes, config.run.ipc, splits.train.image_size)
    made.plan(spec.num_classes, spec.ipc)  # an IPC that the method cannot make is refused at once
    first = check_networks(config.squeeze, made, splits.train)
    if first is not None:
        config = config.change_method(made.settings_for(first, spec.num_classes))
        made = method_class(config.run.method)(config.method)
    plan = made.plan(spec.num_classes, spec.ipc)
    protocol = student_recipe(config, made)
    config = scorable(config, made, plan, protocol, splits.train)
    whitening = fit_whitening(made, plan, spec, protocol, splits, accelerator.device)
    run = Run(
        config, folder, splits, made, plan, protocol, accelerator, Key(config.run.seed), keeps_class(config), whitening
    )
    made.check(run.context)
    return run


def run_folder(config: Config) -> Path:
    """Where the run writes: what the person said, or `runs/<method>-<dataset>-ipc<N>`."""
    run, dataset = config.run, Path(config.data.dataset).name
    return Path(run.output_dir or f"runs/{run.method}-{dataset}-ipc{run.ipc}{'-quick' * run.quick}")


def pin(config: Config, folder: Path, device: torch.device, threads: int) -> Config:
    """Settles what depends on the machine once and for all: a second start of the run takes the first one's."""
    before = read_yaml(str(folder / "config.yaml")) if (folder / "config.yaml").exists() else {}
    threads = config.run.threads or before.get("threads") or threads
    precision = config.run.precision if config.run.precision != "auto" else before.get("precision", "auto")
    precision = resolve_precision(precision, device)
    looks = config.evaluation.best_seen if config.evaluation.best_seen is not None else before.get("best_seen")
    config = config.change("evaluation", best_seen=device.type != "cpu" if looks is None else looks)
    return config.change("run", output_dir=str(folder), threads=threads, precision=precision)


def student_recipe(config: Config, method: Method) -> Protocol:
    """The protocol as it was asked for. Labels that the method gives an image are stored with it, not with views."""
    evaluation, changes = config.evaluation, {}
    name = evaluation.protocol or method.protocol(canonical_name(config.data.dataset))
    if evaluation.student_epochs is not None:
        changes = {"epochs": evaluation.student_epochs, "steps": None}
    if method.labels_by and get_protocol(name).label_per != "image":
        changes["label_per"] = "image"
    return get_protocol(name, **changes)


def probing(config: Config, method: Method) -> Config:
    """The settings with a probe of the method's own network as student, where its images are for that and nothing else is
    asked for. Probes of a preset are of the preset's networks."""

    def given(name: str) -> bool:
        return config.came_from[name] in ("flag", "file")

    own = f"{PREFIX}{method.backbone or config.squeeze.base_model[0]}"
    kept = own in config.evaluation.students and not given("base_model")
    return config if not method.probed or given("students") or kept else config.change("evaluation", students=(own,))


def fit_whitening(
    method: Method, plan: Plan, spec: SetSpec, protocol: Protocol, splits: Splits, device: torch.device
) -> Whitening | None:
    """Of the real images, where images are moved in whitened pixels or students see them."""
    recipes = (method.recipe(shard, spec) for shard in plan.optimised)
    wanted = protocol.zca or any(recipe.space == "whitened" for recipe in recipes)
    return fitted_whitening(splits.train).to(device) if wanted else None


def keeps_class(config: Config) -> bool:
    """Whether a mirrored image keeps its class; as the person says, or the table of known datasets."""
    known = KNOWN.get(canonical_name(config.data.dataset))
    return known.flip if config.data.flip is None and known else config.data.flip is not False


def announce(run: Run) -> None:
    """Says what is condensed, by what, and where it goes."""
    info, c, train = run.splits.info, run.config, run.train
    if not run.accelerator.is_main_process:
        return
    log.info(
        "%s on %s: %d training images, %d classes, %d x %d x %d; %d test images%s",
        run.method.info.title,
        info.id,
        len(train),
        train.num_classes,
        train.channels,
        train.image_size,
        train.image_size,
        len(run.test),
        " (held out)" if info.held_out else "",
    )
    log.info("settings: preset %s; protocol %s; run folder %s", c.preset, run.protocol.name, run.folder)
