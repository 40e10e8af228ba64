"""What a person can set: one dataclass a stage, checked where it is made. The command line, YAML and recipes share them.

A setting's name is its flag (`--image_size`) and its YAML key, so names are unique over all sections. `None` means
"take it from the preset, or else derive it"; the run folder's `config.yaml` holds the values of preset, file and
flags, and `null` for what is derived from the data, which every start derives again.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hf_condense.errors import ConfigError

NOT_SHORTENED = object()  # None is a value of its own


def setting(default: Any, help: str, quick: Any = NOT_SHORTENED) -> Any:
    """A dataclass field with a help text, and with the value that `--quick` gives it where that shortens a run.

    A whole number is the most that it is then; other values replace those of presets.
    """
    shortened = {} if quick is NOT_SHORTENED else {"quick": quick}
    return field(default=default, metadata={"help": help, **shortened})


def check(condition: bool, name: str, value: Any, allowed: str, next_step: str = "change it and run again") -> None:
    """Raises ConfigError unless `condition` holds."""
    if not condition:
        raise ConfigError(name, value, allowed, next_step)


@cache  # reading a class's types is slow, and there are a hundred protocols
def choices(cls: Hashable, name: str) -> tuple | None:
    """The allowed values of a `Literal` setting (None included when it is optional), or None for a free one."""
    hint = get_type_hints(cls)[name]
    found: tuple = ()
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            found = get_args(part)
    return found + ((None,) if found and type(None) in get_args(hint) else ()) or None


def check_choices(settings: Any) -> None:
    """Raises ConfigError for a `Literal` setting with a value outside its list, and for text with a NUL byte, which
    can name no file."""
    for f in fields(settings):
        value = getattr(settings, f.name)
        for text in value if isinstance(value, tuple) else (value,):
            check("\0" not in text if isinstance(text, str) else True, f.name, text, "text without NUL bytes")
        allowed = choices(type(settings), f.name)
        if allowed:
            value = getattr(settings, f.name)
            check(value in allowed, f.name, value, ", ".join(str(a) for a in allowed if a is not None))


def nearest(name: str, known: list[str]) -> str:
    """The names of `known` that look like `name`, for an error message."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(known[:30])}"


