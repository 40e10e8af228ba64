"""The training that scores of difficulty are read from: its settings, and its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_condense.config import SqueezeSettings, check, setting
from hf_condense.data.cache import cache_folder
from hf_condense.methods.base import Context
from hf_condense.models.real_training import training_policy
from hf_condense.models.training import FitRecipe
from hf_condense.selection.dynamics import Dynamics, training_dynamics


@dataclass(frozen=True)
class WatchedTraining:
    """Settings of a training on the real images whose epochs are recorded."""

    dynamics_model: str | None = setting(
        None, "scores of difficulty: network whose training is watched; defaults to the first base model"
    )
    dynamics_epochs: int = setting(20, "scores of difficulty: epochs that are watched", quick=4)
    dynamics_lr: float = setting(0.05, "learning rate of that training, constant")
    dynamics_batch: int = setting(128, "batch size of that training")

    def __post_init__(self) -> None:
        check(self.dynamics_epochs >= 1, "dynamics_epochs", self.dynamics_epochs, "1 or more")
        check(self.dynamics_lr > 0, "dynamics_lr", self.dynamics_lr, "above 0")
        check(self.dynamics_batch >= 2, "dynamics_batch", self.dynamics_batch, "2 or more")


@dataclass(frozen=True)
class CADWindows(WatchedTraining):
    """Settings of CAD, the compute-aware difficulty of `selection.scores.cad`. J, W and K of its paper are not known."""

    cad_window: int = setting(5, "CAD: epochs whose spread is taken (J)", quick=2)
    cad_band: int = setting(
        5, "CAD: windows that are averaged (W), the last of which ends two epochs before the last", quick=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.cad_window >= 2, "cad_window", self.cad_window, "2 or more")
        check(self.cad_band >= 1, "cad_band", self.cad_band, "1 or more")

    def check_windows(self) -> None:
        """Raises ConfigError where too few epochs are watched for the windows."""
        least = self.cad_window + self.cad_band + 1
        allowed = f"{least} or more, with --cad_window {self.cad_window} and --cad_band {self.cad_band}"
        check(self.dynamics_epochs >= least, "dynamics_epochs", self.dynamics_epochs, allowed)


def watched(settings: Any, context: Context) -> Dynamics:
    """The record of the training, made when it is first asked for and cached; all classes and processes share it.

    Args:
        settings: a `WatchedTraining`.
    """
    train = context.train
    name = settings.dynamics_model or context.fresh.name
    policy = training_policy(SqueezeSettings(), context.image_size, train.stored_size, context.flip)
    return training_dynamics(
        name,
        FitRecipe(settings.dynamics_epochs, settings.dynamics_lr),
        settings.dynamics_batch,
        train,
        policy,
        key=context.key / "dynamics" / name,
        device=context.device,
        cache_folder=cache_folder(),
    )
