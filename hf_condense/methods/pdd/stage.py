"""The context of the base method in one PDD stage, and its preparation of a group of shards."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hf_condense.methods.base import Context
from hf_condense.objectives.union import Frozen


@dataclass(frozen=True)
class StageContext(Context):
    """The context of a stage.

    Args:
        stage: its number, from 1.
        frozen: images of the stages before; None in the first.
        real_rows: rows of the source, where `train` is only a part of it.
    """

    stage: int = 1
    frozen: Frozen | None = None
    real_rows: np.ndarray | None = None

    @classmethod
    def of(cls, context: Context, **stage: Any) -> StageContext:
        """`context` as that of a stage."""
        return cls(**{f.name: getattr(context, f.name) for f in fields(Context)}, **stage)


@dataclass(frozen=True)
class ReadyStage:
    """The context of a stage, and the result of the base method's `ready` in it."""

    context: StageContext
    base: Any = None
