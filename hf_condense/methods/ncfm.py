"""NCFM: characteristic functions of features, in networks between untrained and trained (arXiv:2502.20653), without its sampling network."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from hf_condense.config import check, check_choices, setting
from hf_condense.data.siamese import FAMILIES, SiamesePolicy
from hf_condense.methods.base import Context
from hf_condense.methods.dm import CLASSES, DM
from hf_condense.methods.experts import experts_of
from hf_condense.methods.formations import tiles_of_random
from hf_condense.methods.matching_family import CLASSIC, DSA_FAMILIES
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.models.expert_training import ExpertRecipe
from hf_condense.models.interpolated import InterpolatedNetworks
from hf_condense.models.made_up_experts import MadeUpExperts
from hf_condense.objectives.characteristic import Characteristic, CharacteristicMatching
from hf_condense.plan import Recipe, SetSpec, Shard, Start
from hf_condense.selection.paired import PairedViews

if TYPE_CHECKING:
    from hf_condense.plan import Synthetic

SUBSETS = (
    "imagenette",
    "imagewoof",
    "imagefruit",
    "imagemeow",
    "imagesquawk",
    "imageyellow",
)  # of ImageNet, at 128 pixels


@dataclass(frozen=True)
class NCFMSettings:
    """Settings of NCFM; defaults are those of the official script, whose published settings all leave the sampling network out."""

    iterations: int = setting(20000, "optimiser steps, each with a network of its own", quick=20)
    lr: float = setting(0.01, "Adam's learning rate of unit pixels, without decay")
    formation_factor: int = setting(2, "training images per side of a stored one (f): f squared in each", quick=2)
    real_batch: int = setting(1024, "real images of a class in each step", quick=64)
    frequencies: int = setting(4096, "at which characteristic functions are compared, new ones each step", quick=256)
    amplitude: float = setting(0.5, "weight of the difference in amplitude")
    phase: float = setting(0.5, "weight of the difference in phase; equal weights compare the functions themselves")
    match_scale: float = setting(300.0, "weight of matching beside cross-entropy")
    calibration: float = setting(
        1.0, "weight of cross-entropy under the trained end of the step's network; 0 leaves it out"
    )
    families: tuple[str, ...] = setting(
        ("color", "crop", "cutout"), "augmentation that real and synthetic images share; flip only where it is allowed"
    )
    classes_per_shard: int | None = setting(
        None,
        f"classes that go through a network together, a shard; processes take shards in turn; defaults to {CLASSES}, and "
        "to all for networks with batch norms",
    )
    trainings: int = setting(20, "networks trained on the real images", quick=2)
    network_epochs: int = setting(60, "epochs of each", quick=2)
    network_lr: float = setting(0.01, "learning rate of these: SGD")
    network_batch: int = setting(128, "batch size of these")
    network_families: tuple[str, ...] = setting(
        DSA_FAMILIES, "augmentation of these, one for each batch; flip only where it is allowed"
    )
    network_folder: str | None = setting(
        None, "take the networks of this folder of experts; later stages of PDD train their own"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type in ("int", "int | None"):
                check(value is None or value >= 1, f.name, value, "1 or more")
        for name in ("lr", "network_lr", "match_scale"):
            check(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("amplitude", "phase", "calibration"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        check(self.amplitude + self.phase > 0, "phase", self.phase, "above 0, or an --amplitude above 0")
        for name in ("families", "network_families"):
            wrong = set(getattr(self, name)) - set(FAMILIES)
            check(not wrong, name, ", ".join(sorted(wrong)), f"of {', '.join(FAMILIES)}, or nothing")


class NCFM(DM):
    """Shards of whole classes, as of DM: the networks and frequencies of a step are the same for all of them."""

    name, VERSION = "ncfm", 2  # 2: as 4 of DM
    Settings = NCFMSettings

    @property
    def real_images_each(self) -> int:
        return self.formation_factor**2

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> ExpertBuffer | None:
        """Trainings of networks, which begin as those of the context do."""
        if shard.kind == "start":
            return None
        s = self.settings
        families = tuple(f for f in s.network_families if f != "flip" or context.flip)
        recipe = ExpertRecipe(s.network_epochs, s.network_lr, 0.9, 5e-4, s.network_batch, families)
        return experts_of(context, recipe, s.trainings, s.network_folder)

    def stand_in(self, shard: Shard, context: Context) -> MadeUpExperts:
        return MadeUpExperts.of(context.fresh(context.key), self.settings.network_epochs)

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        """Tiles of random real images, scaled down to the nearest pixel."""
        return tiles_of_random(shard, context, self.formation_factor, self.fewer)

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        """One step for all classes; the script steps after each class, so that Adam moves and decays the others meanwhile."""
        s = self.settings
        return Recipe(s.iterations, s.lr, betas=(0.9, 0.999), schedule="constant", space="unit", clamp_every=1)

    def objective(self, context: Context, ready: ExpertBuffer | None = None) -> CharacteristicMatching:
        s = self.settings
        networks = InterpolatedNetworks(context.fresh.numbered(0, context.key / "experts"), ready)
        return CharacteristicMatching(
            networks,
            self.views(context),
            context.key,
            s.real_batch,
            context.precision,
            Characteristic(s.frequencies, s.amplitude, s.phase, s.match_scale, s.calibration),
            s.formation_factor,
        )

    def views(self, context: Context) -> PairedViews:
        families = tuple(f for f in self.settings.families if f != "flip" or context.flip)
        policy = SiamesePolicy(families, mode="combined") if families else None
        return PairedViews(context.train, policy, context.device)

    def images_before(self, real: int) -> float:
        return 0.0 if self.settings.network_folder else self.settings.trainings * self.settings.network_epochs * real

    @property
    def network_count(self) -> int:
        return self.settings.trainings

    def protocol(self, dataset: str) -> str:
        if dataset == "tiny-imagenet":
            return "ncfm-tiny-imagenet"
        return "ncfm" if dataset in (*CLASSIC, *SUBSETS) else "small"
