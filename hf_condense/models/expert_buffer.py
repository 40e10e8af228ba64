"""A folder of expert trajectories: the weights of networks after every epoch of a training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_condense.config import check
from hf_condense.data.cache import one_at_a_time
from hf_condense.data.upload import to_device
from hf_condense.errors import ArtefactError
from hf_condense.files import check_inside, load_tensor_shapes, load_tensors, regular_size, sha256_file
from hf_condense.records.base import read_record, write_record
from hf_condense.records.experts import ExpertManifest

MANIFEST = "manifest.json"
DEVICE_BYTES = 4 << 30  # snapshots up to this size stay on the device


class ExpertBuffer:
    """Snapshots of experts in a folder: `manifest.json`, and `expert-00000.safetensors` with [epochs + 1, P] each.

    Snapshots are read one at a time, when asked for. Made by `train_experts`, or `open`.

    Attributes:
        experts: how many there are.
        epochs: number of the last snapshot; 0 is before training.
        table: (name, shape) of each parameter; size: P.
        bytes: of their files.
    """

    def __init__(self, folder: Path, manifest: dict, experts: int) -> None:
        self.folder, self.manifest, self.experts = Path(folder), manifest, experts
        self.epochs = manifest["recipe"]["epochs"]
        self.table = [(name, tuple(shape)) for name, shape in manifest["table"]]
        self.size = sum(math.prod(shape) for _, shape in self.table)
        self.bytes = sum(facts["bytes"] for facts in manifest["experts"][:experts])
        self._slices: dict[int, Any] = {}
        self._placed: dict[tuple[int, int, str], Tensor] = {}

    @classmethod
    def open(cls, folder: Path | str, experts: int | None = None, verify: bool = False) -> ExpertBuffer:
        """The first `experts` of a folder, or all.

        Args:
            verify: whether checksums are verified, not only file sizes.

        Raises:
            ArtefactError: files are missing, damaged or of another version, or there are fewer experts.
        """
        folder = Path(folder)
        manifest = read_record(check_inside(folder, folder / MANIFEST), ExpertManifest)
        found = len(manifest["experts"])
        experts = found if experts is None else experts
        if experts > found:
            raise ArtefactError(
                "experts", experts, f"up to {found}, as many as {folder} holds", "ask for fewer experts"
            )
        for number, facts in enumerate(manifest["experts"][:experts]):
            path = folder / expert_file(number)
            size = regular_size(check_inside(folder, path)) or 0
            if size != facts["bytes"] or (verify and sha256_file(path) != facts["sha256"]):
                step = "delete it and train the experts again"
                raise ArtefactError(str(path), f"{size} bytes", f"the {facts['bytes']} bytes of the manifest", step)
        return cls(folder, manifest, experts)

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """float32 [P] on the CPU: the weights of an expert after `epoch` epochs."""
        check(0 <= expert < self.experts, "expert", expert, f"0 to {self.experts - 1}")
        check(0 <= epoch <= self.epochs, "epoch", epoch, f"0 to {self.epochs}")
        if expert not in self._slices:
            self._slices[expert] = self._open(self.folder / expert_file(expert))
        found = self._slices[expert][epoch : epoch + 1][0].float()
        if not found.isfinite().all():
            place = f"{self.folder / expert_file(expert)}: epoch {epoch}"
            raise ArtefactError(place, "infinite, or not a number", "finite weights", "train the experts again")
        return found

    def placed(self, expert: int, epoch: int, device: torch.device) -> Tensor:
        """`snapshot` on `device`. Up to `DEVICE_BYTES` of them stay there; on a CPU the system keeps what was read."""
        place = expert, epoch, str(device)
        if place in self._placed:
            return self._placed[place]
        found = to_device(self.snapshot(expert, epoch), device)
        if device.type != "cpu" and (len(self._placed) + 1) * found.nbytes <= DEVICE_BYTES:
            self._placed[place] = found
        return found

    def _open(self, path: Path) -> Any:
        """The snapshots of a file, opened without reading them."""
        from safetensors import safe_open

        shape, wanted = load_tensor_shapes(path), [self.epochs + 1, self.size]
        if shape != {"trajectory": wanted}:
            raise ArtefactError(str(path), shape, f"trajectory {wanted}", "delete it and train the experts again")
        return safe_open(str(path), framework="pt").get_slice("trajectory")


def expert_file(number: int) -> str:
    """The name of an expert's file."""
    return f"expert-{number:05d}.safetensors"


def list_experts(folder: Path, identity: dict, count: int) -> None:
    """Lists the existing experts in the manifest; entries of other runs are kept."""
    path = folder / MANIFEST
    with one_at_a_time(path):
        listed = read_record(path, ExpertManifest)["experts"] if path.exists() else []
        for number in range(len(listed), count):
            file = folder / expert_file(number)
            facts = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
            listed.append(facts | load_tensors(file)[1])
        write_record(path, ExpertManifest, identity | {"experts": listed})
