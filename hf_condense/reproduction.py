"""The recorded recipe run again, and where its result differs from what was published."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hf_condense.config import check, nearest, setting_fields
from hf_condense.data.names import KNOWN, canonical_name
from hf_condense.errors import CondensationError, ConfigError
from hf_condense.files import write_json
from hf_condense.hub.card import hub_dataset
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.provenance import WITHOUT_EFFECT
from hf_condense.hub.teachers import needs_teacher
from hf_condense.labels.teacher import Ensemble
from hf_condense.methods import sections_of
from hf_condense.run.resolve import RENAMED
from hf_condense.text import printable
from hf_condense.trainer import CondensationTrainer

Verdict = Literal["equal", "close", "different"]
# largest difference that is rounding on another machine: levels of 255, unit pixels, probabilities, logits
CLOSE = {"images": 2.0, "float images": 0.02, "soft labels": 0.02, "label store": 0.05}
# settings that may name a folder, which a record does not
FOLDERS = ("dataset", "base_model", "students", "pool_folder", "expert_folder")


@dataclass(frozen=True)
class Difference:
    """One part of the set, as published and as made again.

    Args:
        part: images, labels, soft labels, float images, label store; of what they are made from: source, or a network.
        largest: largest absolute difference of its numbers; None where there is none to give.
        note: in words.
    """

    part: str
    verdict: Verdict
    largest: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Score:
    """One line of the score table, twice: mean top-1 and its spread over seeds (fractions)."""

    row: str
    student: str
    regime: str
    published: float
    spread: float | None
    again: float | None

    @property
    def verdict(self) -> Verdict:
        """Close is within twice the published spread, or a percent where there is none."""
        if self.again == self.published:
            return "equal"
        room = 2 * self.spread if self.spread else 0.01
        return "close" if self.again is not None and abs(self.again - self.published) <= room else "different"


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` found.

    Args:
        folder: the run that was made for it.
        origins: source and networks: where these differ, the rest may still come out alike.
        parts: what was published.
    """

    place: str
    folder: Path
    origins: tuple[Difference, ...]
    parts: tuple[Difference, ...]
    scores: tuple[Score, ...]

    @property
    def holds(self) -> bool:
        """Whether every published part and every score is equal or close."""
        return all(found.verdict != "different" for found in (*self.parts, *self.scores))

    def text(self) -> str:
        """For a person: parts, then scores side by side."""
        lines = [f"{self.place}, made again in {self.folder}"]
        for found in (*self.origins, *self.parts):
            largest = "" if found.largest is None else f"largest difference {found.largest:.3g} "
            lines.append(f"  {found.verdict:<10} {found.part:<16} {largest}{found.note}".rstrip())
        if self.scores:
            lines.append(f"  {'top-1 %':<10} {'published':>16} {'again':>8}")
        for score in self.scores:
            spread = "" if score.spread is None else f" ± {100 * score.spread:.1f}"
            again = "" if score.again is None else f"{100 * score.again:.1f}"
            published = f"{100 * score.published:.1f}{spread}"
            lines.append(
                f"  {score.verdict:<10} {published:>16} {again:>8}  {score.row}, {score.student}, {score.regime}"
            )
        return "\n".join(map(printable, lines))


def reproduce(
    place: str | Path, output_dir: str | None = None, revision: str | None = None, **places: str
) -> Reproduction:
    """Runs the recipe that a distilled dataset records, from its settings and source revision, and compares.

    Whoever published the set decides what is computed, and nothing else: nothing is published or overwritten, and no
    folder of this machine is opened unless the caller names it. The comparison is also written to `reproduction.json` of
    the new run folder. Running it again resumes.

    Args:
        place: folder, run folder or Hub id.
        output_dir: of the new run; defaults to `runs/reproduce-<name>`.
        places: any of `FOLDERS`: where a recorded folder lies on this machine.

    Raises:
        ArtefactError: the set cannot be read, or does not hold what it says.
        ConfigError: the set was imported, so nothing is known of how it was made; the record names a folder, or
            settings that this version does not know.
    """
    published = DistilledDataset.load(place, revision)
    imported = published.content.get("imported")
    check(
        not imported, "dataset", str(place), "a set that this library made; this one was imported", "ask who made it"
    )
    folder = output_dir or f"runs/reproduce-{Path(place).name}"
    trainer = CondensationTrainer(**recipe(published.content, places), output_dir=folder)
    again = DistilledDataset.load(trainer.run())
    teacher = trainer.teacher() if "stored" in needs_teacher(published.content) else None
    found = Reproduction(
        str(place),
        trainer.folder,
        tuple(compare_origins(published.content, again.content)),
        tuple(compare(published, again, teacher)),
        tuple(scores(published, again)),
    )
    write_json(
        trainer.folder / "reproduction.json", {"content_hash": published.content["content_hash"], **asdict(found)}
    )
    return found


