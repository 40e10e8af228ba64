"""Files of trained networks: image_model.json, member.json, a pool's manifest.json, and the config.json of timm and transformers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from hf_condense.records.base import (
    Channels,
    ClassNames,
    Count,
    Plain,
    Positive,
    Record,
    Sealed,
    Sha256,
    Share,
    Side,
    Text,
)

# a plain name: with a source before it (hf-hub:, local-dir:) it would fetch what it names
Architecture = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,120}$")]
Layers = Annotated[int, Field(ge=1, le=1000)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Ratio = Annotated[float, Field(ge=0, le=64)]
Pooling = Annotated[str, StringConstraints(pattern=r"^[a-z]{0,12}$")]
Tensors = Annotated[dict[Text, Annotated[list[Count], Field(max_length=8)]], Field(max_length=100_000)]
Values = Annotated[list[float], Field(min_length=1, max_length=64)]  # one for each channel, or one for all
# whether the sizes of a network fit its weights is checked without memory for it, but every layer takes its time
COUNTS_LAYERS, MOST_LAYERS, LARGEST_SIZE = re.compile("layers|depth|blocks|stages|repeats"), 1000, 2**24


class Arguments(Record):
    """What may be said to the function that builds an architecture: channels, sizes, counts and shares.

    Nothing that names a file, an address, a class, or weights. Whether the network then is of the size of its weights is
    checked before it is made.
    """

    in_chans: Channels | None = None
    num_classes: Count | None = None
    img_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    base: Architecture | None = None  # of `small_stem_resnet`
    arch: Architecture | None = None  # of `torchvision_net`
    norm: Literal["instance", "batch"] | None = None
    width: Width | None = None
    depth: Layers | None = None
    depths: Annotated[list[Layers], Field(max_length=16)] | None = None
    dims: Annotated[list[Width], Field(max_length=16)] | None = None
    embed_dim: Width | Annotated[list[Width], Field(max_length=16)] | None = None
    num_heads: Layers | Annotated[list[Layers], Field(max_length=16)] | None = None
    patch_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    window_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    mlp_ratio: Ratio | None = None
    init_values: Ratio | None = None
    drop_rate: Share | None = None
    drop_path_rate: Share | None = None
    global_pool: Pooling | None = None
    class_token: bool | None = None
    no_embed_class: bool | None = None
    reg_tokens: Annotated[int, Field(ge=0, le=64)] | None = None
    qkv_bias: bool | None = None
    qk_norm: bool | None = None
    pre_norm: bool | None = None
    fc_norm: bool | None = None
    dynamic_img_size: bool | None = None
    strict_img_size: bool | None = None


class Source(Record):
    """Where weights came from, as `ImageModel.source` says it."""

    id: Text | None
    revision: Text | None = None
    pretrained: bool = False


class Build(Record):
    """How to make a backbone again; shapes and groups of a pruned one (`checkpoints.shape_manifest`)."""

    library: Literal["timm", "transformers"]
    architecture: Architecture
    model_args: Arguments
    shapes: Tensors | None = None
    groups: Annotated[dict[Text, Positive], Field(max_length=100_000)] | None = None

    @model_validator(mode="after")
    def _both(self) -> Build:
        if (self.shapes is None) != (self.groups is None):
            raise ValueError("shapes and groups together, or neither")
        return self


class ModelFacts(Sealed):
    """image_model.json."""

    name: Text
    num_classes: Annotated[int, Field(ge=1, le=1_000_000)]
    channels: Channels
    in_chans: Channels
    input_size: Side | None
    mean: Values
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=64)]
    class_names: ClassNames | None
    source: Source
    needs_squeeze: bool
    build: Build
    sha256: Sha256

    @model_validator(mode="after")
    def _fit(self) -> ModelFacts:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.in_chans):
                raise ValueError(f"{name} with 1 or {self.in_chans} values, as many as in_chans")
        if self.channels not in (1, self.in_chans):
            raise ValueError(f"channels 1 or {self.in_chans}, which is in_chans")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"{self.num_classes} class_names")
        return self


class MemberFacts(Sealed):
    """member.json: what a pool knows of one network."""

    name: Text
    top1: Share
    sha256: Sha256
    source: Source
    epochs: Count
    parameters: Count
    image_size: Side
    license: Text | None = None
    dataset: Text = ""
    kind: Literal["base", "prior", "post"] = "base"
    epoch: Count | None = None
    ratio: Share | None = None
    macs: Count | None = None
    processes: Count | None = None


Folder = Annotated[str, StringConstraints(pattern=r"^[^./\\\x00][^/\\\x00]{0,250}$")]  # inside the pool's own


class PoolManifest(Sealed):
    """manifest.json of a pool: the folders of its networks in their order."""

    version: Literal[1]
    members: Annotated[list[Folder], Field(min_length=1, max_length=10_000)]
    sha256: dict[Folder, Sha256]

    @model_validator(mode="after")
    def _same(self) -> PoolManifest:
        if set(self.members) != set(self.sha256) or len(set(self.members)) < len(self.members):
            raise ValueError("each member once, with its sha256")
        return self


class TimmPretrained(Record):
    """`pretrained_cfg` of a timm config.json. timm writes more keys than are read here; none that fetches is let through."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain]

    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)]
    mean: Values
    std: Values
    num_classes: Count | None = None
    label_names: ClassNames | dict[Text, Text] | None = None
    label_descriptions: dict[Text, Text] | None = None
    classifier: Text | list[Text] | None = None
    first_conv: Text | list[Text] | None = None
    # where weights would come from, or which code would read them: only the repository itself, by timm's own reader
    url: Literal[""] | None = None
    file: None = None
    state_dict: None = None
    hf_hub_filename: None = None
    custom_load: Literal[False] | None = None


class TimmConfig(Record):
    """config.json of a timm checkpoint."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain]

    architecture: Architecture
    num_classes: Count | None = None
    model_args: Arguments | None = None
    pretrained_cfg: TimmPretrained
    label_names: ClassNames | dict[Text, Text] | None = None
    label_descriptions: dict[Text, Text] | None = None


class TransformersConfig(Record):
    """config.json of a transformers checkpoint: whatever its class takes, and nothing that loads code.

    `timm_wrapper` is timm's own checkpoint read through transformers, so that the rules for timm hold.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain]

    model_type: Architecture
    auto_map: None = None
    custom_pipelines: None = None
    quantization_config: None = None
    attn_implementation: Literal["eager", "sdpa"] | None = Field(None, alias="_attn_implementation")
    named_attention: Literal["eager", "sdpa"] | None = Field(None, alias="attn_implementation")
    experts_implementation: None = Field(None, alias="_experts_implementation")
    named_experts: None = Field(None, alias="experts_implementation")
    id2label: dict[Text, Text] | None = None
    label2id: dict[Text, Count] | None = None
    architecture: Architecture | None = None
    model_args: Arguments | None = None
    backbone: None = None
    use_pretrained_backbone: Literal[False] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> TransformersConfig:
        for name, value in (self.__pydantic_extra__ or {}).items():
            most = MOST_LAYERS if COUNTS_LAYERS.search(name) else LARGEST_SIZE
            if any(isinstance(v, (int, float)) and abs(v) > most for v in _numbers(value)):
                raise ValueError(f"{name} up to {most}")
        return self


def _numbers(value: Any) -> list[Any]:
    """All values in lists and objects of a config."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [found for part in inner for found in _numbers(part)]


def config_kind(config: Any) -> type[Record]:
    """Whose config.json some plain data is."""
    timm = isinstance(config, dict) and "architecture" in config and "model_type" not in config
    return TimmConfig if timm else TransformersConfig
