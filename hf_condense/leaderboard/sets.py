"""A condensed set as a board takes it: read, held against the board's source, and described."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from hf_condense.config import check
from hf_condense.data.drawing import scored_on
from hf_condense.data.source import SOURCE_KEY, ImageSource
from hf_condense.errors import ArtefactError
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.files import fingerprint
from hf_condense.hub import hashes
from hf_condense.hub.artefact import DATA, SOFT_LABELS, TENSORS
from hf_condense.hub.distilled import DistilledDataset, locate
from hf_condense.hub.record import CONDENSATION, read_record
from hf_condense.leaderboard.result import SetRef
from hf_condense.snapshots import fetch_snapshot

MAX_IMAGE_BYTES = 20_000_000  # of one encoded image
# what the content hash covers, of stored labels their manifest: never a stranger's models, and labels only where asked for
_READ = [CONDENSATION, f"{DATA}/*.parquet", f"{TENSORS}/*.parquet", f"{SOFT_LABELS}/manifest.json"]


@dataclass(frozen=True)
class CondensedSet:
    """A set that fits a board's source.

    Args:
        place: its folder on this machine.
        repo, revision: of the Hub, None for a folder.
        image_bytes: of the images as published.
    """

    data: DistilledDataset
    place: Path
    repo: str | None
    revision: str | None
    ipc: int
    image_bytes: int

    @property
    def pixels_hash(self) -> str:
        """sha256 of images and class numbers alone."""
        return pixels_hash(self.data.images, self.data.labels)

    @property
    def method_name(self) -> str:
        return self.data.content["method"]["name"]

    @property
    def seed(self) -> int | None:
        """Of the synthesis, where recorded."""
        seed = self.data.content["config"].get("run", {}).get("seed")
        return seed if isinstance(seed, int) else None

    def image_set(self) -> ImageSet:
        """For scoring under the board's labels: in the stages that the set was made in, without labels of its own."""
        return ImageSet(
            self.data.images,
            self.data.labels,
            formation_factor=self.formation_factor,
            rates=self._rates(),
            bytes=self.image_bytes,
            stages=self.data.stages,
        )

    @property
    def formation_factor(self) -> int:
        """f, where an image holds f x f training images.

        Raises:
            ConfigError: the record says something else than a divisor of the side.
        """
        rule = self.data.content.get("training", {}).get("decode")
        if not isinstance(rule, dict):
            return 1
        formation = rule.get("formation")
        factor = formation.get("factor") if isinstance(formation, dict) else None
        side = self.data.images.shape[-1]
        check(type(factor) is int and 1 <= factor <= side, "training.decode", rule, f"a factor from 1 to {side}")
        return factor

    def _rates(self) -> tuple[float, ...] | None:
        """The learning rates that were learned with the set: of each of its stages, else the last one."""
        rates = self.data.content.get("training", {}).get("learned_rates")
        if not rates:
            return None
        fits = isinstance(rates, list) and all(type(r) in (int, float) and 0 < r < math.inf for r in rates)
        check(fits, "training.learned_rates", str(rates)[:80], "learning rates above 0")
        return tuple(float(rate) for rate in (rates[-1:] if self.data.stages is None else rates))

    def ref(self, made_by: str | None) -> SetRef:
        """What a result says of it."""
        digest = self.data.content["content_hash"].removeprefix("sha256:")
        return SetRef(
            repo=self.repo or f"sets/{digest}",
            revision=self.revision,
            content_hash=digest,
            pixels_hash=self.pixels_hash,
            seed=self.seed,
            images=len(self.data),
            image_bytes=self.image_bytes,
            licence=self.data.content["source"].get("license"),
            made_by=made_by,
        )


def pixels_hash(images: torch.Tensor, labels: torch.Tensor) -> str:
    """64 hex digits over decoded pixels and class numbers in row order."""
    return hashes.pixels_hash(images, labels).removeprefix("sha256:")


