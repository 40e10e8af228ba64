"""The networks of a later PDD stage, which have learned the images of the stages before (arXiv:2310.06982)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hf_condense.data.cache import cache_folder
from hf_condense.data.formation import decode_set
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.labels.teacher import Ensemble
from hf_condense.methods.base import Method
from hf_condense.methods.pdd.chains import ChainedNetworks, Curriculum, ReplayedNetworks, StageData
from hf_condense.methods.pdd.settings import PDDSettings
from hf_condense.methods.pdd.stage import StageContext
from hf_condense.methods.pdd.stage_observers import observing
from hf_condense.plan import Shard, Synthetic
from hf_condense.processes import Processes

POOL = 20  # chains of bases that train no experts


@dataclass(frozen=True)
class StageNetworks:
    """Replaces or extends the networks of the base method by chains.

    Methods that draw untrained networks, or train experts from them, get chains instead. Those that look through a pool
    get chains as further observers, and the real images that chains miss more often than others. First images are made
    before there are chains, but by methods with a pool, whose first images are real ones that chains miss.

    Args:
        settings: of the stages.
        base: the base method.
        key: names the chains, the same for all stages. Chain k begins as expert k of the first stage.
    """

    settings: PDDSettings
    base: Method
    key: Key

    def put_into(self, context: StageContext, shard: Shard, earlier: Synthetic) -> StageContext:
        """`context` of a later stage with its networks.

        Args:
            shard: the first of the group that is worked on.
            earlier: what the stages before have made.

        Raises:
            ConfigError: `context` has no trainer of students.
        """
        pool = self.base.info.pool
        if shard.kind == "start" and not pool:
            return context
        if context.student_trainer is None:
            raise ConfigError(
                "student_trainer", None, "a trainer of networks as the run's students", "give the context one"
            )
        curriculum = self.curriculum(context, earlier)
        if self.settings.chains == 0 and not pool:
            return replace(context, fresh=ReplayedNetworks(context.fresh, curriculum))
        count = self.settings.chains or len(context.observers or ()) or self.base.network_count or POOL
        processes = Processes(context.accelerator)
        chains = ChainedNetworks(context.fresh, curriculum, count, self.key, cache_folder() / "chains")
        chains.make(processes)
        if not pool:
            return replace(context, fresh=chains)
        return observing(self.settings, self.base.statistics, shard, context, chains, processes)

    def curriculum(self, context: StageContext, earlier: Synthetic) -> Curriculum:
        """The training data of this stage's chains: for each earlier stage the images up to it, with their labels."""
        factor, rates, soft = self.base.formation_factor, earlier.learned.get("lr"), earlier.soft_labels
        stages = []
        for stage in range(1, context.stage):
            images, labels = context.frozen.of_stage(stage)
            decoded, repeated = decode_set(images, labels, factor)
            own = soft[: len(labels)].repeat(factor**2, 1) if soft is not None else None
            stages.append(StageData(decoded, repeated, own, rates[stage - 1] if rates else None))
        return Curriculum(stages, context.student_trainer, self.settings.chain_epochs, _teacher(context))


def _teacher(context: StageContext) -> Ensemble | None:
    """The pool, where there is one: it labels the images for chains as it does for students."""
    if not context.observers:
        return None
    trainer = context.student_trainer
    protocol = trainer.protocol.resolve(context.fresh.name, trainer.ipc)
    return Ensemble.for_protocol([m.model for m in context.observers], protocol, context.precision)
