"""Named random draws: counter-based streams keyed by (seed, stage, shard, purpose, index)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Key:
    """The name of a stream of random numbers. Equal names draw equal numbers, on any process, in any order.

    `Key(0, "condense") / "shard-3" / "crop" / 17` names the crop draw of step 17 of that shard.
    """

    parts: tuple

    def __init__(self, *parts: int | str) -> None:
        object.__setattr__(self, "parts", tuple(parts))

    def __truediv__(self, part: int | str) -> Key:
        return Key(*self.parts, part)

    def seed(self) -> int:
        """A 63-bit seed derived from this key, for libraries that take a single seed."""
        # repr distinguishes 1 from "1"; int() because numpy integers have another repr
        spelled = "/".join(repr(int(p)) if isinstance(p, (int, np.integer)) else repr(p) for p in self.parts)
        return int.from_bytes(hashlib.blake2b(spelled.encode(), digest_size=8).digest(), "big") >> 1

    def numpy(self) -> np.random.Generator:
        """A counter-based (Philox) generator that starts at this key."""
        return np.random.Generator(np.random.Philox(key=self.seed()))

    def permutation(self, n: int) -> np.ndarray:
        """A permutation of 0..n-1 (int64)."""
        return self.numpy().permutation(n)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """float64 numbers in [low, high)."""
        return low + (high - low) * self.numpy().random(shape)

    def __str__(self) -> str:
        return "/".join(str(p) for p in self.parts)


@contextmanager
def keyed(key: Key) -> Iterator[None]:
    """Seeds global random state (used by initialisation, dropout) from `key` for a block, then restores it."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    seed = key.seed()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # not torch.manual_seed: where no device is in use, it formats the stack for each one at every call
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.random.set_rng_state(cpu)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
