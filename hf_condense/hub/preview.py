"""Preview pictures: grids of images by class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hf_condense.text import printable

INK, PAPER = (38, 40, 46), (255, 255, 255)
GAP, MARGIN = 3, 16
MAX_CLASSES, MAX_COLUMNS = 40, 10
SHOWN_SIDE = 64  # images below this are enlarged by a whole factor, so that pixels stay square and sharp
LONGEST_NAME = 200  # characters; the rest of a longer name is cut before measuring
GRID_SIDE = 128  # images of a grid above this are shrunk: a preview should not outweigh the set


def image_grid(
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    path: Path | str,
    columns: int | None = None,
    rows: Sequence[int] | None = None,
) -> None:
    """Writes a PNG with one line a class: its name at the left, its images beside it.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        columns: images shown of a class; defaults to at most 10.
        rows: which images to show; defaults to those of up to 40 classes, spread evenly over the class order.
    """
    labels = torch.as_tensor(labels).cpu()
    chosen = torch.as_tensor(rows if rows is not None else _fair_rows(labels, columns or MAX_COLUMNS))
    groups = {c: chosen[labels[chosen] == c][:columns] for c in labels[chosen].unique().tolist()}
    _write_lines(path, [(class_names[c], images[group]) for c, group in groups.items()], largest=GRID_SIDE)


def _fair_rows(labels: Tensor, columns: int) -> list[int]:
    present = labels.unique().tolist()
    picked = sorted({round(i) for i in np.linspace(0, len(present) - 1, min(len(present), MAX_CLASSES))})
    return [row for i in picked for row in (labels == present[i]).nonzero().flatten()[:columns].tolist()]


def _write_lines(path: Path | str, lines: list[tuple[str, Tensor]], largest: int) -> None:
    """Lays out named lines of images in as many blocks side by side as make a landscape picture."""
    height, width = _shown(*lines[0][1].shape[-2:], largest)
    cell_h, cell_w = height + GAP, width + GAP
    size = min(26, max(13, cell_h // 4))
    names = [_shorten(name, size, 6 * size + 2 * cell_w) for name, _ in lines]
    left = max(_text_width(name, size) for name in names) + MARGIN
    block_w = left + max(len(images) for _, images in lines) * cell_w + MARGIN
    shapes = range(1, len(lines) + 1)
    blocks = min(shapes, key=lambda b: abs(np.log(b * block_w / (-(-len(lines) // b) * cell_h) / 1.5)))
    depth = -(-len(lines) // blocks)
    blocks = -(-len(lines) // depth)  # no empty block at the right
    canvas = Image.new("RGB", (blocks * block_w + MARGIN, depth * cell_h - GAP + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, (name, (_, images)) in enumerate(zip(names, lines)):
        x, y = MARGIN + (i // depth) * block_w, MARGIN + (i % depth) * cell_h
        draw.text((x + left - MARGIN // 2, y + (cell_h - GAP) // 2), name, INK, _font(size), anchor="rm")
        for j, image in enumerate(images):
            picture = _picture(image)
            smaller = width < picture.width
            picture = picture.resize(
                (width, height), Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
            )
            canvas.paste(picture, (x + left + j * cell_w, y))
    canvas.save(path, "PNG", optimize=True)


def _shown(height: int, width: int, largest: int) -> tuple[int, int]:
    """Height and width in the picture: a whole multiple of small images, at most `largest` of big ones."""
    side = max(height, width)
    scale = max(1, -(-SHOWN_SIDE // side)) if side <= largest else largest / side
    return round(height * scale), round(width * scale)


def _picture(image: Tensor) -> Image.Image:
    pixels = image.cpu().numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # the font of matplotlib: always installed, and class names need not be English
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _text_width(text: str, size: int) -> int:
    return int(np.ceil(_font(size).getlength(text)))


def _shorten(name: str, size: int, limit: int) -> str:
    """The name in one line, cut to `limit` pixels."""
    name = printable(name)
    if len(name) > LONGEST_NAME:
        name = name[:LONGEST_NAME] + "…"
    if _text_width(name, size) <= limit:
        return name
    while len(name) > 1 and _text_width(name + "…", size) > limit:
        name = name[:-1].rstrip()
    return name + "…"
