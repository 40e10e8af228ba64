"""Compares virtual labels, computed again by the teacher, with a few stored ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

from hf_condense.data.augmentation import Views
from hf_condense.labels.columns import to_table

PROBES = 256  # labels that are stored
# largest mean divergence that counts as rounding: bf16 instead of fp32 makes 2e-6 to 2e-5, and one network instead of it
# and a second one as good (two that know 99 % of the digits) 4e-3
CLOSE = 1e-3

Labelled = tuple[Tensor, Views, Tensor]  # rows, views and logits of a batch


@dataclass(frozen=True)
class Regeneration:
    """How regenerated labels differ from the stored ones.

    Args:
        verdict: "equal" to the bit, "close" (as on another machine or in another precision), or "different".
        divergence: mean KL(kept || made again) of their softmax, in nats.
    """

    verdict: Literal["equal", "close", "different"]
    divergence: float


def probes(labelled: Callable[[int], Iterable[Labelled]], epochs: int) -> Iterator[Labelled]:
    """The first batches of a training that together have `PROBES` views, or all of them; `labelled` makes an epoch's."""
    seen = 0
    for rows, views, logits in chain.from_iterable(labelled(epoch) for epoch in range(epochs)):
        yield rows, views, logits
        seen += len(rows)
        if seen >= PROBES:
            return


def probe_table(found: Iterable[Labelled]) -> pa.Table:
    """Rows and logits (fp32) of the first `PROBES` views."""
    rows, logits = zip(*((rows, logits.cpu()) for rows, _, logits in found))
    return to_table({"index": torch.cat(rows)[:PROBES], "logits": torch.cat(logits)[:PROBES]})


def compare_probes(kept: Tensor, again: Tensor, close: float) -> Regeneration:
    """Compares logits [n, K]; `close` is the largest divergence of that verdict."""
    kept, again = kept.double(), again.double()
    one, two = kept.log_softmax(1), again.log_softmax(1)
    divergence = float((one.exp() * (one - two)).sum(1).mean())
    if torch.equal(kept, again):
        return Regeneration("equal", 0.0)
    # a shift of all logits leaves the softmax alone, but not a loss on logits
    near = divergence <= close and float((kept - again).square().mean()) <= close * float(kept.square().mean())
    return Regeneration("close" if near else "different", divergence)
