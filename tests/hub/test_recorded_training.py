"""Who only loads a set trains on it as it was scored: stages in order, learned rates, augmentation, labels."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import DatasetCard

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.whitening import Whitening
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.student_trainer import StudentTrainer
from hf_condense.evaluation.students import StudentScorer
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.hub import provenance
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.inspection import inspect_folder
from hf_condense.hub.training import recorded_training
from hf_condense.models.loading import load_model
from hf_condense.models.training import evaluate_top1

MEAN, STD, STAGES = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), torch.tensor([2, 1, 1, 2] * 3)
SPEC = ImageSpec(num_classes=3, image_size=8, channels=3, mean=MEAN, std=STD)


@pytest.fixture
def published(artefact, content_of, tmp_path):
    """Writes a set with a recorded training and loads it."""

    def write(name="pdd-mtt", stages=STAGES, rates=(0.02, 0.05), factor=1, whitening=None, soft=None, **changes):
        changes = {"stage_epochs": 3, "epochs": 6, "batch": 4, "siamese": ("color", "crop")} | changes
        protocol = get_protocol(name, **changes).resolve("convnet_d1", 4)
        policy = protocol.policy(8)
        recorded = recorded_training(
            protocol, 12 * factor**2, mean=MEAN, std=STD, flip=False, stages=stages, rates=rates,
            whitening=whitening.facts if whitening else None,
        )  # fmt: skip
        block = provenance.training_block(protocol.name, policy, 4, 3, formation_factor=factor, **recorded)
        regimes = ["hard", *["stored"] * (protocol.label_per == "image")]
        made = artefact(stages=stages, content=content_of(training=block, regimes=regimes))
        if soft is not None:
            kind = {"kind": "probabilities", "temperature": 1.0, "ensemble": None, "by": "the last expert"}
            made.soft_labels, made.soft_label_kind = soft, kind
        write_artefact(tmp_path / "set", made)
        return DistilledDataset.load(tmp_path / "set"), protocol

    return write


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def fresh(seed, **changes):
    return load_model("convnet_d1", replace(SPEC, **changes), key=Key(seed, "train") / "init")


def ids(data, batches):
    """Rows of the images that whole batches hold, from pixels that nothing has augmented."""
    unit = data.images.float() / 255
    seen = torch.cat([b.images for b in batches])
    return (seen[:, None] == unit[None]).flatten(2).all(2).nonzero()[:, 1].tolist()


def test_epochs_show_the_images_of_their_stage(published):
    """C5 for someone who knows nothing of stages and only counts epochs."""
    data, _ = published(siamese=())
    plan = data.training_stages()
    assert [stage.epochs for stage in plan] == [range(0, 3), range(3, 6)]
    assert [stage.rates for stage in plan] == [pytest.approx((r, r / 10, r / 10)) for r in (0.02, 0.05)]
    for stage, wanted in zip(plan, ([1, 2, 5, 6, 9, 10], list(range(12))), strict=True):
        assert stage.rows.tolist() == wanted
        for epoch in stage.epochs:
            assert sorted(ids(data, data.training_batches("hard", epoch))) == wanted
    with pytest.raises(ConfigError, match="0 to 5"):
        data.training_batches("hard", 6)


def test_training_in_one_call_is_the_training_that_was_scored(published):
    data, protocol = published()
    network = data.train("convnet_d1", seed=3)
    assert network.class_names == tuple(data.class_names) and not network.training
    students = StudentTrainer(protocol, 4, 3, MEAN, STD, torch.device("cpu"), flip=False)
    known = {"stages": STAGES, "rates": (0.02, 0.05)}
    again = students.train(fresh(3), data.images, data.labels, key=Key(3, "train"), **known)
    assert torch.equal(flat(network), flat(again))
    scorer = StudentScorer(protocol, SPEC, data.images, data.labels, torch.device("cpu"), flip=False)
    scored = scorer.train("convnet_d1", TrainingSet(data.images, data.labels, **known), Key(3, "train"))
    assert scored.steps == 3 * (2 + 3)
    assert scored.top1 == evaluate_top1(network, data.images, data.labels, torch.device("cpu"))
    for other in ({"stages": None}, {"rates": (0.05, 0.02)}):  # the gate: what a set without its stages would give
        wrong = students.train(fresh(3), data.images, data.labels, key=Key(3, "train"), **(known | other))
        assert not torch.allclose(flat(network), flat(wrong), atol=1e-4)


def test_a_loop_of_ones_own_over_the_stages_gives_the_same_network(published):
    """The example of the card."""
    data, _ = published()
    model = fresh(3).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9, weight_decay=5e-4)

    for stage in data.training_stages():
        for epoch, rate in zip(stage.epochs, stage.rates):
            optimizer.param_groups[0]["lr"] = rate
            for batch in data.training_batches("hard", epoch, seed=3):
                loss = F.cross_entropy(model(batch.images), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    torch.testing.assert_close(flat(model), flat(data.train("convnet_d1", seed=3)), rtol=0, atol=1e-5)


def test_labels_of_images_are_stored_labels(published):
    soft = F.one_hot((torch.arange(12) // 4 + 1) % 3, 3).half()  # not the class numbers
    data, protocol = published("tesla", stages=None, rates=(0.05,), soft=soft, epochs=5, siamese=())
    for batch in data.training_batches("stored", 0):
        assert batch.soft.argmax(1).tolist() == [(y + 1) % 3 for y in batch.labels.tolist()]
    students = StudentTrainer(protocol, 4, 3, MEAN, STD, torch.device("cpu"), flip=False)
    for regime, labels in (("stored", {"soft": soft}), ("hard", {})):
        wanted = students.train(fresh(0), data.images, data.labels, key=Key(0, "train"), rates=(0.05,), **labels)
        assert torch.equal(flat(data.train("convnet_d1", regime)), flat(wanted))
    assert inspect_folder(data.folder)["needed"]["stored"] > inspect_folder(data.folder)["needed"]["hard"]
    card = DatasetCard.load(data.folder / "README.md").text
    assert "assigned by the last expert" in card and "learned with the images: 0.05" in card


def test_tiles_belong_to_the_stage_of_their_image(published):
    data, _ = published("pdd-idc", rates=None, factor=2, siamese=(), mix="none")
    first, last = data.training_stages()
    assert first.rows.tolist() == [48 // 4 * tile + row for tile in range(4) for row in (1, 2, 5, 6, 9, 10)]
    assert len(last.rows) == 48
    assert sum(len(b.labels) for b in data.training_batches("hard", 0)) == 24
    assert data.train("convnet_d1", seed=1).num_classes == 3


def test_whitened_sets_say_so_and_need_their_whitening(published):
    images = torch.from_numpy(Key(2).numpy().integers(0, 256, (40, 3, 8, 8), dtype="uint8"))
    whitening = Whitening.fit(images, fitted_on="0123456789abcdef")
    data, _ = published("pdd-mtt-zca", whitening=whitening)
    assert data.content["training"]["whitening"] == {"kind": "zca", "eps": 0.1, "fitted_on": "0123456789abcdef"}
    for call in (lambda: data.train("convnet_d1"), lambda: data.training_batches("hard", 0)):
        with pytest.raises(ConfigError, match="whitening"):
            call()
    network = data.train("convnet_d1", whitening=whitening)
    assert network.whitening is whitening
    assert len(list(data.training_batches("hard", 0, whitening=whitening))) == 2
    assert "whitened pixels (ZCA, eps 0.1)" in DatasetCard.load(data.folder / "README.md").text


def test_the_record_and_the_card_name_the_stages(published):
    data, _ = published()
    block = data.content["training"]
    assert block["stages"] == {
        "order": [1, 2], "mode": "cumulative", "rates": [0.02, 0.05], "epochs": 3, "momentum": "carried over",
    }  # fmt: skip
    assert block["recipe"]["schedule"] == "multistep" and block["pixels"]["mean"] == list(MEAN)
    assert data.to_dataset()["pdd_stage"] == STAGES.tolist()
    card = DatasetCard.load(data.folder / "README.md").text
    assert "in 2 stages (column `pdd_stage`)" in card and "3 epochs on the images of the first stage" in card
    assert "(0.02, 0.05)" in card and "momentum carried over" in card


def test_sets_without_a_recipe_and_of_newer_versions(artefact, published, tmp_path):
    write_artefact(tmp_path / "bare", artefact(stages=STAGES))
    bare = DistilledDataset.load(tmp_path / "bare")
    assert sum(len(b.labels) for b in bare.training_batches("hard", 0)) == 12
    for call in (bare.training_stages, lambda: bare.train("convnet_d1")):
        with pytest.raises(ArtefactError, match="recorded protocol"):
            call()
    data, _ = published()
    path = data.folder / "condensation.json"
    both = json.loads(path.read_text())
    both["content"]["training"]["recipe"]["sharpness"] = 0.1
    path.write_text(json.dumps(both))
    with pytest.raises(ArtefactError, match=r"sharpness.*newer"):
        DistilledDataset.load(data.folder).train("convnet_d1")
