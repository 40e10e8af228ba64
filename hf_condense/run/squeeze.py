"""Squeeze: the pool of networks that have seen the real data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_condense.data.cache import cache_folder
from hf_condense.files import fingerprint
from hf_condense.hub.card import hub_dataset
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.members import POOL_VERSION, ModelPool
from hf_condense.models.networks import weight_tag
from hf_condense.models.pool import PoolTraining, squeeze
from hf_condense.models.pool_folder import find_pool, read_pool
from hf_condense.models.weak import WEAK_VERSION, weak_pool
from hf_condense.progress import Progress
from hf_condense.run.base import Run
from hf_condense.run.probe import Probe
from hf_condense.run.stage import Cost, Outputs, Stage


@dataclass(frozen=True)
class Networks:
    """The pool and the parts its members play, frozen on the device.

    Args:
        observers: those that synthesis looks through; none where the method needs no pool.
        teachers: those that make soft labels, and `teacher`, their mean; none where no regime needs them.
    """

    pool: ModelPool
    observers: ModelPool
    teachers: ModelPool
    teacher: Ensemble | None


class Squeeze(Stage[Networks]):
    """Trains the networks of `--base_model`, or takes published weights; makes weak models of them."""

    name, place, version = "squeeze", "pool", POOL_VERSION
    models = "models"  # beside the stage's record, because the pool's folder is replaced as a whole

    def used(self, run: Run) -> bool:
        return run.needs_pool

    def settings(self, run: Run) -> dict[str, Any]:
        # observers and teachers only choose among what is made; a run may go on with another number of processes
        others = ("observers", "teachers", "squeeze_parallel")
        pool = {k: v for k, v in asdict(run.config.squeeze).items() if k not in others}
        tagged = [name for name in run.config.squeeze.base_model if weight_tag(name)]
        meant = (
            {"weights": tagged} if tagged and not run.config.squeeze.pretrained else {}
        )  # once these began from scratch
        return {**source_settings(run), **pool, **meant, **_weak_settings(run)}

    def make(self, run: Run, done: Outputs, folder: Path) -> None:
        pool = self._make_pool(run)
        for member in pool:
            Progress(member.name, 1, show=False).log({"top1": member.top1})
        if run.accelerator.is_main_process:
            pool.save(folder / self.models)

    def _make_pool(self, run: Run) -> ModelPool:
        weak = run.config.weak
        if weak.pool_folder is not None:
            return read_pool(weak.pool_folder, run.train)
        training = PoolTraining(
            run.config.squeeze,
            run.train,
            run.test,
            image_size=run.train.image_size,
            key=run.key / "squeeze",
            device=run.device,
            cache_folder=cache_folder(),
            flip=run.flip,
            dataset=hub_dataset(run.splits.info.id) or "",
        )
        if weak.weak:
            policy = run.statistics.policy if run.statistics else None
            return weak_pool(training, weak, policy, run.accelerator)
        return squeeze(training, run.accelerator)

    def load(self, run: Run, done: Outputs, folder: Path) -> Networks:
        c, pool, none = run.config.squeeze, ModelPool.load(folder / self.models), ModelPool([])
        observers = pool.observers(c.observers) if run.method.info.pool else none
        teachers = pool.teachers(c.teachers, run.config.weak.label_source) if run.labelled else none
        for member in (*observers, *teachers):
            member.model.to(run.device).freeze()
        teacher = None
        if run.labelled:
            weights = run.method.label_weights(len(teachers))
            teacher = Ensemble.for_protocol(teachers.models, run.student_protocol, run.config.run.precision, weights)
        return Networks(pool, observers, teachers, teacher)

    def cost(self, run: Run, probe: Probe) -> Cost:
        c, weak, images = run.config.squeeze, run.config.weak, len(run.train)
        if weak.pool_folder:
            return Cost()
        tuned = weak.pool_size * weak.finetune_epochs if weak.pool_kind == "post" else 0
        epochs = c.squeeze_epochs + tuned
        trained = [probe.member(name) for name in c.base_model] if epochs else []
        seconds = sum(epochs * one.epoch + one.once for one in trained)
        # built, and read again from where it is kept: for the pool and from it
        seconds += sum(len(run.test) * network.forward + 3 * network.making for network in probe.base)
        batch = min(c.squeeze_batch, images) if c.squeeze_epochs else 0
        return Cost(seconds, 2 * batch * max(network.activations for network in probe.base))


def source_settings(run: Run) -> dict[str, Any]:
    """What every first stage of a run depends on: arithmetic, and which real images there are."""
    data, c = asdict(run.config.data), run.config.run
    for name in ("decode_gb", "streaming"):  # where pixels are kept does not change them
        del data[name]
    return {"seed": c.seed, "precision": c.precision, "threads": c.threads, **data}


def source_fingerprint(run: Run) -> str:
    """Stands for the real images of the run."""
    return fingerprint([run.train.fingerprint, run.test.fingerprint])


def _weak_settings(run: Run) -> dict[str, Any]:
    """What the weak models of the pool depend on; nothing where there are none."""
    weak = run.config.weak
    if weak.pool_folder is not None:
        return {"pool": find_pool(weak.pool_folder)[1]}
    if not weak.weak:
        return {}
    own = {k: v for k, v in asdict(weak).items() if k != "label_source"}
    policy = asdict(run.statistics.policy) if run.statistics and run.statistics.policy else None
    return {**own, "weak_version": WEAK_VERSION, "synthesis_policy": policy}
