"""Weak models: one base model, and copies from its training or pruned copies of it that are good but not converged."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_condense.config import SqueezeSettings, WeakPoolSettings, check, check_pool
from hf_condense.data.augmentation import VIEW_VERSION, ViewPolicy
from hf_condense.data.cache import note_use, one_at_a_time
from hf_condense.data.randomness import Key
from hf_condense.errors import ModelError
from hf_condense.files import atomic_path, fingerprint
from hf_condense.models.checkpoints import read_checkpoint
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import architecture_name, load_model
from hf_condense.models.members import ModelPool, PoolMember
from hf_condense.models.networks import means_weights
from hf_condense.models.pool import PoolTraining, copy_place, refuse_chance
from hf_condense.models.real_training import train_on
from hf_condense.models.recalibration import recalibrate
from hf_condense.models.training import FitRecipe
from hf_condense.processes import Processes
from hf_condense.progress import Progress

if TYPE_CHECKING:
    pass

WEAK_VERSION = 1  # raised when the same settings no longer give the same weak models
log = logging.getLogger(__name__)


def weak_pool(
    training: PoolTraining, weak: WeakPoolSettings, policy: ViewPolicy | None = None, accelerator=None
) -> ModelPool:
    """The base model and its weak models (Yu et al., ECCV 2024, arXiv:2410.07579; numbers of this library).

    "prior": copies from the training of the base; where the base has published weights, its architecture is trained
    from scratch for the copies. "post": the base with channels pruned, then tuned for a little while; "prior" where it
    cannot be pruned, which a warning says. All weak models
    get the statistics of their BatchNorms measured again under `policy`; the base is left unchanged.

    Every member is cached by the hash of its inputs, as in `squeeze`; with several processes each is made whole on one
    of them.

    Args:
        training: that of the base model.
        policy: augmentation of the synthesis; that of the squeeze where None.

    Raises:
        ConfigError: more than one base model, or epochs that the training does not have.
        ModelError: as `squeeze`; the base cannot be pruned or trained from scratch; or no weak model is within floor
            and ceiling.
    """
    squeeze, processes = training.settings, Processes(accelerator)
    check_pool(squeeze, weak)
    training = replace(training, progress=training.progress and processes.main)
    weak = _possible(training, weak)
    maker = _Maker(weak, training, policy or training.policy)
    if processes.world > 1:
        if processes.main:
            maker.sources()
        processes.wait()
    base, candidates = maker.sources()
    refuse_chance(base, squeeze.min_top1_over_chance, training.train.num_classes)
    if processes.world > 1:
        for candidate in processes.share(candidates):
            maker.member(candidate, base)
        processes.wait()
    members = [maker.member(candidate, base) for candidate in candidates]
    return ModelPool([base, *_within(members, base, weak, training.progress)])


def _possible(training: PoolTraining, weak: WeakPoolSettings) -> WeakPoolSettings:
    """The settings with early copies in place of pruned ones for a base that cannot be pruned."""
    if weak.pool_kind != "post":
        return weak
    from hf_condense.models.pruning import prune  # slow to import, and seldom needed

    squeeze, size, key = training.settings, training.image_size, training.key
    images, name = replace(training.train.spec, image_size=size), squeeze.base_model[0]
    base = load_model(name, images, pretrained=squeeze.pretrained, key=key / "initial" / name)
    try:
        prune(base, min(weak.ratios), key / "weak", weak.importance_noise, size)
    except ModelError as error:
        if training.progress:
            log.warning("weak models are copies from the training of the base (--pool_kind prior): %s", error)
        return replace(weak, pool_kind="prior")
    return weak


@dataclass(frozen=True)
class _Candidate:
    """A weak model before it is made.

    Args:
        origin: checkpoint that it starts from: the copy of an epoch, or the base.
        draw: number among the candidates with the same ratio, which names the noise of its pruning.
    """

    name: str
    origin: Path
    epoch: int | None = None
    ratio: float | None = None
    draw: int = 0


@dataclass(frozen=True)
class _Maker:
    """Makes the members of the pool.

    Args:
        base: the training of the base model.
        policy: views in which BatchNorm statistics are measured again.
    """

    weak: WeakPoolSettings
    base: PoolTraining
    policy: ViewPolicy

    def sources(self) -> tuple[PoolMember, list[_Candidate]]:
        """The base, trained where it has to be, and the weak models that can be made."""
        training, weak = self.base, self.weak
        squeeze = training.settings
        name = squeeze.base_model[0]
        if weak.pool_kind == "post":
            return training.member(name), self._to_prune(name)
        if _from_scratch(name, squeeze):
            epochs = self._epochs(squeeze.squeeze_epochs - 1)  # after the last epoch it is the base
            return training.member(name, epochs), _early_copies(name, training.place(name), epochs)
        base = training.member(name)
        length = squeeze.squeeze_epochs or max(weak.prior_epochs or (0,))  # published weights bring none
        epochs, origin = self._epochs(length), architecture_name(base.model)
        if origin is None:
            raise ModelError(
                "base_model",
                name,
                "a network of timm or torchvision, which can be trained from scratch",
                "choose one, or weak models by --pool_kind post",
            )
        scratch = replace(training, settings=replace(squeeze, pretrained=False, squeeze_epochs=length))
        scratch.member(origin, epochs)
        return base, _early_copies(name, scratch.place(origin), epochs)

    def _to_prune(self, name: str) -> list[_Candidate]:
        """Copies of the base, which lose channels at each of the ratios in turn."""
        place, ratios = self.base.place(name), self.weak.ratios
        found, drawn = [], {}
        for ratio in (ratios[i % len(ratios)] for i in range(self.weak.pool_size)):
            draw = drawn[ratio] = drawn.get(ratio, -1) + 1
            found.append(_Candidate(f"{name}@pruned{ratio:g}-{draw}", place, ratio=ratio, draw=draw))
        return found

    def _epochs(self, last: int) -> tuple[int, ...]:
        """Epochs of the copies. By default twice as many as members, because some will be left out."""
        said, epochs = self.weak.prior_epochs, self.base.settings.squeeze_epochs
        check(
            last >= 1, "squeeze_epochs", epochs, "2 or more with --pool_kind prior, or --prior_epochs said", "raise it"
        )
        check(
            said is None or said[-1] <= last,
            "prior_epochs",
            said,
            f"1 to {last}",
            "raise --squeeze_epochs, or drop it",
        )
        return said or _spread(range(1, last + 1), 2 * self.weak.pool_size)

    def member(self, candidate: _Candidate, base: PoolMember) -> PoolMember:
        """A weak model, frozen on the device: from the cache when it is there."""
        place = self.base.cache_folder / "models" / self._identity(candidate)
        if not place.exists():
            with one_at_a_time(place):
                if not place.exists():  # made by another run that shares the cache
                    self._make(candidate, base, place)
        weak = PoolMember.load(place)
        note_use(candidate.name, place)
        weak.model.to(self.base.device)
        return weak

    def _make(self, candidate: _Candidate, base: PoolMember, place: Path) -> None:
        """Prunes, tunes and recalibrates as the settings say, measures, and saves in `place`."""
        state, key = place.with_name(place.name + ".fit"), self.base.key / "weak" / candidate.name
        model = read_checkpoint(candidate.origin)
        if candidate.ratio is not None:
            model = self._pruned(model, candidate, key, state)
        if self.weak.recalibrate:
            images = self.weak.recalibration_images
            recalibrate(model, self.base.train, self.policy, key / "recalibration", self.base.device, images)
        model.name = candidate.name
        weak = PoolMember.measured(
            candidate.name,
            model.to(self.base.device).eval(),
            self.base.test,
            self.base.device,
            self.base.image_size,
            epochs=base.epochs if candidate.epoch is None else candidate.epoch,
            license=base.license,
            dataset=self.base.dataset,
            kind=self.weak.pool_kind,
            epoch=candidate.epoch,
            ratio=candidate.ratio,
        )
        with atomic_path(place) as temporary:
            weak.save(temporary)
        shutil.rmtree(state, ignore_errors=True)

    def _pruned(self, model: ImageModel, candidate: _Candidate, key: Key, state: Path) -> ImageModel:
        from hf_condense.models.pruning import prune  # slow to import, and seldom needed

        s, w = self.base.settings, self.weak
        model = prune(model, candidate.ratio, key / "pruning", w.importance_noise, self.base.image_size)
        if w.finetune_epochs:
            recipe = FitRecipe(
                epochs=w.finetune_epochs,
                lr=w.finetune_lr,
                momentum=s.squeeze_momentum,
                weight_decay=s.squeeze_weight_decay,
                schedule="cosine",
            )
            with Progress(f"tune {candidate.name}", w.finetune_epochs, show=self.base.progress) as bar:
                train_on(
                    model,
                    recipe,
                    s.squeeze_batch,
                    self.base.train,
                    self.base.policy,
                    key / "fit",
                    self.base.device,
                    bar,
                    state,
                    remedy="lower --finetune_lr",
                )
        return model

    def _identity(self, candidate: _Candidate) -> str:
        """Hash of all inputs of a weak model; the origin's name is a hash of its inputs."""
        names = ["recalibrate", "recalibration_images"]
        if candidate.ratio is not None:
            names += ["importance_noise", "finetune_epochs", "finetune_lr"]
        own = {k: v for k, v in asdict(self.weak).items() if k in names}
        made = {"name": candidate.name, "ratio": candidate.ratio, "origin": candidate.origin.name}
        return fingerprint([WEAK_VERSION, VIEW_VERSION, made, own, self.policy, str(self.base.key)])