def recipe(content: dict[str, Any], places: dict[str, str]) -> dict[str, Any]:
    """Every recorded setting with an effect on the result by name, the source at its recorded revision.

    A stranger may have written the record: settings that publish, overwrite or choose where to write are left out.

    Raises:
        ConfigError: a setting is unknown here, or names a folder, and `places` does not say where it lies here.
    """
    recorded = {
        RENAMED.get(name, name): value for section in content["config"].values() for name, value in section.items()
    }
    settings = {name: value for name, value in recorded.items() if name not in WITHOUT_EFFECT}
    method = str(settings.get("method", "random"))
    known = setting_fields(sections_of(method, settings.get("base_method")))
    for name in settings.keys() - known.keys():
        step = f"{nearest(name, list(known))} The set may be of another version, or changed by hand"
        raise ConfigError(name, settings[name], f"settings of {method} runs", step)
    for name in FOLDERS:
        value = settings.get(name)
        named = value if isinstance(value, list) else [value, *str(value).split(",")]
        if name not in places and value is not None and any(_is_place(name, str(v).strip()) for v in named):
            raise ConfigError(
                name,
                value,
                "a name that others can resolve; this is a folder, which a record does not open here",
                f"say where it lies here with --{name}",
            )
    source = content["source"]
    if hub_dataset(source["id"]) and source.get("revision"):
        settings["revision"] = source["revision"]
    return settings | places


def _is_place(name: str, value: str) -> bool:
    """Whether a recorded name would be looked up on the disk of this machine."""
    if name == "dataset" and canonical_name(value) in KNOWN:  # wins over a folder of that name
        return False
    rest = os.path.expanduser(value.rpartition(":")[2])  # after local-dir:, transformers: and the like
    marked = value.startswith(("local:", "local-dir:")) or os.path.isabs(rest) or ".." in Path(rest).parts
    return marked or os.path.exists(value) or os.path.exists(rest)


def compare_origins(published: dict[str, Any], again: dict[str, Any]) -> list[Difference]:
    """Source by its fingerprint, networks by their weights."""

    def found(part: str, same: bool, otherwise: str) -> Difference:
        return Difference(part, "equal", note="") if same else Difference(part, "different", note=otherwise)

    source = published["source"]["fingerprint"] == again["source"]["fingerprint"]
    weights = {m["name"]: m["sha256"] for m in again.get("models", [])}
    networks = [
        found(m["name"], weights.get(m["name"]) == m["sha256"], "other weights") for m in published.get("models", [])
    ]
    return [found("source", source, "other images or classes"), *networks]


def compare(published: DistilledDataset, again: DistilledDataset, teacher: Ensemble | None = None) -> list[Difference]:
    """Part by part: equal, close or different. What neither set has is left out. `teacher` makes virtual labels."""
    found = []
    for part in ("images", "float images", "labels", "soft labels"):
        name = part.replace(" ", "_")
        one, two = getattr(published, name), getattr(again, name)
        if one is not None or two is not None:
            found.append(_tensors(part, one, two))
    if published.store is not None or again.store is not None:
        found.append(_stores(published, again, teacher))
    return found


def scores(published: DistilledDataset, again: DistilledDataset) -> list[Score]:
    """The published score table beside the new one."""

    def table(data: DistilledDataset) -> dict[tuple[str, str, str], dict]:
        lines = (data.content.get("scores") or {}).get("table", [])
        return {(line["row"], line["student"], line["regime"]): line["top1"] for line in lines}

    now = table(again)
    return [
        Score(*line, top1["mean"], top1["std"], now[line]["mean"] if line in now else None)
        for line, top1 in table(published).items()
    ]


def _tensors(part: str, one: Tensor | None, two: Tensor | None) -> Difference:
    if one is None or two is None or one.shape != two.shape:
        shapes = [None if t is None else tuple(t.shape) for t in (one, two)]
        return Difference(part, "different", note=f"{shapes[0]} published, {shapes[1]} again")
    if torch.equal(one, two):
        return Difference(part, "equal")
    apart = (one.double() - two.double()).abs()
    share = f"in {100 * (apart > 0).double().mean():.2g} % of the numbers"
    close = part in CLOSE and apart.max() <= CLOSE[part]  # labels are right or wrong
    return Difference(part, "close" if close else "different", float(apart.max()), share)


def _stores(published: DistilledDataset, again: DistilledDataset, teacher: Ensemble | None) -> Difference:
    """The labels of the first epoch's views: the views are the same ones, being named by key."""
    if published.store is None or again.store is None:
        return Difference("label store", "different", note="one set has none")
    try:
        labels = [
            torch.cat([batch.soft for batch in data.training_batches("stored", 0, teacher=teacher)])
            for data in (published, again)
        ]
    except CondensationError as error:  # the new teacher does not make the virtual labels of the old one
        return Difference("label store", "different", note=str(error))
    return _tensors("label store", *labels)
