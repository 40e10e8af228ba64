"""Encodings of the logits of views in the columns of a store: floats, 8 bits a class, or the largest few."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

SMALLEST_STEP = 2.0**-14  # smallest normal half; used if all values are equal


@dataclass(frozen=True)
class Floats:
    """All logits, rounded to `dtype`."""

    dtype: str = "float16"
    columns: ClassVar[tuple[str, ...]] = ("logits",)
    repeated: ClassVar[tuple[str, ...]] = ()
    levels: ClassVar[bool] = False  # whether values are stored as numbers of steps

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Columns of the views of a batch, from logits [b, K]."""
        return {"logits": logits.to(getattr(torch, self.dtype))}

    def decode(self, columns: Mapping[str, Tensor], classes: int) -> Tensor:
        """Logits [n, K] as stored."""
        return columns["logits"]

    def view_bytes(self, classes: int) -> float:
        """Bytes of the label of one view."""
        return classes * torch.finfo(getattr(torch, self.dtype)).bits / 8


@dataclass(frozen=True)
class Bytes:
    """At most 8 bits a class, with a smallest value and a step for each view, or one for a batch (`shared`)."""

    bits: int = 8
    shared: bool = False
    columns: ClassVar[tuple[str, ...]] = ("codes", "low", "step")
    levels: ClassVar[bool] = True

    @property
    def repeated(self) -> tuple[str, ...]:
        return ("low", "step") if self.shared else ()

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Columns of the views of a batch, from logits [b, K]."""
        return to_levels(logits, self.bits, self.shared)

    def decode(self, columns: Mapping[str, Tensor], classes: int) -> Tensor:
        """Logits fp32 [n, K]."""
        return from_levels(columns)

    def view_bytes(self, classes: int) -> float:
        """Bytes of the label of one view, at most."""
        return classes * self.bits / 8 + 4 * (not self.shared)


@dataclass(frozen=True)
class Largest:
    """The `count` largest logits in a few bits, in falling order, and one value in place of each of the others.

    That value, m, keeps the weight which the others have together at `temperature` T: (K - count) exp(m / T) is the sum
    of their exp(z / T), so probabilities of stored classes do not change. Without a temperature it is their mean,
    which is nearest to them in squared distance and what m tends to as T grows. Smallest value and step are one for a
    batch.
    """

    count: int
    temperature: float | None = None
    bits: int = 8
    columns: ClassVar[tuple[str, ...]] = ("top", "codes", "low", "step")
    repeated: ClassVar[tuple[str, ...]] = ("top", "low", "step")  # a dictionary packs class numbers in few bits
    levels: ClassVar[bool] = True

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Columns of the views of a batch, from logits [b, K] of more than `count` classes."""
        kept, top = logits.topk(self.count, 1)
        values = torch.cat([kept, self._others(logits, kept, top)[:, None]], 1)
        return {"top": top.int(), **to_levels(values, self.bits, shared=True)}

    def decode(self, columns: Mapping[str, Tensor], classes: int) -> Tensor:
        """Logits fp32 [n, K]."""
        values = from_levels(columns)
        everywhere = values[:, -1:].expand(-1, classes)
        return everywhere.scatter(1, columns["top"].long(), values[:, :-1])

    def view_bytes(self, classes: int) -> float:
        """Bytes of the label of one view, at most."""
        return (self.count * math.ceil(math.log2(classes)) + self.bits * (self.count + 1)) / 8

    def _others(self, logits: Tensor, kept: Tensor, top: Tensor) -> Tensor:
        others = logits.shape[1] - self.count
        if self.temperature is None:
            return (logits.sum(1) - kept.sum(1)) / others
        rest = logits.scatter(1, top, -math.inf) / self.temperature
        return self.temperature * (rest.logsumexp(1) - math.log(others))


Encoding = Floats | Bytes | Largest
HALF = Floats()


def encoding_of(settings: Mapping[str, Any]) -> Encoding:
    """The encoding of a store with these settings (`formats.store_format`, with `dtype` and `classes`)."""
    if settings["store"] == "packed":
        bits = settings.get("value_bits", 8)
        if settings["top_k"] >= settings["classes"]:  # all classes in their order need no class numbers
            return Bytes(bits, shared=True)
        return Largest(settings["top_k"], settings["tail_temperature"], bits)
    return Bytes() if settings["store"] == "int8" else Floats(settings["dtype"])


def to_levels(values: Tensor, bits: int, shared: bool) -> dict[str, Tensor]:
    """`values` [b, m] as uint8 `codes` [b, m] of steps above `low`; `low` and `step` fp16 [b]. Undone by `from_levels`.

    Args:
        shared: smallest value and step are those of the batch, not of each row.
    """
    levels, reach = 2**bits - 1, values.reshape(1, -1) if shared else values
    # codes are of the rounded numbers, so that rounding these costs nothing
    low = reach.amin(1).half()
    step = ((reach.amax(1).float() - low.float()) / levels).clamp_min(SMALLEST_STEP).half()
    low, step = low.expand(len(values)), step.expand(len(values))
    codes = ((values.float() - low.float()[:, None]) / step.float()[:, None]).round().clamp(0, levels)
    return {"codes": codes.to(torch.uint8), "low": low, "step": step}


def from_levels(columns: Mapping[str, Tensor]) -> Tensor:
    """fp32 [n, m]: low + step * codes, row by row."""
    low, step = columns["low"].float()[:, None], columns["step"].float()[:, None]
    return torch.addcmul(low, step, columns["codes"].float())
