"""The observers of a step: in the order of the pool, or in shuffled cycles in which each is used once."""

from __future__ import annotations

from hf_condense.data.randomness import Key


def whose_turn(step: int, members: int, per_step: int = 1, key: Key | None = None) -> list[int]:
    """Numbers of the observers of a step.

    A shuffled cycle has less variance than independent draws, and a step's observers follow from its number alone, so
    that a resumed shard continues the cycle.

    Args:
        members: size of the pool.
        per_step: observers a step.
        key: shuffles each cycle again; None keeps the order of the pool.
    """
    found = []
    for turn in range(step * per_step, (step + 1) * per_step):
        cycle, place = divmod(turn, members)
        found.append(place if key is None else int((key / "turns" / cycle).permutation(members)[place]))
    return found
