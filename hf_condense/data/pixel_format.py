"""Settles channels, size, mean and std of decoded images: from settings, published values or the images."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from hf_condense.config import DataSettings
from hf_condense.data.cache import cache_folder, one_at_a_time
from hf_condense.data.decoding import DECODING_VERSION, PixelFormat
from hf_condense.data.images import ImageSource
from hf_condense.data.names import IMAGENET_MEAN, IMAGENET_STD, KnownDataset
from hf_condense.data.randomness import Key
from hf_condense.errors import DataError
from hf_condense.files import fingerprint, read_json, write_json

logger = logging.getLogger(__name__)

PROBE = 64  # images read to settle channels and size
MEASURED = 2000  # images that mean and std are measured on
DARK = 16  # of 255: images without brighter pixels probably have another range


def settle_pixels(train: ImageSource, known: KnownDataset | None, settings: DataSettings, key: Key) -> PixelFormat:
    """Channels, size, mean and std: as set, else as the table of known datasets says, else from the images."""
    # over all rows, because folders come sorted by class
    rows = np.linspace(0, len(train) - 1, min(PROBE, len(train))).round().astype(np.int64)
    looked = {row: image for row in rows if (image := _peek(train, row, settings)) is not None}
    seen = list(looked.values())
    if not seen:
        raise DataError(
            "dataset", settings.dataset, f"images that decode; none of {len(rows)} does", "mend or replace them"
        )
    _warn_of_dark(train, looked)
    grey = sum(image.mode == "L" for image in seen)
    channels = int(settings.channels) if settings.channels != "auto" else 1 if grey == len(seen) else 3
    if settings.channels == "auto" and 0 < grey < len(seen):
        logger.info("%d of %d images looked at are grey: all are read as RGB (--channels 1: as grey)", grey, len(seen))
    size = settings.image_size or (known.image_size if known else None)
    if size is None:  # small images keep their size, photographs are resized to the usual one
        side = int(np.median([min(i.size) for i in seen]))
        size = max(side, 4) if side <= 112 else 224
    mean, std = (known.mean, known.std) if known else (None, None)
    if mean and len(mean) == 1 and channels == 3:
        mean, std = mean * 3, std * 3
    if mean is None or len(mean) != channels:
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 and size >= 64 else (None, None)
    if mean is None:
        mean, std = _measure(train, PixelFormat(channels, size, (0.0,) * channels, (1.0,) * channels), settings, key)
    return PixelFormat(channels, size, tuple(mean), tuple(std))


def _peek(train: ImageSource, row: int, settings: DataSettings) -> Any:
    try:
        return train.native(row)
    except DataError:
        if settings.skip_corrupt:
            return None
        raise


def _warn_of_dark(train: ImageSource, looked: dict[int, Any]) -> None:
    """Warns if no probed image is brighter than a sixteenth of white: 12-bit values are often stored in 16 bits."""
    largest = max(int(np.asarray(image).max()) for image in looked.values())
    if largest > DARK:
        return
    stored = [a for row in looked if (a := np.asarray(train.stored(row))).dtype.kind in "ui"]
    top = max((int(a.max()) for a in stored), default=largest)
    # 16-bit images come in 32 bits from some formats
    white = 255 if all(a.dtype == np.uint8 for a in stored) else 65535
    logger.warning(
        "the images use 0 to %d of %d and are nearly black: if %d is white in them, scale them to the whole range first",
        top,
        white,
        top,
    )


def _measure(train: ImageSource, pixels: PixelFormat, settings: DataSettings, key: Key) -> tuple[tuple, tuple]:
    """Mean and std over at most `MEASURED` images, to four digits (as published tables have them)."""
    sample = train.with_pixels(pixels).subset(np.sort(key.permutation(len(train))[:MEASURED]))
    if settings.skip_corrupt:
        sample = without_corrupt(sample)
    values = sample.images(np.arange(len(sample))).numpy().transpose(1, 0, 2, 3).reshape(pixels.channels, -1) / 255.0
    mean, std = values.mean(1), values.std(1)
    return tuple(round(float(m), 4) for m in mean), tuple(max(round(float(s), 4), 1e-3) for s in std)


def without_corrupt(source: ImageSource) -> ImageSource:
    """`source` without the images that do not decode. The list of these is computed once and cached."""
    path = cache_folder() / "undecodable" / f"{fingerprint([DECODING_VERSION, source.fingerprint])}.json"
    with one_at_a_time(path):
        if not path.exists():
            write_json(path, source.undecodable())
        bad = [row for row, _ in read_json(path)]
    if bad:
        logger.warning("left out %d images of split %s that do not decode", len(bad), source.split)
    return source.subset(np.setdiff1d(np.arange(len(source)), bad)) if bad else source
