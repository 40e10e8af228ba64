"""Chains: networks that learn the images of one PDD stage after another (arXiv:2310.06982), as students do."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from hf_condense.config import check
from hf_condense.data.cache import note_use, one_at_a_time
from hf_condense.data.pixels import image_digest
from hf_condense.data.randomness import Key
from hf_condense.files import fingerprint, load_tensors, remove_leftovers, save_tensors
from hf_condense.labels.teacher import Ensemble
from hf_condense.methods.base import StudentTrainer
from hf_condense.models.fresh import FreshNetworks, put_weights
from hf_condense.models.image_model import ImageModel
from hf_condense.processes import Processes
from hf_condense.progress import Progress

log = logging.getLogger(__name__)
CHAINS_VERSION = 1  # raised when the same stages no longer give the same networks


@dataclass(frozen=True)
class StageData:
    """The training data of chains at the end of a stage: all images so far, as students see them.

    Args:
        images: uint8, or float unit pixels, [n, C, S, S]; `labels` int64 [n].
        soft: probabilities [n, K] that were made with the images, or None.
        lr: rate that was learned with the images of the stage; None: the students' own.
    """

    images: Tensor
    labels: Tensor
    soft: Tensor | None = None
    lr: float | None = None


class Curriculum:
    """The data of the stages so far, and the training of chains on them.

    Args:
        stages: the data of each.
        trainer: trains networks as the students of the run.
        epochs: on the data of each stage; a student's own where None.
        teacher: labels the images as they are seen; None: with class numbers, or the stage's own soft labels.
    """

    def __init__(
        self,
        stages: list[StageData],
        trainer: StudentTrainer,
        epochs: int | None = None,
        teacher: Ensemble | None = None,
    ) -> None:
        self.stages, self.trainer, self.epochs, self.teacher = stages, trainer, epochs, teacher

    def learn(self, network: ImageModel, stage: int, key: Key, state_folder: Path | None = None) -> None:
        """Trains `network`, which has learned the stages before, on that of `stage`; `key` is the chain's."""
        data, regime = self.stages[stage - 1], "hard" if self.teacher is None else "online"
        network.requires_grad_(True)
        self.trainer.train(
            network,
            data.images,
            data.labels,
            key=key / "stage" / stage,
            epochs=self.epochs,
            lr=data.lr,
            soft=data.soft,
            regime=regime,
            teacher=self.teacher,
            state_folder=state_folder,
        )

    def fingerprint(self, stage: int) -> str:
        """Hash of all training data of networks up to the end of `stage`."""
        teachers = [m.sha256() for m in self.teacher.models] if self.teacher is not None else []
        digests = [
            [*(x is not None and image_digest(x) for x in (data.images, data.labels, data.soft)), data.lr]
            for data in self.stages[:stage]
        ]
        return fingerprint([CHAINS_VERSION, self.trainer.fingerprint, self.epochs, teachers, digests])


class ReplayedNetworks:
    """A new chain for each key, as in the official script of IDC: each request trains through all stages.

    Args:
        fresh: gives the networks that chains begin with.
    """

    untrained = False

    def __init__(self, fresh: FreshNetworks, curriculum: Curriculum) -> None:
        self.fresh, self.curriculum, self.name, self.device = fresh, curriculum, fresh.name, fresh.device

    def __call__(self, key: Key) -> ImageModel:
        """The network of this key after all stages, in training mode, with weight gradients."""
        network = self.fresh(key)
        for stage in range(1, len(self.curriculum.stages) + 1):
            self.curriculum.learn(network, stage, key)
        return network.train().requires_grad_(True)

    def numbered(self, number: int, key: Key) -> ImageModel:
        return self(key / number)

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.fresh.fingerprint, self.curriculum.fingerprint(len(self.curriculum.stages))])


class ChainedNetworks:
    """A pool of chains, each trained once; stands in for untrained networks in later stages.

    Chain k of a stage is chain k of the stage before, trained on that one's images. It begins as `fresh.numbered(k, key)`.

    Args:
        fresh: gives the networks that chains begin with.
        count: chains (K).
        key: names beginnings and training.
        folder: of trained chains, named by the hash of their data, so that more chains and later stages reuse them.
    """

    untrained = False

    def __init__(self, fresh: FreshNetworks, curriculum: Curriculum, count: int, key: Key, folder: Path) -> None:
        check(count >= 1, "chains", count, "1 or more in a pool", "--chains 0 trains a new one for every network")
        self.fresh, self.curriculum, self.count, self.key, self.folder = fresh, curriculum, count, key, Path(folder)
        self.name, self.device = fresh.name, fresh.device
        self._network: ImageModel | None = None

    def make(self, processes: Processes) -> ChainedNetworks:
        """Trains the missing chains; `processes` share them."""
        mine, stages = processes.share(range(self.count)), len(self.curriculum.stages)
        if processes.main:
            images, epochs = len(self.curriculum.stages[-1].labels), self.curriculum.epochs or "a student's"
            log.info("chains of stage %d: %d networks, %d images, %s epochs", stages + 1, self.count, images, epochs)
        with Progress(f"chains of stage {stages + 1}", len(mine), show=processes.main) as progress:
            for number in mine:
                self.place(number, stages)
                progress.advance()
        processes.wait()
        return self

    def __call__(self, key: Key) -> ImageModel:
        """One of the chains, drawn by the key, in training mode, with weight gradients. Overwrites the last one."""
        return self.numbered(int(key.numpy().integers(self.count)), key)

    def numbered(self, number: int, key: Key) -> ImageModel:
        """Chain `number` (modulo their count): chains are named already, so `key` changes nothing."""
        if self._network is None:
            self._network = self.fresh(self.key)
        return self._put(self.place(number % self.count, len(self.curriculum.stages)), self._network)

    @property
    def fingerprint(self) -> str:
        return self._identity(len(self.curriculum.stages))

    def place(self, number: int, stage: int) -> Path:
        """The file with the weights of chain `number` after the data of `stage`; trained if missing."""
        place = self.folder / self._identity(stage) / f"chain-{number:05d}.safetensors"
        if not place.exists():
            self._train(number, stage, place)
        note_use("chains", place)
        return place

    def _train(self, number: int, stage: int, place: Path) -> None:
        with one_at_a_time(place):
            if not place.exists():
                remove_leftovers(place.parent, place.name)
                network = self.fresh.numbered(number, self.key)
                if stage > 1:
                    self._put(self.place(number, stage - 1), network)
                state = place.with_suffix(".fit")
                self.curriculum.learn(network, stage, self.key / number, state)
                keep(network, place)
                shutil.rmtree(state, ignore_errors=True)

    def _identity(self, stage: int) -> str:
        return fingerprint([self.fresh.fingerprint, str(self.key), self.curriculum.fingerprint(stage)])

    def _put(self, place: Path, network: ImageModel) -> ImageModel:
        put_weights(load_tensors(place)[0], network)
        return network.train().requires_grad_(True)


def keep(network: ImageModel, place: Path) -> None:
    """Writes the weights; clones, because tied ones share memory, which safetensors refuses."""
    save_tensors(place, {name: value.detach().cpu().clone() for name, value in network.state_dict().items()})
