"""condensation.json of a distilled dataset: `content`, the same on every run, and `record`, free to differ."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from hf_condense.records.base import (
    ClassNames,
    Count,
    LongText,
    Object,
    Plain,
    Record,
    Sha256,
    Share,
    Side,
    Text,
)
from hf_condense.records.labels import ListedFile, StoreSettings, TeacherWeights

FORMAT = 2  # since 2 the hash covers what a student needs besides images and labels
Hash = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Regimes = Annotated[list[Literal["hard", "stored", "online"]], Field(min_length=1, max_length=3)]
Unit = Annotated[list[Share], Field(min_length=1, max_length=3)]
Rate = Annotated[float, Field(ge=0, le=1e6)]
Epochs = Annotated[int, Field(ge=1, le=10_000_000)]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Method(Record):
    """The method, for card and citation."""

    name: Annotated[str, StringConstraints(max_length=100)]
    title: Text
    paper: Text
    citation: LongText
    summary: LongText
    real_pixels: bool


class Origin(Record):
    """The source dataset."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    revision: Text | None
    train_split: Text
    test_split: Text
    license: Text | None
    fingerprint: Text
    held_out: bool
    skipped: Count


class Images(Record):
    """What images there are; what is decoded is held against it."""

    count: Annotated[int, Field(ge=1, lt=2**31)]
    channels: Literal[1, 3]
    height: Side
    width: Side
    classes: Annotated[int, Field(ge=1, le=1_000_000)]
    per_class: Annotated[list[Count], Field(min_length=2, max_length=2)]


class Network(Record):
    """A network of the run, by what others can check."""

    name: Text
    roles: Annotated[list[Text], Field(max_length=16)]
    id: Text | None = None
    revision: Text | None = None
    pretrained: bool = False
    sha256: Sha256
    top1: Share | None = None
    epochs: Count | None = None
    parameters: Count = 0
    kind: Text | None = None
    epoch: Count | None = None
    ratio: Share | None = None
    processes: Count | None = None


class Labels(Record):
    """Label regimes that a student can be trained with, and the settings of the label store."""

    regimes: Regimes
    store: StoreSettings | None = None


class SoftLabel(Record):
    """What the column `soft_label` holds, and who made it."""

    kind: Literal["probabilities", "logits"]
    temperature: Annotated[float, Field(gt=0, le=1e6)] | None
    ensemble: Literal["logits", "probabilities", "normalised"] | None
    dtype: Literal["float16"]
    bytes: Count
    by: Text | None = None
    teacher_bn: Literal["running", "batch"] | None = None
    weights: TeacherWeights | None = None

    @model_validator(mode="after")
    def _maker(self) -> SoftLabel:
        if self.ensemble is None and self.by is None:
            raise ValueError("ensemble, or by: what assigned the labels")
        return self


class Formation(Record):
    """Each image holds factor x factor training images as tiles."""

    factor: Annotated[int, Field(ge=1, le=8)]


class Decode(Record):
    """How training images come from published ones."""

    formation: Formation


class Pixels(Record):
    """How networks normalise images of this set."""

    mean: Unit
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=3)]
    flip: bool


class Stages(Record):
    """How a set that was made in stages is gone through."""

    order: Annotated[list[Count], Field(min_length=1, max_length=10_000)]
    mode: Literal["cumulative", "new_only", "last_only"]
    rates: Annotated[list[Rate], Field(min_length=1)]
    epochs: Epochs
    momentum: Text


