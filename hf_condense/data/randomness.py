"""Every random draw has a name: counter-based streams keyed by (seed, stage, shard, what, index)."""

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
        """A 63-bit number that stands for this key (for libraries that want one seed)."""
        # repr tells 1 from "1"; int() keeps numpy integers from spelling themselves differently
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
    """Runs code that only knows global random state (initialisation, dropout) under `key`, then puts the state back."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    seed = key.seed()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.random.set_rng_state(cpu)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