@dataclass(frozen=True)
class DataSettings:
    """Where the real images come from."""

    dataset: str = setting("digits", "short name (cifar10, imagenet-1k, digits ...), Hub id, or local folder")
    dataset_config: str | None = setting(None, "configuration of a Hub dataset")
    revision: str | None = setting(None, "revision of a Hub dataset")
    train_split: str | None = setting(None, "split to condense; defaults to train")
    test_split: str | None = setting(
        None, "split to score on; defaults to a seeded stratified hold-out where the dataset has none"
    )
    image_column: str | None = setting(None, "column with the images; defaults to the one of the type Image")
    label_column: str | None = setting(None, "column with the labels; defaults to the one of the type ClassLabel")
    classes: tuple[str, ...] | None = setting(
        None,
        "class names, class numbers, or one named set (imagenette ...); a name that holds a comma stands in quotes",
    )
    image_size: int | None = setting(
        None, "side in pixels of the images that networks get; defaults to the dataset's own where it is small"
    )
    channels: Literal["auto", "1", "3"] = setting("auto", "1 keeps grey images grey, 3 makes them RGB")
    flip: bool | None = setting(None, "whether a mirrored image keeps its class; off for digits and letters")
    hold_out: float = setting(0.2, "fraction held out for scoring where there is no test split")
    max_per_class: int | None = setting(None, "use at most this many training images of a class (seeded)", quick=60)
    max_test: int | None = setting(None, "score on at most this many test images (seeded, stratified)", quick=400)
    streaming: bool = setting(False, "read the Hub dataset as a stream")
    skip_corrupt: bool = setting(False, "count and skip images that do not decode, instead of stopping")
    decode_gb: float = setting(
        4.0, "keep decoded images in memory up to this size; images of larger sets are decoded as they are used"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check(bool(self.dataset), "dataset", self.dataset, "a name, Hub id or folder")
        check(self.image_size is None or self.image_size >= 4, "image_size", self.image_size, "4 or more pixels")
        check(0 < self.hold_out < 1, "hold_out", self.hold_out, "a fraction between 0 and 1")
        for name in ("max_per_class", "max_test"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "1 or more")


@dataclass(frozen=True)
class SqueezeSettings:
    """The pool of networks that have seen the real data."""

    base_model: tuple[str, ...] = setting(
        ("convnet_w32",), "observers: timm, torchvision/, hf-hub:, transformers: names or folders"
    )
    observers: tuple[str, ...] | None = setting(None, "networks of the pool used in synthesis; defaults to all")
    teachers: tuple[str, ...] | None = setting(None, "networks of the pool that make soft labels; defaults to all")
    pretrained: bool = setting(False, "names without a weight tag begin from published weights too")
    squeeze_epochs: int = setting(10, "epochs on real data; 0 takes published weights as they are", quick=2)
    squeeze_batch: int = setting(64, "batch size of the squeeze")
    squeeze_lr: float = setting(0.05, "learning rate of the squeeze")
    squeeze_momentum: float = setting(0.9, "momentum of the squeeze")
    squeeze_weight_decay: float = setting(0.0, "weight decay of the squeeze")
    squeeze_schedule: Literal["constant", "cosine"] = setting("constant", "learning-rate schedule of the squeeze")
    squeeze_pad: int | None = setting(None, "pad-and-crop augmentation in pixels; defaults to an eighth of the side")
    squeeze_crop_min: float | None = setting(
        None, "smallest area of the random resized crop (instead of pad-and-crop)"
    )
    squeeze_parallel: bool | None = setting(
        None,
        "train each network on all processes at once; defaults to long trainings of fewer networks than processes",
    )
    min_top1_over_chance: float = setting(
        1.5, "refuse observers whose top-1 is below this multiple of chance", quick=0.0
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check(len(self.base_model) > 0, "base_model", self.base_model, "one or more model names")
        check(self.squeeze_epochs >= 0, "squeeze_epochs", self.squeeze_epochs, "0 or more")
        check(self.squeeze_batch >= 1, "squeeze_batch", self.squeeze_batch, "1 or more")
        check(self.squeeze_lr > 0, "squeeze_lr", self.squeeze_lr, "above 0")
        momentum, decay, pad = self.squeeze_momentum, self.squeeze_weight_decay, self.squeeze_pad
        check(0 <= momentum < 1, "squeeze_momentum", momentum, "0 or more and below 1")
        check(decay >= 0, "squeeze_weight_decay", decay, "0 or more")
        check(pad is None or pad >= 0, "squeeze_pad", pad, "0 pixels or more")
        least = self.squeeze_crop_min
        check(least is None or 0 < least <= 1, "squeeze_crop_min", least, "a share of the area, above 0 and up to 1")


@dataclass(frozen=True)
class WeakPoolSettings:
    """Weak models made from one base model, used in synthesis instead of the base itself (Teddy)."""

    pool_kind: Literal["none", "prior", "post"] = setting(
        "none",
        "weak models: copies from the base's training (prior), or the base pruned and tuned a little (post; prior where it "
        "cannot be pruned)",
    )
    pool_size: int = setting(5, "weak models beside the base", quick=2)
    prior_epochs: tuple[int, ...] | None = setting(
        None, "epochs of the base's training after which a copy is kept; defaults to an even spread"
    )
    prune_ratios: tuple[float, ...] | None = setting(
        None, "share of channels pruned from each member, in turn; defaults to an even spread from 0.2 to 0.4"
    )
    importance_noise: float = setting(
        0.3, "spread of the noise on channel importance, by which members of one prune ratio differ"
    )
    finetune_epochs: int = setting(1, "epochs on real data after pruning")
    finetune_lr: float = setting(0.01, "learning rate after pruning, cosine to zero")
    recalibrate: bool = setting(True, "measure the BatchNorm statistics of weak models again")
    recalibration_images: int = setting(5000, "real images used for --recalibrate", quick=500)
    top1_floor: float | None = setting(
        None,
        "leave out weak models below this share of the base's top-1; defaults to 0.65 (prior) or 0.6 (post)",
        quick=0.0,
    )
    top1_ceiling: float | None = setting(
        None,
        "leave out weak models above this share of the base's top-1; defaults to 0.95 (prior) or no limit (post)",
        quick=10.0,
    )
    label_source: Literal["base", "pool", "both"] = setting(
        "base", "networks that make soft labels where there are weak models and --teachers is not given"
    )
    pool_folder: str | None = setting(
        None, "use the networks of this folder, written by `hf-condense pool`; --pool_kind is then ignored"
    )

    @property
    def weak(self) -> bool:
        """Whether the pool has weak models."""
        return self.pool_kind != "none" or self.pool_folder is not None

    @property
    def ratios(self) -> tuple[float, ...]:
        """Share of channels that the members lose, in turn."""
        if self.prune_ratios is not None:
            return self.prune_ratios
        if self.pool_size == 1:
            return (0.3,)
        return tuple(round(0.2 + 0.2 * i / (self.pool_size - 1), 4) for i in range(self.pool_size))

    @property
    def floor(self) -> float:
        """Smallest top-1 of a weak model as a share of the base's."""
        return {"prior": 0.65, "post": 0.6}.get(self.pool_kind, 0.0) if self.top1_floor is None else self.top1_floor

    @property
    def ceiling(self) -> float:
        """Largest top-1 of a weak model as a share of the base's."""
        return (
            (0.95 if self.pool_kind == "prior" else float("inf")) if self.top1_ceiling is None else self.top1_ceiling
        )

    def __post_init__(self) -> None:
        check_choices(self)
        check(
            self.pool_size >= 1,
            "pool_size",
            self.pool_size,
            "1 or more",
            "--pool_kind none is a pool of the base alone",
        )
        epochs = self.prior_epochs
        if epochs is not None:
            rising = len(epochs) > 0 and epochs[0] >= 1 and list(epochs) == sorted(set(epochs))
            check(rising, "prior_epochs", epochs, "rising epochs from 1 on")
        ratios = self.prune_ratios
        if ratios is not None:
            inside = len(ratios) > 0 and all(0 < r < 1 for r in ratios)
            check(inside, "prune_ratios", ratios, "shares of the channels above 0 and below 1", "0.2,0.3,0.4 is usual")
        check(self.importance_noise >= 0, "importance_noise", self.importance_noise, "0 or more")
        check(self.finetune_epochs >= 0, "finetune_epochs", self.finetune_epochs, "0 or more")
        check(self.finetune_lr > 0, "finetune_lr", self.finetune_lr, "above 0")
        images = self.recalibration_images
        check(
            images >= 2, "recalibration_images", images, "2 or more", "--recalibrate false leaves the statistics alone"
        )
        check(self.floor >= 0, "top1_floor", self.floor, "a share of the base's top-1, 0 or more")
        check(self.ceiling > self.floor, "top1_ceiling", self.ceiling, f"above top1_floor, which is {self.floor}")


def check_pool(squeeze: SqueezeSettings, weak: WeakPoolSettings) -> None:
    """Raises ConfigError where the pool's two sections contradict each other."""
    if weak.pool_folder is not None:  # its names are known when it is read
        return
    if weak.pool_kind != "none":
        check(
            len(squeeze.base_model) == 1,
            "base_model",
            list(squeeze.base_model),
            f"one name with --pool_kind {weak.pool_kind}: all weak models come from one base",
            "name one --base_model, or drop --pool_kind",
        )
        return
    for name in ("observers", "teachers"):
        unknown = set(getattr(squeeze, name) or ()) - set(squeeze.base_model)
        check(not unknown, name, sorted(unknown), f"names of the pool: {', '.join(squeeze.base_model)}")


@dataclass(frozen=True)
class LabelSettings:
    """Soft labels and the views they belong to."""

    store: Literal["none", "full", "int8", "pruned", "packed", "virtual"] = setting(
        "full",
        "per-view labels: full (fp16 logits of every view), int8 (8 bits each), pruned (of some epochs), packed (a few "
        "views an image, the largest logits), virtual (no logits: the teacher computes them again, checked), or none",
    )
    label_epochs: int | None = setting(None, "epochs of views to store; defaults to the protocol's epochs", quick=5)
    views: Literal["explicit", "keyed"] | None = setting(
        None,
        "views in a store: explicit boxes, or keyed (drawn again); defaults to keyed for packed and virtual stores",
    )
    keep_every: int = setting(10, "a pruned store keeps one epoch in this many; students cycle through those")
    views_per_image: int = setting(10, "views of each image whose labels a packed store keeps")
    top_k: int = setting(10, "largest logits that a packed store keeps of a view, with one value for the others")
    value_bits: int = setting(8, "bits of a logit in a packed store, at most 8")

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.label_epochs is None or self.label_epochs >= 1, "label_epochs", self.label_epochs, "1 or more")
        for name in ("keep_every", "views_per_image", "top_k"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(1 <= self.value_bits <= 8, "value_bits", self.value_bits, "1 to 8")
        drawn = self.store != "virtual" or self.views != "explicit"
        check(drawn, "views", self.views, "keyed with virtual labels: nothing of their views is stored")


@dataclass(frozen=True)
class EvaluationSettings:
    """How the condensed set is scored."""

    protocol: str | None = setting(None, "student recipe; defaults to the method's own", quick="small")
    students: tuple[str, ...] = setting(
        ("convnet_w32",), "student networks, trained from scratch; probe:<network> is a linear head on a frozen one"
    )
    regimes: tuple[str, ...] = setting(("hard", "stored", "online"), "label regimes to score")
    student_seeds: int = setting(3, "student seeds per row", quick=2)
    student_epochs: int | None = setting(
        None, "overrides the protocol's epochs (which is then part of the protocol's name)", quick=5
    )
    baselines: tuple[str, ...] = setting(
        ("full", "random", "initial"),
        "rows scored in the same run; for probes also centroids (real images nearest to them) and class_means (no images)",
    )
    best_seen: bool | None = setting(
        None,
        "also look at the test set during training, where the protocol does (the column best seen); defaults to no on a "
        "CPU, where looking can take longer than training",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.student_seeds >= 1, "student_seeds", self.student_seeds, "1 or more")
        epochs = self.student_epochs
        check(epochs is None or epochs >= 1, "student_epochs", epochs, "1 or more")
        check(len(self.students) > 0, "students", self.students, "one or more model names")
        rows = ("full", "random", "initial", "centroids", "class_means")
        for name, allowed in (("regimes", ("hard", "stored", "online")), ("baselines", rows)):
            step = f"several are written with commas: --{name} {','.join(allowed[:2])}"
            for value in getattr(self, name):
                check(value in allowed, name, value, ", ".join(allowed), step)


@dataclass(frozen=True)
class RunSettings:
    """The run itself."""

    method: str = setting("random", "condensation method; see `hf-condense methods`")
    variant: Literal["paper", "official"] = setting(
        "paper", "paper: as published, known faults corrected; official: as the authors' script"
    )
    ipc: int = setting(10, "synthetic images per class")
    seed: int = setting(0, "seed of every random draw, except of which images are held out or left out")
    output_dir: str | None = setting(None, "run folder; defaults to runs/<method>-<dataset>-ipc<N>")
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "arithmetic of frozen networks in synthesis and labelling"
    )
    cuda_graphs: bool = setting(
        False, "launch the kernels of an observer together, as a CUDA graph; on other devices without effect"
    )
    threads: int | None = setting(None, "CPU threads a process; results can differ in the last bit between counts")
    checkpoint_every: int = setting(200, "synthesis steps between checkpoints")
    overwrite: bool = setting(False, "redo stages whose settings have changed")
    quick: bool = setting(False, "shorten every stage, to see the whole path work in about a minute")
    push_to_hub: str | None = setting(None, "owner/name of the Hub dataset that `run` publishes at its end")
    push_models: bool = setting(False, "with --push_to_hub: upload the networks too, to <repo>-<model>")
    trackers: tuple[str, ...] = setting(
        (), "Accelerate trackers that get the losses (tensorboard, wandb, trackio ...)"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.ipc >= 1, "ipc", self.ipc, "1 or more images per class")
        check(self.checkpoint_every >= 1, "checkpoint_every", self.checkpoint_every, "1 or more steps")
        check(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more")


SECTIONS: dict[str, type] = {
    "run": RunSettings,
    "data": DataSettings,
    "squeeze": SqueezeSettings,
    "weak": WeakPoolSettings,
    "labels": LabelSettings,
    "evaluation": EvaluationSettings,
}


def setting_fields(sections: dict[str, type]) -> dict[str, tuple[str, Field]]:
    """Flag name -> (section name, dataclass field) over all sections."""
    found: dict[str, tuple[str, Field]] = {}
    for section, cls in sections.items():
        for f in fields(cls):
            if f.name in found:
                raise AssertionError(f"setting {f.name} stands in {found[f.name][0]} and in {section}")
            found[f.name] = (section, f)
    return found
