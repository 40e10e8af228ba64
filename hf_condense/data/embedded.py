"""Datasets that need no network: scikit-learn's handwritten digits, and generated textured shapes of many classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_condense.data.randomness import Key

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def embedded(name: str) -> DatasetDict:
    """The embedded set of that name (the entries of `names.KNOWN` that are marked so)."""
    if name == "digits":
        return digits()
    if name == "generated-200":
        return generated_classes(200, per_class=20, size=64, key=Key(0, "generated-200"))
    raise AssertionError(f"{name} is marked as embedded, but nothing makes it")


def digits() -> DatasetDict:
    """1,797 handwritten digits, grey, 8 x 8 pixels, in 10 classes; a fifth of each class is the test split.

    The split does not depend on the seed of a run, so that scores of different runs are of the same images.
    """
    from datasets import DatasetDict
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # published with 17 grey levels, 0 to 16
    labels = bunch.target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    for c in range(10):
        rows = np.flatnonzero(labels == c)
        test[rows[Key(0, "digits", "test", c).permutation(len(rows))[: round(len(rows) / 5)]]] = True
    names = [str(c) for c in range(10)]
    splits = {"train": ~test, "test": test}
    return DatasetDict({s: as_dataset(pixels[m], labels[m], names, "digits", "cc-by-4.0") for s, m in splits.items()})


def as_dataset(pixels: np.ndarray, labels: np.ndarray, class_names: list[str], name: str, license: str) -> Dataset:
    """A Dataset with columns image (PNG) and label.

    Args:
        pixels: uint8 [n, H, W] (grey) or [n, H, W, 3].
        labels: int64 [n].
    """
    from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=class_names)})
    info = DatasetInfo(features=features, dataset_name=name, license=license)
    columns = {"image": [{"bytes": png(p), "path": None} for p in pixels], "label": labels.tolist()}
    return Dataset.from_dict(columns, features=features, info=info)


def png(pixels: np.ndarray) -> bytes:
    """PNG bytes of uint8 [H, W] or [H, W, 3]."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def generated_classes(num_classes: int, per_class: int, size: int, key: Key) -> DatasetDict:
    """Coloured textured shapes: as many classes as asked for, for tests of shape, memory and speed.

    A class has a shape (regular polygon or star), a colour pair, a stripe pattern; an image of it has a random place,
    scale, rotation, brightness and noise. Test images are a fifth of `per_class`, at least one.

    Returns:
        train and test, RGB PNG images of `size` x `size` pixels.
    """
    from datasets import DatasetDict

    names = [f"class {c:03d}" for c in range(num_classes)]
    splits = {}
    for split, count in (("train", per_class), ("test", max(1, per_class // 5))):
        labels = np.repeat(np.arange(num_classes), count)
        pixels = np.concatenate([_shapes(key / "class" / c, key / split / c, count, size) for c in range(num_classes)])
        order = (key / split / "order").permutation(len(labels))
        splits[split] = as_dataset(pixels[order], labels[order], names, f"generated-{num_classes}", "apache-2.0")
    return DatasetDict(splits)


def _shapes(class_key: Key, image_key: Key, count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3] of one class."""
    looks = class_key.numpy()
    corners, star = looks.integers(3, 8), looks.random() < 0.5
    inside, outside = looks.random(3), looks.random(3)
    frequency, tilt, depth = looks.uniform(4, 20), looks.uniform(0, np.pi), looks.uniform(0.2, 0.6)

    draw = image_key.numpy()
    place, radius = draw.uniform(-0.3, 0.3, (count, 2, 1, 1)), draw.uniform(0.35, 0.7, (count, 1, 1))
    turn, light = draw.uniform(0, 2 * np.pi, (count, 1, 1)), draw.uniform(0.7, 1.1, (count, 1, 1, 1))
    axis = np.linspace(-1, 1, size)
    y, x = axis[:, None] - place[:, 0], axis[None, :] - place[:, 1]
    angle = np.mod(np.arctan2(y, x) - turn, 2 * np.pi / corners) - np.pi / corners
    # distance to the edge of a regular polygon in that direction; a star pulls the middle of each side in
    edge = (
        radius * np.cos(np.pi / corners) / np.cos(angle) * (0.5 + 0.5 * np.abs(angle) * corners / np.pi if star else 1)
    )
    within = (np.hypot(x, y) < edge)[..., None]
    stripes = 0.5 + 0.5 * np.sin(frequency * (x * np.cos(tilt) + y * np.sin(tilt)))[..., None]
    image = np.where(within, inside * (1 - depth * stripes), outside * (1 - 0.3 * depth * (1 - stripes)))
    image = image * light + draw.normal(0, 0.03, image.shape)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
