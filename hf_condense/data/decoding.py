"""Decodes an image into pixels of a given format: mode, channels and size."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image, ImageOps

DECODING_VERSION = 1  # raised when the same bytes no longer give the same pixels


@dataclass(frozen=True)
class PixelFormat:
    """The format of decoded images; the same for train and test.

    Args:
        channels: 1 (grey) or 3 (RGB).
        image_size: side in pixels of the input of networks.
        mean, std: of each channel, in unit pixels, for networks that are trained on these images.
    """

    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def stored_size(self) -> int:
        """Side of stored images: larger than networks' input where a crop is usual (224 -> 256), else the same."""
        return self.image_size if self.image_size <= 112 else self.image_size * 8 // 7


def over_white(image: Image.Image) -> Image.Image:
    """Composites an image with transparency over white, as web pages show it."""
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)


def plain_mode(image: Image.Image) -> Image.Image:
    """The same picture in mode L (grey) or RGB.

    Transparent pixels are blended with white, palettes are converted, 16 bits are scaled to 8 (65535 becomes 255).

    Raises:
        ValueError: pixels with an ambiguous range (floating point; 32-bit ones that are not clearly 16-bit values).
    """
    if image.mode in ("L", "RGB"):
        # a grey or RGB PNG may name one colour as transparent; it is ignored, as most viewers do
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.int64)
        if image.mode == "I" and (deep.min() < 0 or deep.max() > 65535 or 0 < deep.max() <= 255):
            # TIFF has 8-bit values in 32 bits as well, and PGM 16-bit ones: dark images do not show which it is
            raise ValueError(f"32-bit pixels {deep.min()} to {deep.max()} have no agreed range: save 8 or 16 bits")
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.mode in ("LA", "La"):
        return over_white(image).convert("L")
    if image.mode in ("RGBA", "RGBa", "PA") or (image.mode == "P" and "transparency" in image.info):
        return over_white(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    return image.convert("RGB")  # P, CMYK, YCbCr, LAB, HSV


def open_image(cell: Any) -> Image.Image:
    """A PIL image from encoded bytes, upright (camera orientation applied), fully read.

    Args:
        cell: encoded bytes, or {"bytes": ..., "path": ...} as the Image feature stores it.

    Raises:
        ValueError: the cell contains no image.
        Exception: any error of the decoder on damaged bytes.
    """
    data = cell_bytes(cell)
    image = Image.open(io.BytesIO(data))
    image.load()
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return image


def cell_bytes(cell: Any) -> bytes:
    """The encoded bytes of a cell, read from its path where they are not in the table.

    Raises:
        ValueError: the cell is empty.
        OSError: the file it points to cannot be read.
    """
    if isinstance(cell, (bytes, bytearray)):
        return bytes(cell)
    if cell is None or (not cell.get("bytes") and not cell.get("path")):
        raise ValueError("the cell is empty")
    if cell.get("bytes"):
        return cell["bytes"]
    if "://" in cell["path"]:
        from datasets.utils.file_utils import xopen  # streamed folders and archives name their files by address

        with xopen(cell["path"], "rb") as file:
            return file.read()
    with open(cell["path"], "rb") as file:
        return file.read()


def square(image: Image.Image, side: int) -> Image.Image:
    """The centre square of `image` at `side` pixels (shorter side resized, bilinear with antialiasing).

    Equal to a resize of the shorter side followed by a centre crop, without rounding the crop to whole pixels. An
    image that already has that size is returned unchanged.
    """
    width, height = image.size
    if (width, height) == (side, side):
        return image
    edge = min(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    box = (left, top, left + edge, top + edge)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)


def to_pixels(cell: Any, channels: int, side: int) -> np.ndarray:
    """uint8 [channels, side, side] of an encoded image."""
    image = plain_mode(open_image(cell))
    mode = "L" if channels == 1 else "RGB"
    image = square(image if image.mode == mode else image.convert(mode), side)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def worker_count() -> int:
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def map_ahead(function: Callable, items: Iterable, ahead: int = 3) -> Iterator:
    """`map` on threads that stays at most `ahead` items in front of the consumer, in order.

    Memory is bounded for any length; an exception of a call is raised in its place in the order.
    """
    with ThreadPoolExecutor(worker_count()) as pool:
        todo, waiting = iter(items), []
        try:
            waiting += [pool.submit(function, item) for item in islice(todo, ahead)]
            while waiting:
                done = waiting.pop(0).result()
                waiting += [pool.submit(function, item) for item in islice(todo, 1)]
                yield done
        finally:  # a consumer that stops early does not wait for pending work
            for future in waiting:
                future.cancel()
