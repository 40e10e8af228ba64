"""A whole run on the Hub: its networks beside it, its teacher fetched back, its recipe run again from there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from hf_condense.cli import main
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.errors import ArtefactError, ConfigError, HubError, ModelError
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.hub.inspection import inspect_folder, report
from hf_condense.hub.load_teacher import load_teacher, published_teacher
from hf_condense.hub.push import push
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.checkpoints import read_checkpoint
from hf_condense.models.loading import load_model
from hf_condense.reproduction import compare, recipe, reproduce, scores
from hf_condense.trainer import CondensationTrainer

TINY = {
    "method": "random", "dataset": "digits", "ipc": 2, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1",
    "squeeze_epochs": 2, "min_top1_over_chance": 0, "protocol": "small", "student_epochs": 2, "student_seeds": 1,
    "students": "convnet_d1", "baselines": "full", "threads": 1, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> CondensationTrainer:
    """A finished run with all three label regimes, so it needs its teacher."""
    trainer = CondensationTrainer(**TINY, output_dir=str(tmp_path_factory.mktemp("published") / "run"))
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def published(trainer, hub_server) -> str:
    """Its repository, networks included."""
    repo_id = hub_server.fresh("digits-ipc2")
    with hub_server.online():
        trainer.push_to_hub(repo_id, push_models=True)
    return repo_id


def test_a_set_whose_teacher_nobody_could_get_is_refused(trainer, hub, tmp_path):
    repo_id, folder = hub.fresh("lost"), tmp_path / "dataset"
    shutil.copytree(trainer.folder / "dataset", folder)
    both = json.loads((folder / "condensation.json").read_text())
    both["record"].pop("published_models", None)  # what a push of another test may have written down
    (folder / "condensation.json").write_text(json.dumps(both))
    with pytest.raises(ConfigError, match="online labels need convnet_d1") as caught:
        push(folder, repo_id)
    assert "--push_models" in caught.value.next_step
    with pytest.raises(ModelError, match="with its pool"):
        push(folder, repo_id, push_models=True)  # the folder alone has no networks
    assert not hub.api().repo_exists(repo_id, repo_type="dataset")


def test_the_teacher_of_a_run_that_was_not_pushed_is_in_its_pool(trainer):
    """What the refusals say to do works, and what looks like it is refused."""
    pool = trainer.folder / "pool" / "models"
    data = DistilledDataset.load(trainer.folder)
    data.record.pop("published_models", None)
    for ask in (lambda: published_teacher(data), lambda: data.training_batches("online", 0)):
        with pytest.raises((ConfigError, ModelError), match="read_checkpoint") as caught:
            ask()
        assert str(pool) in caught.value.next_step
    own = Ensemble([read_checkpoint(folder) for folder in pool.iterdir() if folder.is_dir()], "logits")
    teacher = load_teacher(data)
    assert [m.sha256() for m in teacher.models] == [m.sha256() for m in own.models]
    assert torch.equal(teacher.soft_labels(data.images, torch.device("cpu")), data.soft_labels)
    assert next(data.training_batches("online", 0, teacher=teacher)).soft is not None
    train = trainer.train
    untrained = load_model("convnet_d1", ImageSpec(num_classes=10, image_size=8, channels=1, mean=train.mean, std=train.std, class_names=train.class_names), key=Key(0))  # fmt: skip
    with pytest.raises(ConfigError, match="weights that labelled"):
        data.training_batches("online", 0, teacher=Ensemble([untrained]))


@pytest.mark.parametrize(
    "name", ["manifest.json", "00-convnet_d1/model.safetensors", "00-convnet_d1/image_model.json"]
)
def test_what_is_said_of_a_damaged_pool_mends_it(trainer, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(trainer.folder, folder)
    shutil.rmtree(folder / "dataset")  # to be written again, for which the networks are read
    damaged = folder / "pool" / "models" / name
    damaged.write_bytes(damaged.read_bytes()[:20])
    again = {**TINY, "output_dir": str(folder)}
    for harm in (lambda: None, damaged.unlink):
        harm()
        with pytest.raises(ArtefactError) as caught:
            CondensationTrainer(**again).run()
        assert caught.value.next_step == f"delete {folder / 'pool'} and run the same command again"
    shutil.rmtree(folder / "pool")
    CondensationTrainer(**again).run()
    assert DistilledDataset.load(folder).content == DistilledDataset.load(trainer.folder).content


def test_networks_go_first_and_the_record_names_them(trainer, hub, published):
    model_id = f"{published}-convnet_d1"
    files = set(hub.api().list_repo_files(model_id))
    assert files == {
        ".gitattributes",
        "README.md",
        "config.json",
        "image_model.json",
        "member.json",
        "model.safetensors",
    }
    data = DistilledDataset.load(published)
    sent = data.record["published_models"]["convnet_d1"]
    assert sent["id"] == model_id and sent["revision"] == hub.api().model_info(model_id).sha
    assert sent["sha256"] == data.content["models"][0]["sha256"]
    card = ModelCard.load(model_id)
    card.validate()
    assert f"hf-hub:{model_id}" in card.text
    assert f"published as [{model_id}]" in (data.folder / "README.md").read_text()
    assert f"published as {model_id} @ {sent['revision']}" in report(inspect_folder(published))
    for name in files - {"model.safetensors", ".gitattributes"}:
        assert str(trainer.folder) not in Path(hub.api().hf_hub_download(model_id, name)).read_text()


def test_a_second_push_with_its_networks_changes_nothing(trainer, hub, published):
    again = trainer.push_to_hub(published, push_models=True)
    assert [len(c.sent) for c in again.commits] == [0, 0]


def test_the_teacher_comes_back_from_the_hub_and_labels_as_it_did(trainer, hub, published):
    data = DistilledDataset.load(published)
    teacher = load_teacher(data)
    assert torch.equal(teacher.soft_labels(data.images, torch.device("cpu")), data.soft_labels)
    for batch in data.training_batches("online", 0, teacher=teacher):
        assert torch.equal(batch.soft, teacher.logits(batch.images))
    data.content["models"][0]["sha256"] = "0" * 64
    with pytest.raises(ModelError, match="Name the revision"):
        load_teacher(data)


def test_virtual_labels_go_with_their_teacher_and_others_without(trainer, hub, tmp_path):
    def run(store):
        made = CondensationTrainer(**TINY, store=store, regimes="hard,stored", output_dir=str(tmp_path / store))
        made.run()
        return made

    repo_id = hub.fresh("packed")
    assert len(run("packed").push_to_hub(repo_id).commits) == 1
    with pytest.raises(ConfigError, match="stored labels need convnet_d1"):
        run("virtual").push_to_hub(hub.fresh("virtual"))
    repo_id = hub.fresh("virtual")
    assert len(run("virtual").push_to_hub(repo_id, push_models=True).commits) == 2
    data = DistilledDataset.load(repo_id)
    teacher = published_teacher(data)
    for batch in data.training_batches("stored", 1, teacher=teacher):
        assert torch.equal(batch.soft, teacher.logits(batch.images))
    found = reproduce(repo_id, str(tmp_path / "again"))
    assert {d.part: d.verdict for d in found.parts}["label store"] == "equal"


def test_a_loaded_set_pushes_itself(trainer, hub):
    repo_id = hub.fresh("by-the-set")
    sent = DistilledDataset.load(trainer.folder).push_to_hub(repo_id, private=True)
    assert sent.dataset.repo_id == repo_id and HfApi().dataset_info(repo_id).private
    again = DistilledDataset.load(repo_id)
    assert again.content == DistilledDataset.load(trainer.folder).content
    assert not again.push_to_hub(repo_id).dataset.sent, "from the Hub's cache, and nothing differs"


def test_an_observer_is_loaded_by_its_hub_id(trainer, hub, published):
    splits = open_source(trainer.config.data, Key(0, "data"))
    there = load_model(f"hf-hub:{published}-convnet_d1", ImageSpec(num_classes=10, image_size=8, channels=1, mean=(0.5,), std=(0.5,), class_names=splits.train.class_names), key=Key(0))  # fmt: skip
    mine = trainer.squeeze()[0].model.eval()
    images = splits.test.decoded()[:20].float() / 255
    with torch.no_grad():
        assert torch.equal(there.eval()(images), mine(images))
    assert not there.needs_squeeze and there.source["revision"] == hub.api().model_info(f"{published}-convnet_d1").sha


def test_the_recipe_of_a_hub_id_gives_the_same_set_again(trainer, hub, published, tmp_path, capsys):
    found = reproduce(published, str(tmp_path / "again"))
    assert found.holds and {d.verdict for d in (*found.origins, *found.parts)} == {"equal"}
    assert [d.part for d in found.origins] == ["source", "convnet_d1"]
    assert [d.part for d in found.parts] == ["images", "labels", "soft labels", "label store"]
    assert found.scores and {s.verdict for s in found.scores} == {"equal"}
    assert "equal      images" in found.text()
    assert json.loads((tmp_path / "again" / "reproduction.json").read_text())["parts"][0]["verdict"] == "equal"
    assert main(["reproduce", published, "--output_dir", str(tmp_path / "again")]) == 0  # it resumes, so it is quick
    assert "published" in capsys.readouterr().out


def test_differences_are_found_and_sized(trainer, tmp_path):
    data = replace(DistilledDataset.load(trainer.folder), folder=tmp_path)  # where no label store is

    def changed(**values):
        return replace(data, **values)

    def verdicts(other):
        return {d.part: (d.verdict, d.largest) for d in compare(data, other) if d.verdict != "equal"}

    near = data.images.clone()
    near[0, 0, 0, 0] ^= 1
    assert verdicts(changed(images=near))["images"] == ("close", 1.0)
    assert verdicts(changed(images=255 - data.images))["images"][0] == "different"
    assert verdicts(changed(images=data.images[:, :, :4]))["images"] == ("different", None)
    other = data.labels.clone()
    other[0] = 9
    assert verdicts(changed(labels=other))["labels"] == ("different", 9.0)
    assert verdicts(changed(soft_labels=data.soft_labels + 0.01))["soft labels"][0] == "close"
    assert verdicts(changed(soft_labels=None))["soft labels"][0] == "different"

    worse = json.loads(json.dumps(data.content))
    line = worse["scores"]["table"][-1]
    line["top1"]["mean"] -= 3 * (line["top1"]["std"] or 0.01) + 1e-6
    assert [s.verdict for s in scores(data, changed(content=worse))][-1] == "different"
    worse["scores"]["table"].pop()
    assert [s.again for s in scores(data, changed(content=worse))][-1] is None


def test_a_recorded_folder_has_to_be_found_here(trainer):
    content = DistilledDataset.load(trainer.folder).content
    content["config"]["data"]["dataset"] = "local:mine"
    with pytest.raises(ConfigError, match="--dataset"):
        recipe(content, {})
    assert recipe(content, {"dataset": "digits"})["dataset"] == "digits"
    pinned = {**content, "source": {**content["source"], "id": "lab/pets", "revision": "ab" * 20}}
    assert recipe(pinned, {"dataset": "lab/pets"})["revision"] == "ab" * 20


def test_a_record_computes_and_does_nothing_else(trainer, hub, tmp_path):
    """A stranger's settings that publish, overwrite or write elsewhere are not followed."""
    victim, folder = hub.fresh("victim"), tmp_path / "dataset"
    shutil.copytree(trainer.folder / "dataset", folder)
    both = json.loads((folder / "condensation.json").read_text())
    elsewhere = {"output_dir": str(tmp_path / "elsewhere"), "overwrite": True, "trackers": ["tensorboard"]}
    both["content"]["config"]["run"] |= {"push_to_hub": victim, "push_models": True, **elsewhere}
    (folder / "condensation.json").write_text(json.dumps(both))
    found = reproduce(folder, str(tmp_path / "again"))
    assert found.holds and found.folder == tmp_path / "again" and not (tmp_path / "elsewhere").exists()
    assert not list((tmp_path / "again").rglob("events.out*"))
    assert not hub.api().repo_exists(victim, repo_type="dataset")


