"""manifest.json of a folder of expert trajectories."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hf_condense.records.base import Count, Record, Sealed, Sha256, Share, Text
from hf_condense.records.networks import Values


class Seen(Record):
    """What images are turned into before the weights (`experts._seen`)."""

    kind: Text
    mean: Values | None = None
    std: Values | None = None
    eps: float | None = None
    fitted_on: Text | None = None


class Recipe(Record):
    """How experts were trained: `ExpertRecipe`."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)]
    lr: Annotated[float, Field(ge=0)]
    momentum: Share
    weight_decay: Annotated[float, Field(ge=0)]
    batch: Annotated[int, Field(ge=1, lt=2**31)]
    families: Annotated[list[Text], Field(max_length=16)]
    dtype: Literal["float32", "float16"]


class Trained(Record):
    """One expert: its file, and the mean loss of each epoch."""

    sha256: Sha256
    bytes: Count
    losses: list[float]


Shape = Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], Field(max_length=8)]
# a name and a shape each
Table = Annotated[list[Annotated[list[Text | Shape], Field(min_length=2, max_length=2)]], Field(min_length=1)]


class ExpertManifest(Sealed):
    """What experts are of, how they were trained, and their files."""

    version: Literal[1]
    table: Table
    seen: Seen
    networks: Text
    recipe: Recipe
    source: Text
    key: Annotated[int, Field(ge=0, lt=2**63)]
    experts: Annotated[list[Trained], Field(max_length=100_000)]

    @model_validator(mode="after")
    def _sizes(self) -> ExpertManifest:
        """Files hold their snapshots and a header: what they would unfold to is what they have."""
        for row in self.table:
            if not isinstance(row[0], str) or isinstance(row[1], str):
                raise ValueError("table: pairs of a name and a shape")
        one = sum(math.prod(shape) for _, shape in self.table) * (2 if self.recipe.dtype == "float16" else 4)
        for number, expert in enumerate(self.experts):
            if expert.bytes < one * (self.recipe.epochs + 1):
                raise ValueError(f"experts.{number}.bytes: room for {self.recipe.epochs + 1} snapshots of the table")
        return self
