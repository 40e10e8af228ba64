"""What a student of the images so far misses of the real ones, and what the teacher knows."""

from __future__ import annotations

import shutil

import torch

from hf_condense.data.cache import cache_folder, note_use, one_at_a_time
from hf_condense.data.pixels import image_digest
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.files import fingerprint, load_tensors, remove_leftovers, save_tensors
from hf_condense.labels.teacher import Ensemble
from hf_condense.methods.base import Context
from hf_condense.models.training import predict
from hf_condense.plan import Synthetic

VERSION = 1  # raised when the same images no longer give the same predictions
LOOK_BATCH = 1024


def student_of(earlier: Synthetic, context: Context, key: Key) -> dict[str, torch.Tensor]:
    """Trains a student on `earlier` as the run's students, with the pool as teacher on line, and looks at all real images.

    The answers are kept in the cache folder by the hash of what they depend on, so that all processes share them; an
    interrupted training goes on.

    Returns:
        "known": bool [N], the teacher is right; "missed": bool [N], the student is wrong; "sure": float32 [N], the
        student's probability of the true class.

    Raises:
        ConfigError: the context has no trainer of students.
    """
    trainer, train = context.student_trainer, context.train
    if trainer is None:
        raise ConfigError(
            "student_trainer", None, "a trainer of networks as the run's students", "give the context one"
        )
    seen = earlier.images if earlier.pixels is None else earlier.pixels
    digests = [image_digest(seen), image_digest(earlier.labels), *(m.sha256 for m in context.observers)]
    facts = [VERSION, trainer.fingerprint, context.fresh.fingerprint, train.fingerprint, str(key), digests]
    place = cache_folder() / "filters" / f"{fingerprint(facts)}.safetensors"
    if not place.exists():
        with one_at_a_time(place):
            if not place.exists():
                remove_leftovers(place.parent, place.name)
                state = place.with_suffix(".fit")
                protocol = trainer.protocol.resolve(context.fresh.name, trainer.ipc)
                teacher = Ensemble.for_protocol([m.model for m in context.observers], protocol, context.precision)
                student = trainer.train(
                    context.fresh(key / "initial").requires_grad_(True),
                    seen,
                    earlier.labels,
                    key=key / "fit",
                    regime="online",
                    teacher=teacher,
                    state_folder=state,
                )
                save_tensors(place, _look(student, teacher, context))
                shutil.rmtree(state, ignore_errors=True)
    note_use("answers of a student", place)
    return load_tensors(place)[0]


def _look(student: torch.nn.Module, teacher: Ensemble, context: Context) -> dict[str, torch.Tensor]:
    found: dict[str, list[torch.Tensor]] = {"known": [], "missed": [], "sure": []}
    for _, images, labels in context.train.batches(LOOK_BATCH):
        mine, theirs = (predict(m, images, context.device, size=context.image_size) for m in (student, teacher))
        found["known"].append(theirs.argmax(1) == labels)
        found["missed"].append(mine.argmax(1) != labels)
        found["sure"].append(mine.softmax(1).gather(1, labels[:, None])[:, 0])
    return {name: torch.cat(values) for name, values in found.items()}