def open_set(
    name: str, train: ImageSource, test: ImageSource, *, revision: str | None = None, labels: bool = False
) -> CondensedSet:
    """Reads a set and holds it against the source that the board reads.

    Nothing of it is decoded before sizes are checked, and nothing is unpickled.

    Args:
        name: run folder, folder of a distilled dataset, or Hub id.
        train, test: of the board's source.
        labels: fetch the stored labels of a Hub id too.

    Raises:
        ArtefactError: it cannot be read, or is damaged.
        ConfigError: a set of another source, or without the same number of images in each class.
    """
    place, repo, commit = Path(name), None, None
    if place.is_dir():
        place = locate(place)
    else:
        patterns = [*_READ, f"{SOFT_LABELS}/**"] if labels else _READ
        place = fetch_snapshot(
            name,
            "dataset",
            revision=revision,
            patterns=patterns,
            error=ArtefactError,
            field="set",
            allowed="a run folder, a folder with a distilled dataset, or a Hub dataset repository",
        )
        repo, commit = name, place.name
        if not (place / CONDENSATION).exists():
            raise ArtefactError(
                "set",
                name,
                f"a repository with a {CONDENSATION}",
                "sets that others published come through `hf-condense import`",
            )
    content = read_record(place)["content"]
    _fits(content, train, test)
    image_bytes = sum(_encoded(place, train.image_size))
    data = DistilledDataset.load(place)
    check(
        data.images.shape[1:] == (train.channels, *[train.image_size] * 2),
        f"images of {name}",
        list(data.images.shape[1:]),
        f"[{train.channels}, {train.image_size}, {train.image_size}], the source's",
    )
    counts = torch.bincount(data.labels, minlength=train.num_classes)
    check(
        bool((counts == counts[0]).all()),
        f"images of {name}",
        counts.unique().tolist(),
        "the same number of images in each class",
    )
    return CondensedSet(data, place, repo, commit, int(counts[0]), image_bytes)


def _fits(content: dict, train: ImageSource, test: ImageSource) -> None:
    names = content["class_names"]
    check(
        tuple(names) == tuple(train.class_names),
        "set",
        f"made for the classes {', '.join(names[:3])} ...",
        f"one for the classes of the board's source: {', '.join(train.class_names[:3])} ...",
        "submit it to a board of its own source",
    )
    made_from = content["source"].get("fingerprint")
    if made_from and not content.get("imported"):
        ours = fingerprint([train.fingerprint, _scored_on(content, test).fingerprint])
        check(
            made_from == ours,
            "set",
            f"made from other images of {content['source']['id']} ({made_from})",
            f"one made from the training images that the board reads ({ours})",
            "condense the board's source with the same split and --max_per_class",
        )


def _scored_on(content: dict, test: ImageSource) -> ImageSource:
    """The test images of the run that made a set: those of `--max_test`, which changes no image of the set."""
    most = (content["config"].get("data") or {}).get("max_test")
    if not isinstance(most, int) or most < 1:
        return test
    return test.subset(scored_on(test.labels, most, SOURCE_KEY))


def _encoded(place: Path, side: int) -> Iterator[int]:
    """Bytes of each encoded image; refuses those that would decode to something else than a small square."""
    for path in sorted((place / DATA).glob("*.parquet")):
        try:
            file = pq.ParquetFile(path)
            for group in range(file.num_row_groups):
                for cell in file.read_row_group(group, columns=["image"])["image"].to_pylist():
                    yield _checked_size(cell["bytes"], side, path)
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise ArtefactError(
                str(path), str(error)[:200], "a whole Parquet file with images", "fetch it again"
            ) from None


def _checked_size(data: bytes, side: int, path: Path) -> int:
    check(len(data) <= MAX_IMAGE_BYTES, f"image of {path.name}", len(data), f"at most {MAX_IMAGE_BYTES} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            size = image.size  # the header alone
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ArtefactError(f"image of {path.name}", str(error)[:200], "a PNG", "fetch it again") from None
    check(size == (side, side), f"image of {path.name}", f"{size[0]} x {size[1]} pixels", f"{side} x {side} pixels")
    return len(data)
