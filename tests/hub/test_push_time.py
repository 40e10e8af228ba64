"""A set of a hundred classes, ten images each, with its labels, goes to the Hub and comes back in a few requests."""

import torch
from datasets import load_dataset

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key, keyed
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.push import push
from hf_condense.labels.store import write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.image_model import ImageModel

CLASSES, IPC, EPOCHS = 100, 10, 4
PUSHED, LOADED = 30, 60  # requests; a Hub answers in some tenths of a second each


def test_a_hundred_classes_go_and_come_back_in_a_few_requests(artefact, content_of, hub, tmp_path):
    with keyed(Key(0, "network")):
        backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, CLASSES))
    teacher = Ensemble([ImageModel(backbone, num_classes=CLASSES, mean=(0.5,) * 3, std=(0.25,) * 3)])
    names = [f"class {k}" for k in range(CLASSES)]
    pixels = Key(3, "pixels").numpy().integers(0, 256, (CLASSES * IPC, 3, 32, 32), dtype="uint8")
    images, labels = torch.from_numpy(pixels), torch.arange(CLASSES).repeat_interleave(IPC)
    cpu = torch.device("cpu")
    write_store(tmp_path / "labels", images, labels, teacher, ViewPolicy(size=32), Key(0), EPOCHS, 100, cpu)
    content = content_of(source={"id": "digits"}, regimes=["hard", "stored"])
    made = artefact(
        images=images, labels=labels, class_names=names, content=content, store_folder=tmp_path / "labels",
        soft_labels=teacher.soft_labels(images, cpu), preview_rows=[0, 500],
    )  # fmt: skip
    write_artefact(tmp_path / "set", made)

    repo_id = hub.fresh("hundred")
    before = len(hub.requests)
    push(tmp_path / "set", repo_id)
    pushed = len(hub.requests)
    assert len(load_dataset(repo_id, split="train", cache_dir=str(tmp_path / "cache"))) == CLASSES * IPC
    there = DistilledDataset.load(repo_id)
    batches = sum(1 for _ in there.training_batches("stored", 0))
    assert batches == CLASSES * IPC // 100
    sent, read = hub.requests[before:pushed], hub.requests[pushed:]
    assert len(sent) < PUSHED and len(read) < LOADED, f"{len(sent)} to push, {len(read)} to load: {sent} {read}"
