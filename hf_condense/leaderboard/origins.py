"""The images and the teacher that all results of a board share, held against what the board says of them."""

from __future__ import annotations

from hf_condense.config import DataSettings, check
from hf_condense.data.source import SOURCE_KEY, Splits, open_source
from hf_condense.hub.models import fetch_model
from hf_condense.leaderboard.board import BoardSource
from hf_condense.leaderboard.place import Place
from hf_condense.models.checkpoints import read_checkpoint
from hf_condense.models.image_model import ImageModel


def open_board_source(source: BoardSource) -> Splits:
    """Training and test images of a board's source.

    Raises:
        DataError: it cannot be opened.
        ConfigError: its images are others than the board was made with.
    """
    splits = open_source(
        DataSettings(
            dataset=source.id,
            revision=source.revision,
            image_size=source.image_size,
            max_per_class=source.max_per_class,
        ),
        SOURCE_KEY,
    )
    for name, found, expected in (
        ("training images", splits.train.fingerprint, source.fingerprint),
        ("test images", splits.test.fingerprint, source.test_fingerprint),
    ):
        check(
            found == expected,
            f"{name} of {source.name}",
            found,
            f"{expected}, those that the board was made with",
            f"use revision {source.revision or 'and versions'} of {source.id} as the board names it",
        )
    return splits


def board_teacher(place: Place, source: BoardSource) -> ImageModel:
    """The network that makes a source's soft labels: safetensors only, and the weights that the board names.

    Raises:
        ModelError, ArtefactError: it cannot be had, is damaged, or has other weights.
    """
    teacher = source.teacher
    if teacher.repo is not None:
        return fetch_model(teacher.repo, teacher.revision, teacher.sha256)
    model = read_checkpoint(place.folder / "teachers" / source.name)
    check(
        model.sha256() == teacher.sha256,
        "teacher",
        model.sha256(),
        f"{teacher.sha256}, as {source.name} of the board has",
        "fetch the board again",
    )
    return model
