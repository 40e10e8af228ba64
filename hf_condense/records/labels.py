"""manifest.json of a label store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from hf_condense.records.base import Channels, Count, Object, Positive, Record, Sha256, Share, Side, Text
from hf_condense.records.networks import Source

Epochs = Annotated[int, Field(ge=1, le=10_000_000)]
TeacherWeights = Annotated[list[Share], Field(min_length=1, max_length=1000)]  # of the networks, in their order
Images = Annotated[int, Field(ge=1, lt=2**31)]  # rows and partners are kept in 32 bits


class TeacherMember(Record):
    """One network of a teacher."""

    name: Text
    sha256: Sha256
    source: Source


class Teacher(Record):
    """Who made the labels, as `Ensemble.describe` says it; "unknown" where labels were imported."""

    members: Annotated[list[TeacherMember], Field(max_length=1000)]
    average: Literal["logits", "probabilities", "normalised", "unknown"]
    bn: Literal["running", "batch", "unknown"]
    precision: Literal["fp32", "bf16", "unknown"]
    weights: TeacherWeights | None = None

    @model_validator(mode="after")
    def _weights(self) -> Teacher:
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.members)} weights, one per member")
        return self


class StoreSettings(Record):
    """What labels are kept, of which views, and how much of it."""

    store: Literal["none", "full", "int8", "pruned", "packed", "virtual"]
    views: Literal["explicit", "keyed"]
    kind: Literal["logits", "probabilities"]
    temperature: Annotated[float, Field(gt=0, le=1e6)] | None
    dtype: Literal["float16", "float32"]
    classes: Annotated[int, Field(ge=1, le=1_000_000)]
    policy: Object  # a ViewPolicy
    key: Annotated[list[int | Text], Field(max_length=64)]
    images_sha256: Sha256
    teacher: Teacher
    format: Annotated[int, Field(ge=1)]
    view_version: Annotated[int, Field(ge=1)]
    images: Images
    rows: Images
    channels: Channels
    side: Side
    batch_size: Images
    limit: Positive | None
    epochs: Epochs
    epochs_per_file: Epochs
    epochs_per_group: Epochs | None = None
    prune: Epochs | None = None
    accumulation: Positive | None = None
    views_per_image: Positive | None = None
    top_k: Positive | None = None
    tail_temperature: Annotated[float, Field(gt=0, le=1e6)] | None = None
    value_bits: Annotated[int, Field(ge=1, le=8)] | None = None
    kept: Annotated[list[Count], Field(min_length=1)] | None = None
    close: Annotated[float, Field(ge=0, le=1)] | None = None
    formation_factor: Annotated[int, Field(ge=1, le=64)] | None = None

    @model_validator(mode="after")
    def _fit(self) -> StoreSettings:
        if self.rows != min(self.images, (self.limit or self.images) * self.batch_size):
            raise ValueError("rows: as many as images, or `limit` batches of them")
        if self.batch_size > self.images:
            raise ValueError(f"batch_size up to {self.images}, the images")
        if self.kept is not None and (len(self.kept) != self.epochs or sorted(set(self.kept)) != self.kept):
            raise ValueError(f"kept: {self.epochs} rising numbers, one per epoch")
        if (self.format >= 5) != (self.epochs_per_group is not None):
            raise ValueError("epochs_per_group, since format 5")
        if self.views == "keyed" and not self.key:
            raise ValueError("a key, by which keyed views are drawn")
        if self.store == "packed" and (self.top_k is None or self.views_per_image is None):
            raise ValueError("top_k and views_per_image, as packed stores have them")
        if self.store == "virtual" and (self.close is None or self.views != "keyed" or not self.teacher.members):
            raise ValueError("close, keyed views and a teacher, as virtual stores have them")
        return self


class ListedFile(Record):
    """Size and checksum of one file."""

    bytes: Count
    sha256: Sha256


FileName = Annotated[str, StringConstraints(pattern=r"^views-[0-9]{5,9}\.parquet$")]


class StoreManifest(Record):
    """The settings, and the files once they are all there; `record` is free to differ."""

    settings: StoreSettings
    record: Object = {}
    files: Annotated[dict[FileName, ListedFile], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _all_files(self) -> StoreManifest:
        if self.files is not None:
            count = -(-self.settings.epochs // self.settings.epochs_per_file)
            if count != len(self.files) or set(self.files) != {
                f"views-{number:05d}.parquet" for number in range(count)
            }:
                raise ValueError(f"files: {count}, numbered from 0, for {self.settings.epochs} epochs")
        return self
