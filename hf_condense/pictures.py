"""Pictures of any condensed set: rows of images, accuracy for bytes, and the curves of a run folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_condense.config import DataSettings, check
from hf_condense.data.images import ImageSource
from hf_condense.data.names import KNOWN, canonical_name
from hf_condense.data.randomness import Key
from hf_condense.data.source import SOURCE_KEY, open_source
from hf_condense.hub import figures
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.reproduction import recipe
from hf_condense.run.history import read_history
from hf_condense.run.pictures import columns, draw_curves, real_rows
from hf_condense.run.report import pictured
from hf_condense.run.resolve import convert
from hf_condense.trainer import CondensationTrainer

log = logging.getLogger(__name__)


def picture(
    place: str | Path, output_dir: str | Path | None = None, *, dataset: str | None = None, revision: str | None = None
) -> list[Path]:
    """Draws what a set is and what it is worth, each picture as PNG and as PDF for a paper.

    `comparison`: condensed images of ten classes under real ones and those of the random baseline. `accuracy_for_bytes`:
    the published scores. `curves`: losses and accuracies over epochs, which only a run folder holds.

    Args:
        place: folder or Hub id (`revision` of it) of a distilled dataset, or a run folder.
        output_dir: defaults to `pictures`, in the run folder where it is one.
        dataset: where the source is, for the rows of real images: short name, Hub id or folder. Of a published set it
            defaults to the recorded source where that comes with this library; others would have to be fetched.

    Returns:
        The PNG files.

    Raises:
        ArtefactError: the set cannot be read.
        ConfigError: `dataset` holds other images or classes than those that the set was made from.
    """
    data, run = DistilledDataset.load(place, revision), Path(place)
    is_run = (run / "dataset").is_dir()
    folder = Path(output_dir or (run / "pictures" if is_run else "pictures"))
    rows, labels = _of_run(run) if is_run and dataset is None else _of_set(data, dataset)
    figures.comparison(folder / "comparison.png", rows, labels, data.class_names)
    drawn = [folder / "comparison.png"]
    table = (data.content.get("scores") or {}).get("table", [])
    if table:
        figures.accuracy_for_bytes(folder / "accuracy_for_bytes.png", table, data.content["method"]["name"])
        drawn.append(folder / "accuracy_for_bytes.png")
    if is_run and draw_curves(folder / "curves.png", read_history(run)):
        drawn.append(folder / "curves.png")
    return drawn


def _of_run(run: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Rows and labels of the columns, first images included, as at the end of the run."""
    trainer = CondensationTrainer(config=str(run / "config.yaml"), output_dir=str(run))
    return pictured(trainer.pipeline)


def _of_set(data: DistilledDataset, dataset: str | None) -> tuple[dict[str, Tensor], Tensor]:
    chosen = columns(data.labels, len(data.class_names))
    labels, name = data.labels[chosen], data.content["method"]["title"].split(" (")[0]
    return {**_real(data, labels, dataset), name: data.images[chosen]}, labels


def _real(data: DistilledDataset, labels: Tensor, dataset: str | None) -> dict[str, Tensor]:
    """Rows of real images, where the source is at hand."""
    source = data.content["source"]
    known = KNOWN.get(canonical_name(source["id"]))
    if dataset is None and not (known and known.embedded):
        log.info("without real images; `--dataset` says where those of %s are", source["id"])
        return {}
    if data.content.get("imported"):
        settings: dict[str, Any] = {"dataset": dataset or source["id"]}
    else:
        settings = recipe(data.content, {"dataset": dataset} if dataset else {})
    names = DataSettings.__dataclass_fields__
    given = {name: convert(DataSettings, name, value) for name, value in settings.items() if name in names}
    train = open_source(DataSettings(**given), SOURCE_KEY).train
    _check_same(train, data, dataset)
    baseline = any(line["row"] == "random" for line in (data.content.get("scores") or {}).get("table", []))
    return real_rows(train, labels, Key(settings.get("seed", 0)), baseline)


def _check_same(train: ImageSource, data: DistilledDataset, dataset: str | None) -> None:
    found, wanted = (list(train.class_names), train.channels), (data.class_names, data.images.shape[1])
    check(found == wanted, "dataset", dataset, "the source of the set, with its classes and channels")