def _early_copies(name: str, place: Path, epochs: Sequence[int]) -> list[_Candidate]:
    """Copies from the training of the network in `place`, by the epochs that it had."""
    return [_Candidate(f"{name}@epoch{e}", copy_place(place, e), epoch=e) for e in epochs]


def _from_scratch(name: str, settings: SqueezeSettings) -> bool:
    """Whether the name means an architecture; Hub ids and folders mean their weights always."""
    return not (settings.pretrained or means_weights(name))


def _spread(values: Sequence, count: int) -> tuple:
    """`count` of the values, evenly spread from the first to the last; all where there are fewer, the middle for one."""
    if count >= len(values):
        return tuple(values)
    if count == 1:
        return (values[len(values) // 2],)
    return tuple(values[round(i * (len(values) - 1) / (count - 1))] for i in range(count))


def _within(members: list[PoolMember], base: PoolMember, weak: WeakPoolSettings, show: bool) -> tuple[PoolMember, ...]:
    """The members with a top-1 between floor and ceiling."""
    kept = []
    for member in members:
        share = member.top1 / max(base.top1, 1e-9)
        if weak.floor <= share <= weak.ceiling:
            kept.append(member)
        elif show:
            log.warning(
                "left out: %s with top-1 %.1f %%, %.0f %% of the base's %.1f %%; allowed is %s",
                member.name,
                100 * member.top1,
                100 * share,
                100 * base.top1,
                _allowed(weak),
            )
    if not kept:
        found = ", ".join(f"{m.name} {100 * m.top1:.1f} %" for m in members)
        raise ModelError(
            "pool_kind",
            weak.pool_kind,
            f"a weak model with {_allowed(weak)} of the base's top-1 of {100 * base.top1:.1f} % (found: {found})",
            "change --top1_floor or --top1_ceiling, or "
            + (
                "other --prior_epochs"
                if weak.pool_kind == "prior"
                else "prune less or tune longer (--finetune_epochs)"
            ),
        )
    return _spread(kept, weak.pool_size)


def _allowed(weak: WeakPoolSettings) -> str:
    most = "" if weak.ceiling == float("inf") else f" to {100 * weak.ceiling:.0f} %"
    return f"{100 * weak.floor:.0f} %{most}" + ("" if most else " or more")