class Recipe(Record):
    """Ranges of what a Protocol says; its types are those of that class (`hub.record.check_training`)."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain]

    epochs: Epochs | None = None
    steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    stage_epochs: Epochs | None = None
    batch: Annotated[int, Field(ge=1, lt=2**31)]
    accumulation: Annotated[int, Field(ge=1, le=2**20)] = 1
    lr: Rate
    momentum: Share = 0.0
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    warmup_epochs: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    warmup_factor: Share = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    temperature: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    gamma: Annotated[float, Field(ge=0, le=1e6)] = 0.0

    @model_validator(mode="after")
    def _length(self) -> Recipe:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("epochs or steps, one of the two")
        return self


class Training(Record):
    """What a student needs to train as it was scored. `recipe` is a Protocol, `policy` a ViewPolicy, `siamese` its kin."""

    protocol: Text
    policy: Object | None = None
    batch_size: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    epochs: Epochs | None = None
    decode: Text | Decode = "unit pixels: byte / 255"
    recipe: Recipe | None = None
    pixels: Pixels | None = None
    learned_rates: Annotated[list[Rate], Field(max_length=10_000)] | None = None
    whitening: Object | None = None
    stages: Stages | None = None
    siamese: Object | None = None

    @model_validator(mode="after")
    def _recipe_and_pixels(self) -> Training:
        if self.recipe is not None and self.pixels is None:
            raise ValueError("pixels: the mean and std with which networks of the recipe normalise")
        return self


class Spread(Record):
    """Mean and spread of an accuracy, or of a difference, over seeds."""

    mean: float
    std: float | None
    n: Count
    low: float | None = None
    high: float | None = None


class Gap(Spread):
    """A difference, by the comparison that it was taken with; earlier versions took pairs only."""

    test: Literal["paired", "prediction", "welch"] | None = None


class Row(Record):
    """One line of the score table."""

    row: Text
    student: Text
    regime: Text
    top1: Spread
    difference: Gap | None = None
    best_over_test_set: Share | None = None
    steps: Count | None = None
    images: Count
    image_bytes: Count | None = None
    label_bytes: Count | None = None


class Scores(Record):
    """The score table, and every student behind it."""

    table: list[Row]
    students: list[Object] = []
    protocol: Object = {}
    baseline: Text | None = None
    notes: dict[Text, Text] = {}
    teacher_top1: Share | None = None


class Imported(Record):
    """Where a set came from that others published."""

    verified: bool
    kind: Text
    place: Text
    revision: Text | None
    sha256: dict[Text, dict[Text, Sha256]]


class SourceRows(Record):
    """Which real images are in each image: rows of the source's split, tile by tile; -1 for a tile that has none."""

    split: Text
    rows: list[Annotated[list[Annotated[int, Field(ge=-1, lt=2**53)]], Field(min_length=1, max_length=1024)]]


class Content(Record):
    """Everything that settings determine."""

    format: Annotated[int, Field(ge=1)]
    method: Method
    source: Origin
    class_names: ClassNames
    config: dict[Text, Object]
    models: list[Network]
    labels: Labels
    training: Training
    scores: Scores | None = None
    images: Images
    content_hash: Hash
    pixels_hash: Hash | None = None
    soft_label: SoftLabel | None = None
    imported: Imported | None = None
    source_rows: SourceRows | None = None

    @model_validator(mode="after")
    def _fit(self) -> Content:
        images, low_high = self.images, self.images.per_class
        if images.classes != len(self.class_names):
            raise ValueError(f"images.classes: {len(self.class_names)}, as many as class_names")
        if not low_high[0] <= images.count / images.classes <= low_high[1]:
            raise ValueError("images.per_class: the smallest and the largest number of images of a class")
        if self.source_rows is not None and len(self.source_rows.rows) != images.count:
            raise ValueError(f"source_rows.rows: {images.count} lists, one per image")
        if self.format >= 2 and self.pixels_hash is None:
            raise ValueError("pixels_hash beside content_hash")
        if self.soft_label is not None and self.soft_label.bytes != 2 * images.count * images.classes:
            raise ValueError("soft_label.bytes: two for each class of each image")
        return self


class SentModel(Record):
    """Where a push has sent a network."""

    id: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$", max_length=200)]
    revision: Annotated[str, StringConstraints(pattern=r"^[\w./-]+$", max_length=200)] | None
    sha256: Sha256


class StageCost(Record):
    """What a stage has taken."""

    name: Text
    seconds: Annotated[float, Field(ge=0)]
    peak_bytes: Count
    reused: Annotated[list[Text], Field(max_length=10_000)] = []  # what came from the cache, its time not counted


class RunRecord(Record):
    """What a run happened to be."""

    files: Annotated[dict[FilePath, ListedFile], Field(max_length=1_000_000)]
    columns: list[Literal["image", "label", "soft_label", "pdd_stage"]] = []  # of the default config
    created: Text = ""
    command: LongText = ""
    python: Text = ""
    platform: Text = ""
    versions: dict[Text, Text] = {}
    git: Object | None = None
    device: Text
    processes: Count | None = None
    threads: Count | None = None
    stages: list[StageCost]
    scores_table: LongText = ""
    scores: Plain = None
    published_models: dict[Text, SentModel] = {}
    image_faults: Annotated[list[Text], Field(max_length=100)] = []

    @model_validator(mode="after")
    def _has_data(self) -> RunRecord:
        if not any(name.startswith("data/") and name.endswith(".parquet") for name in self.files):
            raise ValueError("files: the Parquet files of data/ among them")
        return self


class Condensation(Record):
    """The whole file."""

    content: Content
    record: RunRecord
