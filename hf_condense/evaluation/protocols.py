"""Protocols: named, immutable student recipes. The published ones stand in `published.py`, ours here.

A score means something only beside others of the same protocol: batch size or schedule alone move accuracy by more
than most methods do.
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from hf_condense.config import check, check_choices, nearest
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
        accumulation: forward passes that the batch is cut into.
        optimizer, lr, momentum, betas, weight_decay, decay_all: as in `FitRecipe`.
        schedule, schedule_params, warmup_epochs, warmup_factor: the rate, set once an epoch.
        ema: rate of the averaged weights that are scored; None scores the weights themselves.
        regime: the label regime that its source uses.
        average: how its source averages several teachers.
        teacher_bn: statistics that the teacher's batch norms use; "batch" makes labels depend on the batch.
        loss: against soft labels; against hard labels it is always cross-entropy, weighted by area where mixed.
        temperature, temperature_squared: of "kl" and "soft_ce".
        gamma: weight of the cross-entropy to hard, un-mixed labels in "mse_gt".
        restart: as in `FitRecipe`.
        crop, ratio, pad, flip, shuffle, rand_augment, mix, mix_alpha, mix_probability: as in `ViewPolicy`.
        siamese: families of `SiamesePolicy` that training batches go through, on normalised pixels, before mixing; the
            family is drawn for each batch, its numbers for each image. Labels cannot be stored for them.
        siamese_mode: "single" or "combined" families.
        siamese_params: other values of `SiamesePolicy`, where they are not the usual ones.
        val_resize: "8/7" resizes test images to side S//7*8 and crops the centre (256 to 224); "none" takes them whole.
        best_every, best_from: the extra column "best over the test set" looks every so many epochs (0: never), after
            this share of the training.
        bn_double_update: an extra forward pass a step, without gradient, as RDED's script has it.
        seeds: students a row.
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
    loss: Literal["kl", "mse_gt", "soft_ce", "ce"] = "kl"
    temperature: float = 20.0
    temperature_squared: bool = False
    gamma: float = 0.0
    crop: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 0
    flip: float = 0.5
    shuffle: int = 1
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
    seeds: int = 3
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
        for name in ("epochs", "steps"):
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
                    f"protocol {self.name}", f"{name} for {why}", "what its source lists",
                    f"give one yourself: get_protocol({self.name!r}, {name}=...)",
                )  # fmt: skip
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

    def fit_recipe(self, student: str, ipc: int, images: int, precision: str = "fp32") -> FitRecipe:
        """The recipe for `models.training.fit` on a set of `images` images."""
        from hf_condense.models.training import FitRecipe

        p = self.resolve(student, ipc)
        return FitRecipe(
            epochs=p.duration(images)[0], optimizer=p.optimizer, lr=p.lr, momentum=p.momentum, betas=tuple(p.betas),
            weight_decay=p.weight_decay, decay_all=p.decay_all, schedule=p.schedule,
            schedule_params=dict(p.schedule_params), warmup_epochs=p.warmup_epochs, warmup_factor=p.warmup_factor,
            restart=p.restart, ema=p.ema, accumulation=p.accumulation, precision=precision,
        )  # fmt: skip

    def policy(self, image_size: int, flip: bool = True) -> ViewPolicy:
        """How its training views are drawn, at this output side. `flip=False` leaves flips out (digits, letters)."""
        from hf_condense.data.augmentation import ViewPolicy

        return ViewPolicy(
            size=image_size, crop=self.crop, ratio=self.ratio, flip=self.flip if flip else 0.0, pad=self.pad,
            shuffle=self.shuffle, rand_augment=self.rand_augment, mix=self.mix, mix_alpha=self.mix_alpha,
            mix_probability=self.mix_probability,
        )  # fmt: skip

    def siamese_policy(self, flip: bool = True) -> SiamesePolicy | None:
        """The families that training batches go through, or None. `flip=False` leaves mirroring out."""
        from hf_condense.data.siamese import SiamesePolicy

        families = tuple(f for f in self.siamese if flip or f != "flip")
        if not families:
            return None
        return SiamesePolicy(families, self.siamese_mode, **{"family_per": "call"} | self.siamese_params)

    def check_regime(self, regime: str) -> None:
        """Raises ConfigError for labels that this protocol cannot train with."""
        check(regime in ("hard", "stored", "online"), "regimes", regime, "hard, stored, online")
        check(
            regime != "stored" or not self.siamese, "regimes", regime,
            f"hard or online: protocol {self.name} augments batches in a way that a label store does not record",
            "--regimes hard",
        )  # fmt: skip


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


def _protocols() -> dict[str, Protocol]:
    from hf_condense.evaluation.published import PUBLISHED

    return {p.name: p for p in (SMALL, *PUBLISHED)}


def list_protocols() -> list[str]:
    """Names of all protocols."""
    return list(_protocols())


def get_protocol(name: str, **changes: Any) -> Protocol:
    """The protocol of that name, with values changed; the change is then part of its name.

    A change holds for every student and IPC. `epochs` replaces `steps` and the other way round.

    Raises:
        ConfigError: unknown protocol, or a value that it does not have.
    """
    known = _protocols()
    if name not in known:
        raise ConfigError("protocol", name, "a protocol", nearest(name, list(known)))
    protocol = known[name]
    allowed = {f.name for f in fields(Protocol)} - {"name", "cases"}
    for change in changes:
        check(change in allowed, "protocol value", change, "a value of a protocol", nearest(change, sorted(allowed)))
    if not changes:
        return protocol
    spelled = ", ".join(f"{k}={v}" for k, v in sorted(changes.items()))
    if changes.get("epochs") is not None:
        changes.setdefault("steps", None)
    if changes.get("steps") is not None:
        changes.setdefault("epochs", None)
    cases = (replace(c, changes={k: v for k, v in c.changes.items() if k not in changes}) for c in protocol.cases)
    return replace(protocol, **changes, name=f"{name} ({spelled})", cases=tuple(c for c in cases if c.changes))
