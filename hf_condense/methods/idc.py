"""IDC: several training images in a stored one (arXiv:2205.14959); DREAM: representative images (arXiv:2302.14416)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_condense.config import check, setting
from hf_condense.data.crops import centre
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import SiamesePolicy
from hf_condense.methods.base import Context, Method
from hf_condense.objectives.formation_matching import FormationMatching
from hf_condense.objectives.real_training import RealLoop, RealTraining
from hf_condense.objectives.twice import need_twice_differentiable
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start
from hf_condense.selection.centres import medoids
from hf_condense.selection.features import features_of
from hf_condense.selection.noise import grey_noise
from hf_condense.selection.paired import PairedViews
from hf_condense.selection.real import need_images, random_rows
from hf_condense.selection.realism import tile
from hf_condense.selection.sampler import CentresSampler, RandomSampler, Sampler, SamplerSettings

if TYPE_CHECKING:
    from hf_condense.models.image_model import ImageModel

DATASETS = ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "tiny-imagenet", "imagenet-10")  # of the papers


@dataclass(frozen=True)
class IDCSettings(SamplerSettings):
    """Settings of IDC; defaults are those of the official script for CIFAR."""

    iterations: int = setting(2000, "outer iterations", quick=3)
    inner_steps: int = setting(
        100, "image steps of an outer iteration; pixels are put back into [0, 1] after it", quick=5
    )
    fix_iter: int = setting(1, "outer iterations with each network")
    lr: float = setting(5e-3, "SGD's learning rate of unit pixels, for 10 images a class of --lr_side pixels")
    lr_side: int = setting(32, "side of images for which --lr is meant; the rate grows with the square of the side")
    momentum: float = setting(0.5, "SGD's momentum of the images, in steps of one class after another")
    formation_factor: int = setting(2, "training images per side of a stored one (f): f squared in each", quick=2)
    formation: Literal["single", "multi", "bound"] = setting(
        "single",
        "synthesis decodes with this factor (single), with all up to it (multi), or the largest that --syn_batch "
        "allows (bound); students always get single",
    )
    init: Literal["real", "noise", "centres"] = setting(
        "real", "first images: random real ones, noise, or images nearest to k-means centroids of the class"
    )
    distance: Literal["mse", "l1"] = setting("mse", "between gradients, summed over all weights")
    match_fc: bool = setting(False, "match gradients of the classifier too, not of convolution kernels alone")
    match_bias: bool = setting(False, "match gradients of biases and norms too")
    real_batch: int = setting(64, "real images of a class in each step; and the network's own batch size")
    syn_batch: int = setting(128, "most decoded images of a class in each step")
    families: tuple[str, ...] = setting(
        ("color", "crop", "cutout"), "augmentation that real and synthetic images share; flip only where it is allowed"
    )
    network_images: int = setting(2000, "real images that the network is trained on between two steps", quick=100)
    network_lr: float = setting(0.01, "learning rate of that training")
    network_cutmix: float = setting(0.5, "share of its batches that are mixed (CutMix)")
    pretrain_epochs: int = setting(0, "epochs of real data that a network is trained before its first step")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.lr > 0, "lr", self.lr, "above 0")
        check(self.network_lr > 0, "network_lr", self.network_lr, "above 0")
        check(0 <= self.momentum < 1, "momentum", self.momentum, "0 or more and below 1")
        check(0 <= self.network_cutmix <= 1, "network_cutmix", self.network_cutmix, "a share of the batches")
        for name in (
            "iterations",
            "inner_steps",
            "fix_iter",
            "lr_side",
            "formation_factor",
            "syn_batch",
            "network_images",
        ):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(self.pretrain_epochs >= 0, "pretrain_epochs", self.pretrain_epochs, "0 or more")
        if self.families:
            SiamesePolicy(self.families)  # refuses what is no family, and one twice


class IDC(Method):
    """One shard of all images, because all classes share the networks that are trained between the steps."""

    name = "idc"
    Settings = IDCSettings

    @property
    def formation_factor(self) -> int:
        return self.settings.formation_factor

    @property
    def real_images_each(self) -> int:
        return 0 if self.settings.init == "noise" else self.settings.formation_factor**2

    @property
    def fewer(self) -> str:
        return "a smaller --ipc, --formation_factor or --init noise"

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = super().plan(num_classes, ipc)
        rows = tuple(range(len(starts.labels)))
        shard = Shard(f"{self.name}-00000", "optimise", rows, starts.labels)
        return Plan(starts.labels, (*starts.groups, (shard,)), joint=True)

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        s, key, train, size = self.settings, context.key / shard.id, context.train, context.image_size
        if s.init == "noise":
            return Start(grey_noise(train, len(shard.labels), size, key), np.full(len(shard.labels), -1))
        each, c = s.formation_factor**2, shard.labels[0]
        rows, count = train.rows_of(c), len(shard.labels) * each
        need_images(train, len(shard.labels), each, c, self.fewer)
        if s.init == "centres":
            network = context.fresh(context.key / "init").requires_grad_(False)
            features = features_of(network, train, rows, size, context.device, s.cluster_normalised)
            rows = rows[medoids(features, count, key).numpy()]
        else:
            rows = random_rows(train, (c,) * count, key)
        images = centre(train.images(rows), size)
        return Start(tile(images, len(shard.labels), s.formation_factor, size), rows[: len(shard.labels)])

    def check_network(self, network: ImageModel, image_size: int) -> None:
        need_twice_differentiable(network, image_size)

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        """The official script steps after each class, and momentum goes on moving the others meanwhile.

        A class sees its images m^C times slower in momentum, and moved by lr (1 + m + ... + m^(C-1)), from one of its C
        steps to the next. With that rate and momentum, one step for all classes is the same update.
        """
        s = self.settings
        carried = s.momentum**spec.num_classes
        lr = s.lr * (spec.ipc / 10) * (spec.image_size / s.lr_side) ** 2 * (1 - carried) / (1 - s.momentum)
        return Recipe(
            s.iterations * s.inner_steps,
            lr,
            optimizer="sgd",
            momentum=carried,
            schedule="constant",
            space="unit",
            clamp_every=s.inner_steps,
        )

    def objective(self, context: Context, ready: Any = None) -> FormationMatching:
        s, key = self.settings, context.key
        families = tuple(f for f in s.families if f != "flip" or context.flip)
        policy = SiamesePolicy(families, mode="combined") if families else None
        views = PairedViews(context.train, policy, context.device)
        loop = RealLoop(
            s.network_images, s.real_batch, s.network_lr, cutmix=s.network_cutmix, pretrain_epochs=s.pretrain_epochs
        )
        return FormationMatching(
            context.fresh,
            views,
            self.sampler(views, key / "sampler"),
            RealTraining(views, loop, key / "training"),
            steps=s.inner_steps * s.fix_iter,
            factor=s.formation_factor,
            kind=s.formation,
            most=s.syn_batch,
            distance=s.distance,
            fc=s.match_fc,
            bias=s.match_bias,
        )

    def sampler(self, views: PairedViews, key: Key) -> Sampler:
        """Chooses the real images of a step."""
        s = self.settings
        if s.sampler == "centres":
            return CentresSampler(views, key, s)
        return RandomSampler(views.source, s.real_batch, key)

    def protocol(self, dataset: str) -> str:
        return "idc-mnist" if dataset == "mnist" else "idc" if dataset in DATASETS else "small"

    def staged_protocol(self, dataset: str) -> str:
        name = self.protocol(dataset)
        return f"pdd-{name}" if name == "idc" else name


@dataclass(frozen=True)
class DREAMSettings(IDCSettings):
    """Settings of DREAM; defaults are those of the official script for CIFAR."""

    sampler: Literal["random", "centres"] = setting(
        "centres", "real images of a step: random ones, or those nearest to k-means centroids of the class (DREAM)"
    )
    init: Literal["real", "noise", "centres"] = setting(
        "centres", "first images: random real ones, noise, or images nearest to k-means centroids of the class"
    )
    real_batch: int = setting(128, "real images of a class in each step; and the network's own batch size")


class DREAM(IDC):
    """IDC with real images, in synthesis and at the start, that cover the class evenly."""

    name = "dream"
    Settings = DREAMSettings
