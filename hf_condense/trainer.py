"""The five stages on one Accelerator: squeeze, condense, relabel, evaluate, publish. Knows no method."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from hf_condense import estimate, report
from hf_condense.config import DataSettings
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.images import ImageSource, cache_folder
from hf_condense.data.names import KNOWN, canonical_name
from hf_condense.data.randomness import Key
from hf_condense.data.source import Splits, open_source
from hf_condense.data.whitening import Whitening, fitted_whitening
from hf_condense.engine import Engine, Synthetic
from hf_condense.evaluation.protocols import Protocol, get_protocol
from hf_condense.evaluation.report import ScoreTable
from hf_condense.evaluation.run import ImageSet, score
from hf_condense.evaluation.service import Students
from hf_condense.files import save_tensors
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.card import hub_dataset
from hf_condense.hub.push import Pushed, push
from hf_condense.labels.formats import store_format
from hf_condense.labels.store import LabelStore, write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.memory import keep_freed_memory, peak_bytes, reset_peak
from hf_condense.methods import method_class
from hf_condense.methods.base import Context, Method
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.pool import ModelPool, squeeze
from hf_condense.models.statistics import RealStatistics
from hf_condense.models.statistics_files import write_statistics
from hf_condense.models.weak import read_pool, weak_pool
from hf_condense.precision import resolve_precision
from hf_condense.preflight import check_folder, check_known, check_networks, check_trackers, scorable
from hf_condense.progress import Progress
from hf_condense.publishing import gather_artefact, ready_to_push
from hf_condense.resolve import Config, read_yaml, resolve
from hf_condense.run_stages import label_settings, stages_of
from hf_condense.scored_rows import how_made, scored_rows
from hf_condense.stages import Stage

log = logging.getLogger(__name__)
POOL = "pool/models"  # beside the stage's record, because the pool's folder is replaced as a whole
PATIENCE = timedelta(days=30)  # for processes that wait while another one trains; by default they give up in minutes


def run_folder(config: Config) -> Path:
    """Where the run writes: what the person said, or `runs/<method>-<dataset>-ipc<N>`."""
    run, dataset = config.run, Path(config.data.dataset).name
    return Path(run.output_dir or f"runs/{run.method}-{dataset}-ipc{run.ipc}{'-quick' * run.quick}")


class CondensationTrainer:
    """From an image dataset to a scored, loadable condensed dataset.

    Args:
        method: name of a method, or a `Method` with settings of your own (`create_method`): all of its settings are then
            the object's, defaults included, and none is a preset's. The run is recorded and gone on with by the method's
            name, so a class of your own needs a name and an entry in `methods.METHODS` first (see CONTRIBUTING.md).
        dataset: short name, Hub id, folder, or a `datasets` object.
        base_model: name or names of the pool's networks; the preset's where not said.
        config: path of a YAML file with settings.
        settings: any setting by name, as on the command line (`ipc=10`, `output_dir="runs/mine"`).

    Every stage writes into the run folder and is skipped when it is there already; running again resumes.

    Raises:
        ConfigError, DataError: a setting or the dataset cannot be used as asked; or the class of `method` is not the one
            that its name stands for.
    """

    def __init__(
        self,
        method: str | Method | None = None,
        dataset: Any = None,
        base_model: str | list[str] | None = None,
        config: str | None = None,
        **settings: Any,
    ) -> None:
        flags = dict(settings)
        given = None
        if isinstance(method, Method):
            check_known(method)
            flags = {**asdict(method.settings), **flags}
            method = method.name
        if isinstance(dataset, (str, os.PathLike)):
            flags["dataset"] = str(dataset)
        elif dataset is not None:
            given = dataset
            flags.setdefault("dataset", getattr(getattr(dataset, "info", None), "dataset_name", None) or "given")
        named = {"method": method, "base_model": base_model, "config": config}
        flags.update({k: v for k, v in named.items() if v is not None})
        self._opened: dict[DataSettings, Splits] = {}
        self._given = given
        config = resolve(flags, self._facts)
        self.folder = run_folder(config)
        check_trackers(config.run.trackers)
        # before anything asks for a device: only an Accelerator reads what the launcher says of processes
        self.accelerator = Accelerator(
            log_with=list(config.run.trackers) or None, project_dir=str(self.folder / "logs"),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )  # fmt: skip
        self.device = self.accelerator.device
        self.config = self._pin(config)
        run = self.config.run
        torch.set_num_threads(run.threads)
        keep_freed_memory()
        self.key = Key(run.seed)
        self.method: Method = method_class(run.method)(self.config.method)
        self.splits = self._open(self.config.data)
        self.method.plan(self.train.num_classes, run.ipc)  # an IPC that the method cannot make is refused at once
        self.method.check_images(self.train, run.ipc)
        check_networks(self)
        self.protocol = self._student_recipe()
        self.config = scorable(self)
        check_folder(self)
        if run.trackers:
            self.accelerator.init_trackers(
                "hf-condense", {k: str(v) for s in self.config.sections().values() for k, v in s.items()}
            )
        self._announce()

    # what the run stands on

    def _open(self, data: DataSettings) -> Splits:
        if data not in self._opened:
            self._opened[data] = open_source(data, Key(0, "data"), self._given)
        return self._opened[data]

    def _facts(self, data: DataSettings) -> tuple[int, int]:
        train = self._open(data).train
        return train.num_classes, train.image_size

    def _pin(self, config: Config) -> Config:
        """Settles what depends on the machine once and for all: a second start of the run takes the first one's."""
        before = read_yaml(str(self.folder / "config.yaml")) if (self.folder / "config.yaml").exists() else {}
        threads = config.run.threads or before.get("threads") or torch.get_num_threads()
        precision = config.run.precision if config.run.precision != "auto" else before.get("precision", "auto")
        precision = resolve_precision(precision, self.device)
        return config.change("run", output_dir=str(self.folder), threads=threads, precision=precision)

    def _student_recipe(self) -> Protocol:
        """The protocol as it was asked for. Labels that the method gives an image are stored with it, not with views."""
        evaluation, changes = self.config.evaluation, {}
        name = evaluation.protocol or self.method.protocol(canonical_name(self.config.data.dataset))
        if evaluation.student_epochs is not None:
            changes = {"epochs": evaluation.student_epochs, "steps": None}
        if self.method.labels_by and get_protocol(name).label_per != "image":
            changes["label_per"] = "image"
        return get_protocol(name, **changes)

    @property
    def train(self) -> ImageSource:
        return self.splits.train

    @cached_property
    def whitening(self) -> Whitening | None:
        """Of the real images, where images are optimised in whitened pixels or students see them."""
        recipe = self.method.recipe(self.train.num_classes, self.config.run.ipc, self.train.image_size)
        wanted = self.protocol.zca or (recipe is not None and recipe.space == "whitened")
        return fitted_whitening(self.train).to(self.device) if wanted else None

    @property
    def students(self) -> Students:
        """Trains networks as the students of this run are trained."""
        train = self.train
        return Students(
            self.protocol, self.shown_ipc, train.num_classes, train.mean, train.std, self.device, self.flip,
            whitening=self.whitening,
        )  # fmt: skip

    @property
    def flip(self) -> bool:
        """Whether a mirrored image keeps its class; said by the person or by the table of known datasets."""
        known = KNOWN.get(canonical_name(self.config.data.dataset))
        return known.flip if self.config.data.flip is None and known else self.config.data.flip is not False

    @property
    def shown_ipc(self) -> int:
        """Training images of a class: published ones may hold several."""
        return self.config.run.ipc * self.method.formation_factor**2

    @property
    def labelled(self) -> bool:
        """Whether a regime needs a teacher; without one a method that needs no pool trains no network."""
        made_here = ("hard", "stored") if self.method.labels_by else ("hard",)
        return any(regime not in made_here for regime in self.config.evaluation.regimes)

    @property
    def needs_pool(self) -> bool:
        """Whether networks are trained on the real data: for the synthesis, or to make labels."""
        return self.labelled or self.method.info.pool

    @property
    def context(self) -> Context:
        run, train = self.config.run, self.train
        fresh = FreshNetworks(
            self.config.squeeze.base_model[0], num_classes=train.num_classes, image_size=train.image_size,
            channels=train.channels, mean=train.mean, std=train.std, device=self.device, whitening=self.whitening,
        )  # fmt: skip
        return Context(
            train, train.image_size, run.ipc, self.key / "condense", self.device, run.precision, self.flip, fresh=fresh,
            whitening=self.whitening, students=self.students, accelerator=self.accelerator,
        )  # fmt: skip

    def _announce(self) -> None:
        if not self.accelerator.is_main_process:
            return
        info, c = self.splits.info, self.config
        log.info(
            "%s on %s: %d training images, %d classes, %d x %d x %d; %d test images%s",
            self.method.info.title, info.id, len(self.train), self.train.num_classes, self.train.channels,
            self.train.image_size, self.train.image_size, len(self.splits.test), " (held out)" if info.held_out else "",
        )  # fmt: skip
        log.info("settings: preset %s; protocol %s; run folder %s", c.preset, self.protocol.name, self.folder)

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[bool]:
        """Runs a stage unless it is done. Gives True when there is work; measures and records it."""
        done = [None]
        if self.accelerator.is_main_process:
            done = [stage.begin(self.config.run.overwrite)]
            self.config.save(self.folder / "config.yaml")  # only now: a refused start leaves the old one as it was
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(done)
        if done[0]:
            log.info("%s: already done", stage.name)
            yield False
            return
        reset_peak(self.device)
        finished = False
        try:
            yield True
            self.accelerator.wait_for_everyone()
            finished = True
        finally:
            if self.accelerator.is_main_process:
                stage.note(finished, peak_bytes(self.device))

    # the stages

    def stages(self) -> dict[str, Stage]:
        """All stages of the run by name, in their order."""
        return stages_of(self)

    def synthesis_policy(self) -> ViewPolicy | None:
        """Augmentation under which the statistics of the networks are matched; None where the method matches none."""
        request = self.method.statistics(self.context)
        return request.policy if request else None

    def squeeze(self) -> ModelPool:
        """The pool: trained on the real data, or published weights; top-1 of each on the test images is printed."""
        stage = self.stages()["squeeze"]
        with self._stage(stage) as work:
            if work:
                pool = self._make_pool()
                if self.accelerator.is_main_process:
                    pool.save(self.folder / POOL)
        pool = ModelPool.load(self.folder / POOL)
        for line in pool.table().splitlines():
            log.info("  %s", line)
        return pool

    def pool(self) -> ModelPool:
        """`squeeze`, and says where the pool is."""
        pool = self.squeeze()
        log.info("pool in %s: give it as --pool_folder, or one of its folders as --base_model", self.folder / POOL)
        return pool

    def _make_pool(self) -> ModelPool:
        weak = self.config.weak
        if weak.pool_folder is not None:
            return read_pool(weak.pool_folder, self.train)
        shared = {
            "image_size": self.train.image_size, "key": self.key / "squeeze", "device": self.device,
            "cache_folder": cache_folder(), "flip": self.flip, "accelerator": self.accelerator,
            "dataset": hub_dataset(self.splits.info.id) or "",
        }  # fmt: skip
        sources = (self.train, self.splits.test)
        if weak.weak:
            return weak_pool(self.config.squeeze, weak, *sources, policy=self.synthesis_policy(), **shared)
        return squeeze(self.config.squeeze, *sources, **shared)

    def prepare(self) -> Context:
        """All that synthesis needs: the observers and the statistics of the real data in them, where it has any."""
        context = self.context
        if not self.method.info.pool:
            return context
        context.observers = self.squeeze().observers(self.config.squeeze.observers)
        for member in context.observers:
            member.model.to(self.device).freeze()
        context.statistics = self._statistics(self.stages()["statistics"], context)
        return context

    def condense(self) -> Synthetic:
        """The synthetic images; returns them with their labels and what they started from."""
        context, stage = self.prepare(), self.stages()["condense"]

        def tell(values: dict[str, float], step: int) -> None:
            self.accelerator.log({f"synthesis/{k}": v for k, v in values.items()}, step)
            stage.tick()

        engine = Engine(
            self.accelerator, self.folder, self.config.run.checkpoint_every, on_log=tell,
            on_snapshot=report.snapshot(self.folder / "pictures", self.train.class_names),
        )  # fmt: skip
        with self._stage(stage):
            return engine.run(self.method, context)

    @cached_property
    def synthetic(self) -> Synthetic:
        """What `condense` gives, made or read once."""
        return self.condense()

    def _statistics(self, stage: Stage, context: Context) -> list[RealStatistics] | None:
        request = self.method.statistics(context)
        if request is None:
            return None
        paths = [stage.folder / f"{i:02d}.safetensors" for i in range(len(context.observers))]
        with self._stage(stage) as work:
            if work:
                write_statistics(
                    paths, context.observers.models, self.train, request.policy, request.patch, self.key / "statistics",
                    self.device, mode=request.mode, kinds=request.kinds, accelerator=self.accelerator,
                )  # fmt: skip
        return [RealStatistics.load(path) for path in paths]

    def relabel(self) -> ImageSet:
        """Soft labels for the condensed images: one each, and those of every view where they are stored."""
        synthetic = self.synthetic
        own = ImageSet(synthetic.images, synthetic.labels, **how_made(self))
        if not self.labelled:
            return own
        if not self.method.info.pool:
            self.squeeze()
        stage, settings, teacher = self.stages()["relabel"], label_settings(self), self.teacher()
        views = stage.folder / "views"
        with self._stage(stage) as work:
            if work and self.accelerator.is_main_process:
                soft = teacher.soft_labels(synthetic.images, self.device)
                save_tensors(stage.folder / "soft_labels.safetensors", {"soft_labels": soft})
            if work and settings["store"] != "none":
                with Progress("labels", settings["epochs"], show=self.accelerator.is_main_process) as progress:
                    write_store(
                        views, synthetic.images, synthetic.labels, teacher, self.policy,
                        self.key / "students" / "labels", settings["epochs"], settings["batch"], self.device,
                        form=store_format(self.config.labels, self.student_protocol.softening),
                        limit=settings["limit"], accelerator=self.accelerator, progress=progress,
                        formation_factor=own.formation_factor,
                    )  # fmt: skip
        own.store = LabelStore.open(views, synthetic.images) if settings["store"] != "none" else None
        return own

    def teacher(self) -> Ensemble | None:
        """The networks that make soft labels, frozen on the device; None where no regime needs them."""
        if not self.labelled:
            return None
        models = [m.model.to(self.device).freeze() for m in self.teachers(self.members())]
        return Ensemble.for_protocol(models, self.student_protocol, self.config.run.precision)

    def teachers(self, pool: ModelPool) -> ModelPool:
        """Those of the pool that make soft labels."""
        return pool.teachers(self.config.squeeze.teachers, self.config.weak.label_source)

    @property
    def student_protocol(self) -> Protocol:
        """The protocol as it is for the first student, whose views and labels are published."""
        return self.protocol.resolve(self.config.evaluation.students[0], self.config.run.ipc)

    @property
    def policy(self) -> ViewPolicy:
        """Views in which students see the images."""
        return self.student_protocol.policy(self.train.image_size, self.flip)

    def evaluate(self) -> ScoreTable:
        """Students from scratch on every row, label regime and seed."""
        return self._score(self.relabel())

    def _score(self, own: ImageSet) -> ScoreTable:
        stage, test, evaluation = self.stages()["evaluate"], self.splits.test, self.config.evaluation
        with self._stage(stage):
            return score(
                scored_rows(self, own), protocol=self.protocol, students=evaluation.students, regimes=evaluation.regimes,
                seeds=evaluation.student_seeds, ipc=self.shown_ipc, teacher=self.teacher(),
                test_images=test.decoded(), test_labels=torch.from_numpy(test.labels), test_digest=test.fingerprint,
                num_classes=self.train.num_classes, image_size=self.train.image_size, flip=self.flip,
                mean=self.train.mean, std=self.train.std, key=self.key / "students", device=self.device,
                label_settings=self.config.labels, scores_folder=stage.folder, accelerator=self.accelerator,
                whitening=self.whitening,
            )  # fmt: skip

    def pictured(self) -> dict[str, torch.Tensor]:
        """A few images of up to ten classes, before and after: name of the row -> uint8 images."""
        made = self.synthetic
        rows = [
            i for c in range(min(10, self.train.num_classes)) for i in torch.where(made.labels == c)[0][:2].tolist()
        ]
        return {"first images": made.initial[rows], self.config.run.method: made.images[rows]}

    def stage_facts(self) -> dict[str, dict[str, Any]]:
        """Stage -> seconds and peak_bytes, of those that are done."""
        stages = self.stages()
        return {name: stage.facts() for name, stage in stages.items() if (stage.folder / "stage.json").exists()}

    def members(self) -> ModelPool:
        """The networks of the run, as they were kept; none where it needs none."""
        return ModelPool.load(self.folder / POOL) if self.needs_pool else ModelPool([])

    def publish(self, own: ImageSet, table: ScoreTable) -> Path:
        """Writes `dataset/`, the folder that is the Hub repository."""
        write_artefact(self.folder / "dataset", gather_artefact(self, own, table))
        return self.folder / "dataset"

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        public: bool = False,
        create_pr: bool = False,
        revision: str | None = None,
        dry_run: bool = False,
        push_models: bool = False,
    ) -> Pushed:
        """Publishes `dataset/` of the finished run in one commit; see `hub.push.push` for arguments and errors."""
        return push(
            self.folder, repo_id, private=private, public=public, create_pr=create_pr, revision=revision,
            dry_run=dry_run, push_models=push_models,
        )  # fmt: skip

    def run(self) -> Path:
        """All stages; returns the folder that `load_dataset` reads, and prints scores, costs and what to look at.

        With `push_to_hub` the folder is published too; what would stop that is said before the work.
        """
        run = self.config.run
        if run.push_to_hub:
            ready_to_push(self)
        estimate.announce(self)
        own = self.relabel()
        table = self._score(own)
        if self.accelerator.is_main_process:
            report.finish(self, table, self.publish(own, table))
            if run.push_to_hub:
                print(self.push_to_hub(run.push_to_hub, push_models=run.push_models).text())
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return self.folder / "dataset"
