"""A pool of networks, and the folder in which it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_condense.config import nearest
from hf_condense.errors import ModelError
from hf_condense.files import atomic_path, write_text
from hf_condense.models.card import ModelCardFacts, render
from hf_condense.models.checkpoints import read_checkpoint, write_checkpoint
from hf_condense.models.finite import need_finite_outputs, need_finite_weights
from hf_condense.models.image_model import ImageModel
from hf_condense.models.training import predict, top1_of
from hf_condense.records.base import read_record, write_record
from hf_condense.records.networks import MemberFacts, PoolManifest

if TYPE_CHECKING:
    from hf_condense.data.source import ImageSource

MANIFEST = "manifest.json"
POOL_VERSION = 1  # raised when the same settings no longer give the same networks


@dataclass
class PoolMember:
    """One network of the pool and its facts.

    Args:
        top1: share of test images it classifies correctly (0 to 1).
        sha256: of its weights and buffers.
        source: {"id", "revision", "pretrained"} of the weights it started from.
        epochs: of the squeeze; 0 for published weights taken as they are.
        image_size, license, dataset: for its card.
        kind: "base", or of a weak model: "prior" (a copy from the base's training), "post" (pruned and tuned).
        epoch: of that training after which the copy was taken.
        ratio: share of channels that were pruned.
        macs: multiply-adds of one image.
        processes: number of those that trained it at once, each on a part of every batch; None for one.
    """

    name: str
    model: ImageModel
    top1: float
    sha256: str
    source: dict
    epochs: int
    parameters: int
    image_size: int
    license: str | None = None
    dataset: str = ""
    kind: str = "base"
    epoch: int | None = None
    ratio: float | None = None
    macs: int | None = None
    processes: int | None = None

    @property
    def is_weak(self) -> bool:
        return self.kind != "base"

    @property
    def cut(self) -> str:
        """Short description of how it was weakened."""
        if self.epoch is not None:
            return f"epoch {self.epoch}"
        return f"{100 * self.ratio:g} % pruned" if self.ratio is not None else ""

    @classmethod
    def measured(
        cls, name: str, model: ImageModel, test: ImageSource, device: torch.device, image_size: int, **facts: Any
    ) -> PoolMember:
        """A member with its top-1 on `test`, hash, size and cost; `facts` are the other fields.

        Raises:
            ModelError: its weights, or its outputs for test images, are not finite.
        """
        trained = facts.get("epochs")
        remedy = "lower --squeeze_lr, or take other weights" if trained else "take other weights, or train it first"
        need_finite_weights(model, name, "base_model", remedy)
        logits = predict(model, test.decoded(), device, size=image_size)
        need_finite_outputs(logits, name, "base_model", remedy)
        top1 = top1_of(logits, torch.from_numpy(test.labels))
        return cls(
            name,
            model,
            top1,
            model.sha256(),
            model.source,
            parameters=model.parameter_count,
            image_size=image_size,
            macs=count_macs(model, image_size),
            **facts,
        )

    def save(self, folder: Path) -> None:
        """Writes checkpoint, facts and card into `folder` (not atomic; see `ModelPool.save`)."""
        write_checkpoint(self.model, folder, self.image_size)
        facts = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "model"}
        if self.processes is None:
            del facts["processes"]
        write_record(folder / "member.json", MemberFacts, facts)
        write_text(folder / "README.md", render(self.card()))

    def card(self) -> ModelCardFacts:
        """The facts of its card."""
        model = self.model
        return ModelCardFacts(
            name=self.name,
            library=model.build["library"],
            architecture=model.build["architecture"],
            dataset=self.dataset,
            class_names=model.class_names or (),
            image_size=self.image_size,
            channels=model.channels,
            parameters=self.parameters,
            top1=self.top1,
            epochs=self.epochs,
            source=self.source,
            sha256=self.sha256,
            license=self.license,
            kind=self.kind,
            epoch=self.epoch,
            ratio=self.ratio,
            macs=self.macs,
        )

    @classmethod
    def load(cls, folder: Path) -> PoolMember:
        """Raises ArtefactError when the folder is damaged, ModelError where its weights are not finite."""
        model = read_checkpoint(folder).freeze()
        facts = read_record(folder / "member.json", MemberFacts)
        facts.pop("checksum", None)
        need_finite_weights(model, facts["name"], "base_model", f"delete {folder}, and train or fetch it again")
        return cls(model=model, **facts)


@torch.no_grad()
def count_macs(model: ImageModel, image_size: int) -> int:
    """Multiply-adds of one image of `image_size` pixels in convolutions and matrix products."""
    was_training, device = model.training, model.mean.device
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, model.channels, image_size, image_size, device=device))
    model.train(was_training)
    return counter.get_total_flops() // 2


class ModelPool(Sequence):
    """The members of a pool: in the order in which they were named, or a base model and then its weak models."""

    def __init__(self, members: Sequence[PoolMember]) -> None:
        self.members = list(members)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: Any) -> Any:
        return ModelPool(self.members[index]) if isinstance(index, slice) else self.members[index]

    def __iter__(self) -> Iterator[PoolMember]:
        return iter(self.members)

    @property
    def names(self) -> list[str]:
        return [m.name for m in self.members]

    @property
    def models(self) -> list[ImageModel]:
        return [m.model for m in self.members]

    def select(self, names: Sequence[str]) -> ModelPool:
        """The members of these names, in this order.

        Raises:
            ModelError: a name is not in the pool.
        """
        by_name = {m.name: m for m in self.members}
        for name in names:
            if name not in by_name:
                raise ModelError("model", name, f"one of the pool: {', '.join(by_name)}", nearest(name, self.names))
        return ModelPool([by_name[n] for n in names])

    @property
    def weak(self) -> list[str]:
        """Names of the weak models."""
        return [m.name for m in self.members if m.is_weak]

    def observers(self, names: Sequence[str] | None = None) -> ModelPool:
        """The networks used in synthesis: by name, else the weak models, else all. Raises as `select`."""
        return self.select(names or self.weak or self.names)

    def teachers(self, names: Sequence[str] | None = None, source: str = "both") -> ModelPool:
        """The networks that compute soft labels: by name, else by `source` where there are weak models, else all.

        Args:
            source: "base", "pool" (the weak models) or "both".

        Raises:
            ModelError: as `select`.
        """
        base = [m.name for m in self.members if not m.is_weak]
        named = {"base": base, "pool": self.weak, "both": self.names}[source] if self.weak else self.names
        return self.select(names or named)

    def table(self) -> str:
        """One line a network: name, kind, how it was weakened, top-1, multiply-adds, parameters."""
        width = max(len("name"), *map(len, self.names))
        lines = [f"{'name':<{width}}  kind   {'':<12} {'top-1':>7} {'M mult-adds':>11} {'M parameters':>12}"]
        for m in self.members:
            cost = "" if m.macs is None else f"{m.macs / 1e6:.2f}"
            lines.append(
                f"{m.name:<{width}}  {m.kind:<5}  {m.cut:<12} {100 * m.top1:>5.1f} % {cost:>11} {m.parameters / 1e6:>12.3f}"
            )
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Writes the pool atomically: one folder a member, and `manifest.json` with their order."""
        folders = [f"{i:02d}-{_folder_name(m.name)}" for i, m in enumerate(self.members)]
        with atomic_path(folder) as temporary:
            for name, member in zip(folders, self.members):
                member.save(temporary / name)
            digests = {name: m.sha256 for name, m in zip(folders, self.members)}
            manifest = {"version": POOL_VERSION, "members": folders, "sha256": digests}
            write_record(temporary / MANIFEST, PoolManifest, manifest)

    @classmethod
    def load(cls, folder: Path) -> ModelPool:
        """The frozen networks of a folder written by `save`, on the CPU. Raises ArtefactError when it is damaged."""
        folder = Path(folder)
        manifest = read_record(folder / MANIFEST, PoolManifest)
        return cls([PoolMember.load(folder / name) for name in manifest["members"]])


def _folder_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-.")
