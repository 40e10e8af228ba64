"""Experts of a method: trainings of networks that begin as those of its context do."""

from __future__ import annotations

from hf_condense.methods.base import Context
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.models.expert_training import ExpertRecipe
from hf_condense.models.experts import train_experts


def experts_of(context: Context, recipe: ExpertRecipe, count: int, folder: str | None) -> ExpertBuffer:
    """`count` experts on the real images; more of them extend those that there are.

    Args:
        folder: of experts that were trained before, which begin untrained: taken where the networks of the context do.
    """
    return train_experts(
        context.fresh,
        context.train,
        recipe,
        count,
        key=context.key / "experts",
        device=context.device,
        accelerator=context.accelerator,
        folder=folder if context.fresh.untrained else None,
    )