def test_a_record_opens_no_folder_of_this_machine(trainer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pictures", "lab/pets", "convnet_w128"):
        (tmp_path / name).mkdir(parents=True)
    content = DistilledDataset.load(trainer.folder).content

    def changed(section, **values):
        config = {**content["config"], section: content["config"][section] | values}
        return {**content, "config": config}

    for values in (
        {"dataset": "/etc"}, {"dataset": "~/pictures"}, {"dataset": "pictures"}, {"dataset": "lab/pets"},
        {"base_model": ["convnet_d1", "local-dir:pictures"]}, {"base_model": "convnet_d1, /etc"},
        {"base_model": ["transformers:/etc"]}, {"base_model": ["../x"]}, {"students": ["convnet_w128"]},
        {"pool_folder": "pictures"}, {"pool_folder": "local:pool"},
    ):  # fmt: skip
        (name,) = values
        section = {"dataset": "data", "students": "evaluation", "base_model": "squeeze"}.get(name, "weak")
        with pytest.raises(ConfigError, match=f"^invalid {name}=.*--{name}"):
            recipe(changed(section, **values), {})
        assert recipe(changed(section, **values), {name: "mine"})[name] == "mine"
    (tmp_path / "digits").mkdir()  # a short name is what it is, whatever lies here
    asked = {"base_model": ["hf-hub:org/name", "resnet18"], "students": ["convnet_d1"]}
    assert recipe(changed("squeeze", **asked), {})["base_model"] == asked["base_model"]


@pytest.mark.parametrize("name", ["config", "self", "dataest"])
def test_a_setting_that_nobody_knows_is_refused(trainer, name):
    content = DistilledDataset.load(trainer.folder).content
    config = {**content["config"], "data": content["config"]["data"] | {name: "other.yaml"}}
    with pytest.raises(ConfigError, match=f"{name}='other.yaml'.*settings of random runs"):
        recipe({**content, "config": config}, {})


def test_run_publishes_at_its_end_and_says_first_what_would_stop_it(trainer, hub, tmp_path, capsys):
    arguments = ["run", *(f"--{k}={v}" for k, v in TINY.items()), f"--output_dir={trainer.folder}"]
    repo_id = hub.fresh("by-run")
    assert main([*arguments, f"--push_to_hub={repo_id}"]) == 2
    assert "--push_models" in capsys.readouterr().err
    assert main([*arguments, f"--push_to_hub={repo_id}", "--push_models"]) == 0
    assert f"dataset {repo_id}: sent" in capsys.readouterr().out
    assert DistilledDataset.load(repo_id).content == DistilledDataset.load(trainer.folder).content
    assert "push_" not in (trainer.folder / "config.yaml").read_text()
    with hub.fault("whoami", status=401), pytest.raises(HubError, match="hf auth login"):
        CondensationTrainer(**TINY, output_dir=str(tmp_path / "new"), push_to_hub=repo_id, push_models=True).run()
    assert not any((tmp_path / "new").rglob("*"))  # nothing was done in vain


def test_push_and_inspect_from_the_command_line(trainer, hub, published, capsys):
    repo_id = hub.fresh("by-hand")
    assert main(["push", str(trainer.folder), repo_id, "--push-models", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"model {repo_id}-convnet_d1: would send" in said and f"dataset {repo_id}: would send" in said
    assert not HfApi().repo_exists(repo_id, repo_type="dataset")
    assert main(["push", str(trainer.folder), repo_id, "--push_models", "--private"]) == 0
    assert HfApi().dataset_info(repo_id).private and HfApi().model_info(f"{repo_id}-convnet_d1").private
    assert main(["inspect", repo_id, "--revision", "main"]) == 0
    assert "content  holds" in capsys.readouterr().out
    assert main(["push", str(trainer.folder / "nowhere"), repo_id]) == 2
    assert capsys.readouterr().err.startswith("error: ")
