"""Squeeze and statistics of a set with as many images as ImageNet-1k, of which decoded images are kept nowhere.

    python -m benchmarks.large_set --images 1280000 --side 16

Tiny PNG images of 1,000 classes are written once, as Parquet. One network is trained on all of them for one epoch and the
statistics pass goes over them; both decode what they ask for, ahead (`--decode_gb 0`). Written down: images a second of each
stage, peak of the process's memory (pages of the opened files are in it) and of what it allocates itself, and bytes on the disk.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.record import options, parser, write

SHARD = 50_000
CLASSES = 1000


def encoded(side: int, number: int) -> bytes:
    """A PNG of noise around a colour of its class."""
    from PIL import Image

    drawn = np.random.default_rng(number)
    colour = np.random.default_rng(number % CLASSES).integers(40, 216, 3)
    pixels = np.clip(colour + drawn.normal(0, 24, (side, side, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def write_images(folder: Path, split: str, images: int, side: int) -> None:
    """Parquet files of `images` images in the form of `datasets`, classes in turn."""
    from datasets import ClassLabel, Dataset, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=[f"class {c}" for c in range(CLASSES)])})
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, images, SHARD):
        numbers = range(start, min(start + SHARD, images))
        rows = {
            "image": [{"bytes": encoded(side, n), "path": None} for n in numbers],
            "label": [n % CLASSES for n in numbers],
        }
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-{start // SHARD:05d}.parquet")


class Allocated(threading.Thread):
    """The most memory of this process that no file stands behind, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            self.peak = max(self.peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")))
            time.sleep(0.1)


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    found = parser(__doc__)
    found.add_argument("--images", type=int, default=1_280_000)
    found.add_argument("--side", type=int, default=16, help="in pixels")
    found.add_argument("--network", default="convnet_d2_w16")
    found.add_argument("--folder", type=Path, help="of the images and the run; defaults to a temporary one")
    asked = options(found)
    with tempfile.TemporaryDirectory() as temporary:
        root = asked.folder or Path(temporary)
        os.environ["HF_CONDENSE_CACHE"] = str(root / "cache")
        os.environ["HF_DATASETS_CACHE"] = str(root / "datasets")
        write("large_set", asked, measure(asked, root))


def measure(asked, root: Path) -> dict:
    """Figures of one run in `root`."""
    from hf_condense import CondensationTrainer

    source = root / "source"
    if not source.exists():
        write_images(source, "test", CLASSES, asked.side)
        write_images(source, "train", asked.images, asked.side)
    allocated = Allocated()
    allocated.start()
    began = time.monotonic()
    trainer = CondensationTrainer(
        "edc", str(source), ipc=1, base_model=[asked.network], squeeze_epochs=1, squeeze_batch=256, decode_gb=0.0,
        min_top1_over_chance=0.0, output_dir=str(root / "run"), regimes=["hard"], students=[asked.network],
        threads=asked.threads,
    )  # fmt: skip
    figures = {"opened, s": time.monotonic() - began}
    began = time.monotonic()
    trainer.squeeze()
    figures["squeeze, images/s"] = asked.images / (time.monotonic() - began)
    began = time.monotonic()
    trainer.prepare()
    figures["statistics, images/s"] = asked.images / (time.monotonic() - began)
    facts = trainer.pipeline.facts()
    figures["peak memory, MB"] = max(stage["peak_bytes"] for stage in facts.values()) / 1e6
    figures["allocated, MB"] = allocated.peak / 1e6
    figures["encoded images, MB"] = bytes_below(source) / 1e6
    figures["their table, MB"] = bytes_below(root / "datasets") / 1e6
    figures["cache and run, MB"] = (bytes_below(root / "cache") + bytes_below(root / "run")) / 1e6
    figures["decoded images would take, MB"] = asked.images * 3 * asked.side**2 / 1e6
    return figures


if __name__ == "__main__":
    main()
