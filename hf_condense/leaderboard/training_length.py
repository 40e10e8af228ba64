"""How long a board's protocol trains a student on a set: steps and epochs, in the stages of the set."""

from __future__ import annotations

from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.staged import stage_rows
from hf_condense.evaluation.students import training_plan


def protocol_steps(protocol: Protocol, student: str, found: ImageSet, ipc: int) -> int:
    """Optimiser steps that a protocol has for a student on a set, in the stages of the set."""
    resolved, epochs, sizes = _planned(protocol, student, found, ipc)
    return sum(
        epochs * min(-(-size // resolved.batch_size(size)), resolved.duration(size)[1] or size) for size in sizes
    )


def protocol_epochs(protocol: Protocol, student: str, found: ImageSet, ipc: int) -> int:
    """Epochs that a protocol has for a student on a set, all stages together."""
    _, epochs, sizes = _planned(protocol, student, found, ipc)
    return epochs * len(sizes)


def _planned(protocol: Protocol, student: str, found: ImageSet, ipc: int) -> tuple[Protocol, int, list[int]]:
    """The resolved protocol, epochs of each stage, and images that each stage sees."""
    tiles = found.formation_factor**2
    images, stages = len(found.images) * tiles, None if found.stages is None else found.stages.repeat(tiles)
    sizes = [images] if stages is None else [len(rows) for rows in stage_rows(stages, protocol.mode)]
    resolved, recipe = training_plan(protocol.resolve(student, shown(found, ipc)), images, stages, found.rates)
    return resolved, recipe.epochs // len(sizes), sizes


def shown(found: ImageSet, ipc: int) -> int:
    """Training images of a class that students see."""
    return ipc * found.formation_factor**2
