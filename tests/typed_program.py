"""A program of a user as a type checker sees it: no public name may be `Any`. It is checked by mypy and never run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

from torch import Tensor, nn

import hf_condense
from hf_condense import CondensationTrainer, DistilledDataset
from hf_condense.evaluation.report import ScoreTable
from hf_condense.evaluation.trainer_loss import SoftLabelLoss
from hf_condense.hub.commits import Commit
from hf_condense.hub.push import Pushed
from hf_condense.labels.teacher import Ensemble
from hf_condense.methods.base import Method
from hf_condense.models.image_model import ImageModel
from hf_condense.models.training import Batch


def make(dataset: Any) -> None:
    assert_type(hf_condense.list_methods(), list[str])
    method = hf_condense.create_method("random")
    assert_type(method, Method)
    trainer = CondensationTrainer(method, dataset, ipc=10)
    assert_type(trainer.evaluate(), ScoreTable)
    assert_type(trainer.run(), Path)


def use(network: nn.Module) -> None:
    data = DistilledDataset.load("folder")
    assert_type(data.images, Tensor)
    assert_type(data.class_names, list[str])
    assert_type(data.training_batches("stored", epoch=0), Iterator[Batch])
    student = data.train("convnet_w128", "online", teacher=hf_condense.load_teacher(data))
    assert_type(student, ImageModel)
    assert_type(hf_condense.load_teacher(data), Ensemble)
    assert_type(hf_condense.soft_label_loss("kl", temperature=4.0), SoftLabelLoss)
    assert_type(hf_condense.export("folder", "torch", "output"), Path)
    assert_type(hf_condense.push_student(network, "me/student", data, "me/set", top1=0.5, regime="hard"), Commit)
    assert_type(data.push_to_hub("me/set"), Pushed)


def mistakes_are_seen(data: DistilledDataset) -> None:
    """Each of these lines is an error for a checker, and mypy reports a comment that hides none."""
    data.train("convnet_w128", "soft")  # type: ignore[arg-type]
    data.for_trainer("binary_ce")  # type: ignore[arg-type]
    print(data.labels.no_such_thing)  # type: ignore[attr-defined]
    raise hf_condense.CondensationError("ipc", 3)  # type: ignore[call-arg]
