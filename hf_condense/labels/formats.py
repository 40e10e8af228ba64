"""The format of a label store: its epochs, its labels, and whether the parameters of views are stored."""

from __future__ import annotations

from typing import Any

from hf_condense.config import LabelSettings
from hf_condense.data.randomness import Key


def store_format(settings: LabelSettings, temperature: float | None = None, parts: int = 1) -> dict[str, Any]:
    """The part of `settings` that affects a store, as its manifest records it.

    Args:
        temperature: at which students soften labels; None where their loss compares logits.
        parts: of a batch that the teacher labels each by itself (`Protocol.label_parts`).
    """
    kind = settings.store
    found: dict[str, Any] = {"store": kind}
    if kind != "none":
        found["views"] = settings.views or ("keyed" if kind in ("packed", "virtual") else "explicit")
        found |= {"accumulation": parts} if parts > 1 else {}
    if kind == "pruned":
        found["prune"] = settings.keep_every
    if kind == "packed":
        found |= {
            "views_per_image": settings.views_per_image,
            "top_k": settings.top_k,
            "tail_temperature": temperature,
        }
        if settings.value_bits < 8:
            found["value_bits"] = settings.value_bits
    return found


def kept_epochs(form: dict[str, Any], key: Key, epochs: int) -> list[int]:
    """Numbers of the epochs, of `epochs` that the views are drawn for, that a store of this format holds.

    A part of them is drawn by `key`, so that pruned and packed stores are parts of the full one.
    """
    count = epochs
    if form["store"] == "pruned":
        count = max(1, epochs // form["prune"])
    if form["store"] == "packed":
        count = min(epochs, form["views_per_image"])  # every epoch is one view of every image
    if count == epochs:
        return list(range(epochs))
    return sorted((key / "kept").permutation(epochs)[:count].tolist())
