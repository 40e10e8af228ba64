"""Small image datasets, made here."""

import io

import numpy as np
from PIL import Image

from hf_condense.data.randomness import Key


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def picture(seed: int, width: int = 12, height: int = 12, mode: str = "RGB") -> Image.Image:
    noise = Key(seed, "picture").numpy().integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def image_dataset(labels, feature=None, **pictures):
    """A Dataset with one picture for each label; `feature` is the type of the label column."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    if feature is None:
        feature = ClassLabel(names=["cat", "dog", "emu"])
    elif isinstance(feature, str):
        feature = Value(feature)
    cells = [{"bytes": encoded(picture(i, **pictures)), "path": None} for i in range(len(labels))]
    features = Features({"image": ImageFeature(), "label": feature})
    return Dataset.from_dict({"image": cells, "label": list(labels)}, features=features)
