"""Expert trajectories: the weights of networks after every epoch of their training on the real images.

They are the targets of trajectory matching (arXiv:2203.11932, section 3.1).
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_condense.config import check
from hf_condense.data.cache import cache_folder, note_use
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError
from hf_condense.files import fingerprint
from hf_condense.models.expert_buffer import ExpertBuffer, expert_file, list_experts
from hf_condense.models.expert_training import ExpertRecipe, ExpertTraining
from hf_condense.models.flat import FlatNetwork
from hf_condense.processes import Processes
from hf_condense.progress import Progress
from hf_condense.snapshots import fetch_snapshot

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_condense.data.images import ImageSource
    from hf_condense.models.fresh import FreshNetworks
    from hf_condense.models.image_model import ImageModel

log = logging.getLogger(__name__)
VERSION = 1  # raised when the same recipe no longer gives the same trajectories


def train_experts(
    fresh: FreshNetworks,
    source: ImageSource,
    recipe: ExpertRecipe,
    count: int,
    *,
    key: Key,
    device: torch.device,
    accelerator: Accelerator | None = None,
    folder: Path | str | None = None,
) -> ExpertBuffer:
    """Experts trained on a source, or those of `folder`; kept in the cache folder, where more of them extend it.

    Expert k begins as `fresh.numbered(k, key)`. Images are augmented and seen as its `normalise` gives them. Processes
    share the experts, and all get the same buffer. An interrupted training resumes from its last whole epoch.

    Args:
        fresh: gives the networks (untrained, or chains); needs `numbered` and `fingerprint`.
        count: experts.
        key: names initial weights, order and augmentation.
        folder: of experts that were trained before, or a Hub model repository of them: nothing is trained.

    Raises:
        ConfigError: the networks have state beside weights; weights became infinite, or two snapshots in a row are
            equal; the experts of `folder` are of another network, or of images normalised otherwise.
        ArtefactError: files are damaged, or `folder` holds too few.
    """
    network = fresh.numbered(0, key)
    flat = FlatNetwork(network)
    if folder is not None:
        return _imported(_fetched(folder), flat, recipe, count)
    identity = {
        "version": VERSION,
        "table": flat.table,
        "seen": _seen(network),
        "networks": fresh.fingerprint,
        "recipe": asdict(recipe),
        "source": source.fingerprint,
        "key": key.seed(),
    }
    folder = cache_folder() / "experts" / fingerprint(identity)
    processes = Processes(accelerator)
    if processes.main:
        size = count * (recipe.epochs + 1) * flat.size * getattr(torch, recipe.dtype).itemsize / 1e9
        message = "experts: %d x %d snapshots of %d weights, %.3g GB in %s"
        log.info(message, count, recipe.epochs + 1, flat.size, size, folder)
    mine = processes.share(range(count))
    training = ExpertTraining(fresh, source, recipe, key, device, folder)
    with Progress("experts", len(mine) * recipe.epochs, show=processes.main) as progress:
        for number in mine:
            training.make(number, progress)
    processes.wait()
    if processes.main:
        list_experts(folder, identity, count)
    processes.wait()
    for number in range(count):
        note_use("experts", folder / expert_file(number))
    return ExpertBuffer.open(folder, count)


def _seen(network: ImageModel) -> dict[str, Any]:
    """The encoding of images before the first layer, which trajectories depend on."""
    if network.whitening is not None:
        return network.whitening.facts
    return {"kind": "normalised", "mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist()}


def _fetched(place: Path | str) -> Path:
    """The local folder of experts; those of a Hub repository are fetched into the Hub's cache."""
    if Path(place).is_dir():
        return Path(place)
    allowed = "a folder, or a Hub model repository that can be read"
    return fetch_snapshot(str(place), "model", error=ArtefactError, field="expert_folder", allowed=allowed)


def _imported(folder: Path, flat: FlatNetwork, recipe: ExpertRecipe, count: int) -> ExpertBuffer:
    """The experts of a folder, if network and normalisation are equal and they were trained for enough epochs."""
    buffer, seen = ExpertBuffer.open(folder, count, verify=True), _seen(flat.network)
    needed = (
        (
            buffer.table == flat.table,
            f"{buffer.size} weights",
            f"experts of {flat.network.name} ({flat.size} weights)",
        ),
        (buffer.manifest["seen"] == seen, buffer.manifest["seen"], f"experts that have seen {seen}"),
        (buffer.epochs >= recipe.epochs, f"{buffer.epochs} epochs", f"{recipe.epochs} or more"),
    )
    for holds, found, allowed in needed:
        step = "choose the network and settings that they were trained with, or train new ones"
        check(holds, "expert_folder", found, allowed, step)
    return buffer
