"""Settings of PDD's stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_condense.config import check, check_choices, setting
from hf_condense.methods.wrapping import check_base


@dataclass(frozen=True)
class PDDSettings:
    """Settings of the stages; those of the base method stand beside them, for the images of one stage."""

    base_method: str = setting("mtt", "method that makes the images of each stage")
    stages: int = setting(5, "stages (P), each of which makes ipc / P images a class")
    chains: int | None = setting(
        None,
        "networks that are trained on stage after stage: as many as the base method's experts or its pool's "
        "observers, or 20, where not said; 0 trains a new one for each network that the base method draws",
        quick=2,
    )
    chain_epochs: int | None = setting(
        None, "epochs of a chain on each stage's union; a student's where not said", quick=10
    )
    tune_epochs: int = setting(1, "epochs on real data of chains that become observers (bases with a pool)")
    tune_lr: float = setting(0.005, "learning rate of these")
    missed_weight: float = setting(
        1.0, "how much more often a real image that the chains miss is drawn and counted (bases with a pool)"
    )
    discard: Literal["none", "drop_easy", "band"] = setting(
        "none", "real images of later stages: all, without the easy ones (forgotten seldom), or only a band of them"
    )
    discard_interval: int = setting(10, "how many more times an image must have been forgotten from stage to stage")
    discard_epochs: int = setting(200, "epochs of the training in which forgetting is counted", quick=3)

    def __post_init__(self) -> None:
        check_choices(self)
        check_base(self.base_method)
        for name in ("stages", "discard_interval", "discard_epochs"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("chains", "tune_epochs", "missed_weight"):
            value = getattr(self, name)
            check(value is None or value >= 0, name, value, "0 or more")
        check(self.chain_epochs is None or self.chain_epochs >= 1, "chain_epochs", self.chain_epochs, "1 or more")
        check(self.tune_lr > 0, "tune_lr", self.tune_lr, "above 0")
