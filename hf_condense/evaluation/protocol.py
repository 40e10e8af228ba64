"""A protocol: a named, immutable recipe by which students are trained and scored."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from hf_condense.config import check, check_choices
from hf_condense.errors import ConfigError

if TYPE_CHECKING:
    from hf_condense.data.augmentation import ViewPolicy
    from hf_condense.data.siamese import SiamesePolicy
    from hf_condense.models.training import FitRecipe


@dataclass(frozen=True)
class Case:
    """Values of a protocol that hold only for some students (patterns of their names) or some IPC."""

    changes: dict[str, Any]
    students: tuple[str, ...] = ()
    ipc: tuple[int, ...] = ()

    def fits(self, student: str, ipc: int) -> bool:
        short = student.rsplit("/", 1)[-1].lower()
        return (not self.ipc or ipc in self.ipc) and (
            not self.students or any(fnmatch.fnmatchcase(short, pattern) for pattern in self.students)
        )


@dataclass(frozen=True)
class Protocol:
    """How a student is trained and scored.

    Args:
        name: what it is called; changed values are added to it.
        citation: paper or repository it is from.
        note: where it departs from its source, or its sources from each other.
        epochs: passes over the set. None where `steps` says how long training is.
        steps: optimiser steps whatever the size of the set.
        batch: images for one optimiser step; never more than the set has.
        accumulation: forward passes that the batch is cut into, where it has soft labels.
        optimizer, lr, momentum, betas, weight_decay, decay_all: as in `FitRecipe`.
        schedule, schedule_params, warmup_epochs, warmup_factor: the rate, set once an epoch.
        ema: rate of the averaged weights that are scored; None scores the weights themselves.
        regime: the label regime that its source uses.
        average: how its source averages several teachers.
        teacher_bn: statistics that the teacher's batch norms use; "batch" makes labels depend on the batch, or on the
            part of it that the student is given (`accumulation`).
        loss: against soft labels; against hard labels it is always cross-entropy, weighted by area where mixed.
        temperature, temperature_squared: of "kl" and "soft_ce".
        gamma: weight of hard, un-mixed labels in "mse_gt" (their cross-entropy) and in "gift" (their length).
        label_smoothing: of hard labels in "gift" and in the epochs of `hard_share`.
        hard_share: share of the epochs, in the middle of the training, that see hard labels and new views instead of
            soft labels; a store then needs only the others.
        restart, reset_between: as in `FitRecipe`.
        crop, ratio, pad, flip, shuffle, tiles, tile_share, rand_augment, mix, mix_alpha, mix_probability: as in
            `ViewPolicy`.
        siamese: families of `SiamesePolicy` that training batches go through, on normalised pixels, before mixing; the
            family is drawn for each batch, its numbers for each image. Labels of views cannot be stored for them.
        siamese_mode: "single" or "combined" families.
        siamese_params: other values of `SiamesePolicy`, where they are not the usual ones.
        val_resize: "8/7" resizes test images to side S//7*8 and crops the centre (256 to 224); "none" takes them whole.
        best_every, best_from: the column "best over the test set" is taken every `best_every` epochs
            (0: never), after this share of the training.
        bn_double_update: an extra forward pass a step, without gradient, as RDED's script has it.
        label_per: what stored labels belong to: a "view" (a label store), or an "image", whatever its view.
        learned_rate: whether students take the learning rates that were learned with the set, where it has some.
        zca: whether students see whitened pixels (`data.whitening`) instead of normalised ones.
        mode: how a set that was made in stages is gone through: "cumulative" trains in each stage on all images up to
            it, "new_only" on its own images, "last_only" once on all, as on any other set.
        stage_epochs: passes in each stage. Where not said as many as show the student as many images in all as
            `epochs` passes over the whole set would (2 `epochs` / (P + 1) of P equal stages), or come nearest to `steps`.
        cases: values for some students or IPC; later ones win.
    """

    name: str
    citation: str
    note: str = ""
    epochs: int | None = None
    steps: int | None = None
    batch: int | None = None
    accumulation: int = 1
    optimizer: Literal["sgd", "adamw", "adam"] = "adamw"
    lr: float | None = None
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    decay_all: bool = False
    schedule: str = "cosine"
    schedule_params: dict[str, Any] = field(default_factory=dict)
    warmup_epochs: int = 0
    warmup_factor: float = 0.01
    restart: bool = False
    ema: float | None = None
    regime: Literal["hard", "stored", "online"] = "stored"
    average: Literal["logits", "probabilities", "normalised"] = "logits"
    teacher_bn: Literal["running", "batch"] = "running"
    loss: Literal["kl", "mse_gt", "gift", "soft_ce", "ce"] = "kl"
    temperature: float = 20.0
    temperature_squared: bool = False
    gamma: float = 0.0
    label_smoothing: float = 0.0
    hard_share: float = 0.0
    crop: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 0
    flip: float = 0.5
    shuffle: int = 1
    tiles: int = 1
    tile_share: float = 1.0
    rand_augment: tuple[int, int] | None = None
    mix: Literal["none", "cutmix", "mixup"] = "cutmix"
    mix_alpha: float = 1.0
    mix_probability: float = 1.0
    siamese: tuple[str, ...] = ()
    siamese_mode: Literal["single", "combined"] = "single"
    siamese_params: dict[str, Any] = field(default_factory=dict)
    val_resize: Literal["none", "8/7"] = "none"
    best_every: int = 10
    best_from: float = 0.0
    bn_double_update: bool = False
    label_per: Literal["view", "image"] = "view"
    learned_rate: bool = False
    zca: bool = False
    mode: Literal["cumulative", "new_only", "last_only"] = "cumulative"
    stage_epochs: int | None = None
    reset_between: bool = False
    cases: tuple[Case, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)
        known = {f.name for f in fields(self)}
        for name in (name for case in self.cases for name in case.changes):
            check(name in known, "protocol case", name, ", ".join(sorted(known)))
        check(self.batch is None or self.batch >= 1, "batch", self.batch, "1 or more images")
        check(self.accumulation >= 1, "accumulation", self.accumulation, "1 or more")
        check(self.batch is None or self.accumulation <= self.batch, "accumulation", self.accumulation, "up to batch")
        check(0 <= self.best_from < 1, "best_from", self.best_from, "a share below 1")
        check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "a share below 1")
        check(0 <= self.hard_share < 1, "hard_share", self.hard_share, "a share below 1")
        # a part of a mixed batch has lost its partners' classes
        check(not self.hard_share or self.accumulation == 1, "accumulation", self.accumulation, "1 with hard_share")
        for name in ("epochs", "steps", "stage_epochs"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "1 or more")

    def resolve(self, student: str, ipc: int) -> Protocol:
        """The protocol with its cases applied and gone.

        Raises:
            ConfigError: its source gives no value for this student or IPC.
        """
        changes: dict[str, Any] = {}
        for case in self.cases:
            if case.fits(student, ipc):
                changes |= case.changes
        resolved = replace(self, **changes, cases=())
        for name, given, why in (("lr", resolved.lr, student), ("batch", resolved.batch, f"ipc {ipc}")):
            if given is None:
                raise ConfigError(
                    f"protocol {self.name}",
                    f"{name} for {why}",
                    "what its source lists",
                    f"give one yourself: get_protocol({self.name!r}, {name}=...)",
                )
        if (resolved.epochs is None) == (resolved.steps is None):
            raise ConfigError(f"protocol {self.name}", "epochs and steps", "one of the two", "set the other to None")
        return resolved

    def batch_size(self, images: int) -> int:
        """Images a step for a set of this size. Needs a resolved protocol."""
        return min(self.batch, images)

    def duration(self, images: int) -> tuple[int, int | None]:
        """(epochs, most steps an epoch or None) for a set of this size.

        With `steps`, an epoch is a pass, but not much more than a fiftieth of the training: the schedule keeps its
        shape even where one pass is longer than all steps together.
        """
        if self.steps is None:
            return self.epochs, None
        limit = min(math.ceil(images / self.batch_size(images)), max(10, self.steps // 50), self.steps)
        return max(1, round(self.steps / limit)), limit

    @property
    def label_parts(self) -> int:
        """Parts of a batch that a teacher labels each by itself: those that a student is given, where labels depend on
        the batch."""
        return self.accumulation if self.teacher_bn == "batch" or self.average == "normalised" else 1

    def hard_epochs(self, epochs: int) -> range:
        """Those of a training on soft labels that see hard ones instead; as many soft ones before as after (HALD)."""
        hard = round(self.hard_share * epochs)
        first = (epochs - hard) // 2
        return range(first, first + hard)

    def soft_epochs(self, images: int) -> int:
        """Epochs that see soft labels on a set of this size, which is how many a store needs."""
        epochs = self.duration(images)[0]
        return epochs - len(self.hard_epochs(epochs))

    @property
    def softening(self) -> float | None:
        """The temperature at which students soften labels; None where their loss compares logits."""
        return self.temperature if self.loss in ("kl", "soft_ce") else None

    def staged(self, sizes: Sequence[int]) -> Protocol:
        """The protocol for a training in stages that see `sizes` images: `epochs` is then the length of each of them.

        Needs a resolved protocol; one stage is no staged training.

        Raises:
            ConfigError: the protocol changes from soft to hard labels within a training.
        """
        if len(sizes) == 1:
            return self
        check(not self.hard_share, "hard_share", self.hard_share, "0 for a set that was made in stages")
        every = sizes[-1] if self.mode == "cumulative" else sum(sizes)
        if self.steps is None:
            epochs = self.epochs * every // sum(sizes)
        else:
            epochs = round(self.steps / sum(math.ceil(size / self.batch_size(size)) for size in sizes))
        return replace(self, epochs=self.stage_epochs or max(1, epochs), steps=None)

    def base_rates(self, learned: Sequence[float] | None, stages: int = 1) -> tuple[float, ...]:
        """The base rate of each stage of the training: the learned ones where it takes them, else its own."""
        if not (self.learned_rate and learned):
            return (self.lr,) * stages
        check(stages in (1, len(learned)), "rates", len(learned), f"a learned rate for each of {stages} stages")
        return tuple(learned)[-stages:]

    def fit_recipe(
        self, student: str, ipc: int, images: int, precision: str = "fp32", rates: Sequence[float] | None = None
    ) -> FitRecipe:
        """The recipe for `models.training.fit` on a set of `images` images; `rates`: the base rate of each stage."""
        from hf_condense.models.training import FitRecipe

        p = self.resolve(student, ipc)
        rates = tuple(rates or (p.lr,))
        stages = {"rates": rates, "reset_between": p.reset_between} if len(rates) > 1 else {}
        return FitRecipe(
            epochs=p.duration(images)[0] * len(rates),
            optimizer=p.optimizer,
            lr=rates[0],
            momentum=p.momentum,
            betas=tuple(p.betas),
            weight_decay=p.weight_decay,
            decay_all=p.decay_all,
            schedule=p.schedule,
            schedule_params=dict(p.schedule_params),
            warmup_epochs=p.warmup_epochs,
            warmup_factor=p.warmup_factor,
            restart=p.restart,
            ema=p.ema,
            accumulation=p.accumulation,
            precision=precision,
            **stages,
        )

    def policy(self, image_size: int, flip: bool = True) -> ViewPolicy:
        """How its training views are drawn, at this output side. `flip=False` leaves flips out (digits, letters)."""
        from hf_condense.data.augmentation import ViewPolicy

        return ViewPolicy(
            size=image_size,
            crop=self.crop,
            ratio=self.ratio,
            flip=self.flip if flip else 0.0,
            pad=self.pad,
            shuffle=self.shuffle,
            tiles=self.tiles,
            tile_share=self.tile_share,
            rand_augment=self.rand_augment,
            mix=self.mix,
            mix_alpha=self.mix_alpha,
            mix_probability=self.mix_probability,
        )

    def siamese_policy(self, flip: bool = True) -> SiamesePolicy | None:
        """The families that training batches go through, or None. `flip=False` leaves mirroring out."""
        from hf_condense.data.siamese import SiamesePolicy

        families = tuple(f for f in self.siamese if flip or f != "flip")
        if not families:
            return None
        return SiamesePolicy(families, self.siamese_mode, **{"family_per": "call"} | self.siamese_params)

    def check_regime(self, regime: str, staged: bool = False) -> None:
        """Raises ConfigError for labels that this protocol cannot train with; `staged`: on a set made in stages."""
        check(regime in ("hard", "stored", "online"), "regimes", regime, "hard, stored, online")
        check(
            regime != "stored" or not self.siamese or self.label_per == "image",
            "regimes",
            regime,
            f"hard or online: protocol {self.name} augments batches in a way that a label store does not record",
            "--regimes hard",
        )
        check(
            regime != "stored" or not staged or self.label_per == "image",
            "regimes",
            regime,
            "hard or online: a label store does not know the stages of the set",
            "--regimes hard,online",
        )


# for a first look and for short runs. It ends so early that all real images score no higher than ten a class with soft
# labels, so that it cannot tell methods apart: COMPARE does
SMALL = Protocol(
    name="small",
    citation="",
    note="ours, for small machines: 500 steps whatever the IPC, so that sets of different size get equal training",
    steps=500,
    batch=25,
    lr=5e-3,
    schedule="smoothing",
    schedule_params={"zeta": 2.0},
    ema=0.99,
    loss="mse_gt",
    gamma=0.025,
    crop=(0.5, 1.0),
    best_every=0,
)

# standard crops and flips: under views that are cut small and mixed, soft labels alone bring ten images a class near all
COMPARE = replace(
    SMALL,
    name="compare",
    note="ours, to compare methods on small machines: steps whatever the IPC, enough for all real images to stand far above "
    "ten a class with the same labels",
    steps=2000,
    crop=None,
    pad=4,
    mix="none",
)
