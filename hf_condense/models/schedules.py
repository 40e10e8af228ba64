"""Learning-rate schedules: the multiplier of the base rate at each epoch, as pure functions.

Not timm's schedulers, which change an optimiser step by step and have none of EDC's schedules: a pure function of the
epoch needs no state when a training resumes.

`epoch` counts from 0 to `epochs` - 1; the rate is set at the start of an epoch and holds until the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hf_condense.config import nearest
from hf_condense.errors import ConfigError


def constant(epoch: int, epochs: int) -> float:
    return 1.0


def cosine(epoch: int, epochs: int, period: float = 1.0) -> float:
    """Half a cosine over `period` times the training; `period` 3 stops early on the curve (EDC's ImageNet-10 squeeze)."""
    return (1 + math.cos(math.pi * epoch / (period * epochs))) / 2


def smoothing(epoch: int, epochs: int, zeta: float = 2.0) -> float:
    """EDC's smoothing schedule (arXiv:2404.13733, Eq. 3): a cosine that ends above zero when `zeta` > 1."""
    return cosine(epoch, epochs, zeta)


def ssrs(epoch: int, epochs: int, zeta: float = 2.0) -> float:
    """EDC's early-late schedule: smoothing for five sixths of the training, then linearly to zero.

    The value drops where the parts meet (0.63 to 0.105 for `zeta` 2): the second part is scaled by its own ramp.
    """
    if 6 * epoch <= 5 * epochs:
        return smoothing(epoch, epochs, zeta)
    return (1 + math.cos(5 * math.pi / (6 * zeta))) / 2 * (6 * epochs - 6 * epoch) / (6 * epochs)


def linear_compat(epoch: int, epochs: int, zeta: float = 2.0) -> float:
    """What EDC's ImageNet-1k script runs under the name "cos": a straight line, 1 - epoch / (zeta * epochs)."""
    return 1 - epoch / (zeta * epochs)


def multistep(epoch: int, epochs: int, milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> float:
    """Times `factor` at each milestone: an epoch where it is 1 or more, a share of the training where it is below 1.

    The epoch at a share is rounded down.
    """
    passed = sum(epoch >= (m if m >= 1 else int(m * epochs)) for m in milestones)
    return factor**passed


def step(epoch: int, epochs: int, every: int = 30, factor: float = 0.1) -> float:
    """Times `factor` after every `every` epochs."""
    return factor ** (epoch // every)


SCHEDULES: dict[str, Callable[..., float]] = {
    f.__name__: f for f in (constant, cosine, smoothing, ssrs, linear_compat, multistep, step)
}


def multiplier(
    name: str, epoch: int, epochs: int, *, warmup_epochs: int = 0, warmup_factor: float = 0.01, **params
) -> float:
    """The share of the base learning rate that holds in `epoch` of `epochs`.

    With `warmup_epochs`, the rate first climbs linearly from `warmup_factor` to 1, and the schedule runs over the rest.

    Raises:
        ConfigError: unknown schedule, or a parameter that it does not have.
    """
    if name not in SCHEDULES:
        raise ConfigError("schedule", name, ", ".join(SCHEDULES), nearest(name, list(SCHEDULES)))
    if epoch < warmup_epochs:
        return warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
    try:
        return SCHEDULES[name](epoch - warmup_epochs, max(1, epochs - warmup_epochs), **params)
    except TypeError as error:
        raise ConfigError("schedule_params", params, f"parameters of {name}", str(error)) from None
