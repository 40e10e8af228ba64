"""Random real images: the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_condense.methods.base import Context, Method
from hf_condense.plan import Shard, Start
from hf_condense.selection.real import random_real


@dataclass(frozen=True)
class RandomSettings:
    """The method has no settings."""


class Random(Method):
    """`ipc` images a class, drawn without replacement."""

    name = "random"
    Settings = RandomSettings

    @property
    def real_images_each(self) -> int:
        return 1

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        return Start(*random_real(context.train, shard.labels, context.image_size, context.key / shard.id))
