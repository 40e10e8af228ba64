"""CondensationTrainer: from an image dataset to a scored, loadable condensed dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_condense.callbacks import Callback
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.report import ScoreTable
from hf_condense.hub.push import Pushed, push
from hf_condense.labels.teacher import Ensemble
from hf_condense.methods.base import Context, Method
from hf_condense.models.members import ModelPool
from hf_condense.plan import Synthetic
from hf_condense.run import settle
from hf_condense.run.condense import Condense, observed
from hf_condense.run.evaluate import Evaluate
from hf_condense.run.pipeline import Pipeline
from hf_condense.run.publish import publish
from hf_condense.run.record import StageRecord
from hf_condense.run.relabel import condensed_set
from hf_condense.run.squeeze import Squeeze
from hf_condense.run.whole import own_callbacks, run_whole

log = logging.getLogger(__name__)


class CondensationTrainer:
    """Condenses a dataset, stage by stage, into a run folder.

    Args:
        method: name of a method, or a `Method` with settings of your own (`create_method`): all of its settings are then
            the object's, defaults included, and none is a preset's. A run is recorded and resumed by the method's
            name, so a class of your own is registered first (`hf_condense.methods.register`).
        dataset: short name, Hub id, folder, or a `datasets` object.
        callbacks: objects that learn of stages, steps, losses and images, and may stop the run (`Callback`); after those
            that show progress, draw pictures and feed trackers.
        settings: any setting by name, as on the command line: `ipc=10`, `base_model=["convnet_w128"]`,
            `output_dir="runs/mine"`, `config="mine.yaml"`.

    Every stage writes into the run folder and is skipped when it is done; running again resumes. `settled` is the
    frozen `Run`: all that does not change on the way.

    Raises:
        ConfigError, DataError: a setting or the dataset cannot be used as asked.
        callbacks.Stopped: of stages that a callback has stopped; the same run, started again, goes on.
    """

    def __init__(
        self,
        method: str | Method | None = None,
        dataset: Any = None,
        *,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ) -> None:
        self.settled = run = settle.settle(method, dataset, settings)
        self.config, self.folder, self.splits, self.train = run.config, run.folder, run.splits, run.train
        self.method, self.protocol, self.key, self.flip = run.method, run.protocol, run.key, run.flip
        self.accelerator, self.device = run.accelerator, run.device
        self.pipeline = Pipeline(run, [*own_callbacks(run), *callbacks])
        self.pipeline.check_folder()
        settle.announce(run)

    def stages(self) -> dict[str, StageRecord]:
        """Records of the stages that this run uses, by name, in their order."""
        return {record.name: record for record in self.pipeline.records.values()}

    def squeeze(self) -> ModelPool:
        """The pool: trained on the real data, or published weights; top-1 of each on the test images is printed."""
        pool = self.pipeline[Squeeze].pool
        log.info("  %s", pool.table().replace("\n", "\n  "))
        return pool

    def pool(self) -> ModelPool:
        """`squeeze`, and says where the pool is."""
        pool, place = self.squeeze(), self.folder / Squeeze.place / Squeeze.models
        log.info("pool in %s: give it as --pool_folder, or one of its folders as --base_model", place)
        return pool

    def prepare(self) -> Context:
        """All that synthesis needs: the observers and the statistics of the real data in them, where it has any."""
        return observed(self.settled, self.pipeline)

    def condense(self) -> Synthetic:
        """The synthetic images, with their labels and what they started from."""
        return self.pipeline[Condense].synthetic

    def relabel(self) -> ImageSet:
        """The condensed images with soft labels: one each, and those of every view where they are stored."""
        return condensed_set(self.settled, self.pipeline)

    def teacher(self) -> Ensemble | None:
        """The networks that make soft labels; None where no regime needs them."""
        return self.pipeline[Squeeze].teacher if self.settled.labelled else None

    def evaluate(self) -> ScoreTable:
        """Students from scratch on every row, label regime and seed."""
        return self.pipeline[Evaluate]

    def publish(self) -> Path:
        """Writes `dataset/`, the folder that is the Hub repository. Called on all processes."""
        with self.pipeline.owning():
            return publish(self.pipeline)

    def push_to_hub(self, repo_id: str, **options: Any) -> Pushed:
        """Publishes `dataset/` of the finished run in one commit; see `hub.push.push` for options and errors."""
        return push(self.folder, repo_id, **options)

    def run(self) -> Path:
        """All stages; returns the folder that `load_dataset` reads, and prints scores, costs and what to look at.

        With `push_to_hub` the folder is published too; what would stop that is said before the work.
        """
        return run_whole(self.pipeline)
