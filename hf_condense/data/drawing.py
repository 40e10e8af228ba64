"""Seeded draws of rows that keep every class in proportion: hold-outs, caps per class, smaller test sets."""

from __future__ import annotations

import numpy as np

from hf_condense.data.randomness import Key


def per_class(labels: np.ndarray, limit: int, key: Key) -> np.ndarray:
    """Ascending rows: at most `limit` of each class, drawn without replacement.

    A larger limit contains the rows of a smaller one, so subsets of different sizes are nested.
    """
    kept = []
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        kept.append(rows[(key / int(c)).permutation(len(rows))[:limit]])
    return np.sort(np.concatenate(kept))


def hold_out(labels: np.ndarray, fraction: float, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Ascending rows (kept, held out): that fraction of each class, at least one image of it unless it has only one."""
    held = []
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
        held.append(rows[(key / int(c)).permutation(len(rows))[:count]])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


def scored_on(labels: np.ndarray, most: int, key: Key) -> np.ndarray:
    """Ascending rows of the test images that `max_test` leaves; `key` is that of a source's draws."""
    return stratified(labels, most, key / "max_test")


def stratified(labels: np.ndarray, count: int, key: Key) -> np.ndarray:
    """Ascending rows: `count` of them (all where there are fewer), classes in proportion (largest remainders first)."""
    if count >= len(labels):
        return np.arange(len(labels))
    classes, sizes = np.unique(labels, return_counts=True)
    share = sizes * count / len(labels)
    quota = np.floor(share).astype(int)
    # equal remainders are broken by a keyed shuffle, so that low class numbers are not preferred
    order = (key / "remainders").permutation(len(classes))
    order = order[np.argsort(-(share - quota)[order], kind="stable")]
    quota[order[: count - quota.sum()]] += 1
    kept = []
    for c, number in zip(classes, quota):
        rows = np.flatnonzero(labels == c)
        kept.append(rows[(key / int(c)).permutation(len(rows))[:number]])
    return np.sort(np.concatenate(kept))
