"""The examples of README, docs/ and recipes run as they stand, but smaller; those of the Hub against the local one.

Blocks marked `python` and `bash` are run in the order of the page. Blocks marked `text` hold what is printed, or forms
with placeholders, whose flags are checked. What a run would spend hours on is replaced by the settings of `SMALL`.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from huggingface_hub import HfApi, ModelCard
from PIL import Image as PillowImage
from sklearn.datasets import load_digits

from hf_condense import CondensationTrainer, DistilledDataset, cli
from hf_condense.cli_parser import STAGES, build_parser, short_names
from hf_condense.config import setting_fields
from hf_condense.methods import METHODS, sections_of
from tests.examples import blocks, commands, given, python_examples

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        ROOT / "recipes/README.md",
    )
}
HUB_ID = "org/cifar10-ipc10-edc"
SMALL = {
    "max_per_class": 12, "max_test": 40, "image_size": 8, "base_model": "convnet_d1", "squeeze_epochs": 2,
    "min_top1_over_chance": 0, "protocol": "small", "student_epochs": 2, "student_seeds": 1, "students": "convnet_d1",
    "threads": 1, "precision": "fp32", "ipc": 2, "iterations": 20, "real_batch": 8,
}  # fmt: skip


def small(method: str) -> dict[str, Any]:
    """`SMALL` without the settings that a method does not have."""
    known = setting_fields(sections_of(method, None))
    return {name: value for name, value in SMALL.items() if name in known}


def photos(folder: Path) -> None:
    """Class folders with a train and a test split, of small pictures."""
    digits = load_digits()
    for split, first, last in (("train", 0, 300), ("test", 300, 400)):
        for row in range(first, last):
            place = folder / split / f"class {digits.target[row]}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[row] * 15.9).astype("uint8")
            PillowImage.fromarray(pixels).convert("RGB").save(place / f"{row}.png")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with the runs and the photos that the pages speak of."""
    root = tmp_path_factory.mktemp("pages")
    demo = root / "runs" / "demo"
    CondensationTrainer("random", dataset="digits", output_dir=str(demo), **small("random")).run()
    shutil.copytree(demo, root / "runs" / "edc-cifar10-ipc10")
    for name in ("photos", "path/to/photos"):
        photos(root / name)
    return root


@pytest.fixture
def reader(world, hub, tmp_path, monkeypatch) -> Path:
    """In that folder, with `org` on the local Hub; whatever is condensed is small."""
    monkeypatch.chdir(world)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "organizations", hub.organizations | {"org": {"ada"}})
    whole = CondensationTrainer.__init__

    def shortened(self, method=None, dataset=None, **settings):
        whole(self, method, dataset, **settings | small(method or settings["method"]))

    monkeypatch.setattr(CondensationTrainer, "__init__", shortened)
    return tmp_path


def run_page(text: str, folder: Path) -> dict[str, Any]:
    """Runs the blocks of a page; the names that its Python blocks have left."""
    digits = load_digits()
    features = Features({"image": Image(), "label": ClassLabel(names=[str(c) for c in range(10)])})
    columns = {"image": list((digits.images[:300] * 15.9).astype("uint8")), "label": list(digits.target[:300])}
    found: dict[str, Any] = {"my_dataset": Dataset.from_dict(columns, features=features)}
    for language, block in blocks(text):
        if language == "bash":
            lines = [line for line in block.splitlines() if line and not line.startswith((" ", "#"))]
            assert all(line.startswith("hf-condense ") for line in lines), "other commands are marked `text`"
            for arguments in commands(block):
                assert cli.main(arguments) == 0, arguments
        elif language == "python":
            name = re.match(r"# (\w+\.py)\n", block)
            if name:  # a file of the reader
                (folder / name[1]).write_text(block, encoding="utf-8")
            found |= given(block, folder / "out", 10, 1, 8)
            exec(compile(block, "page", "exec"), found)
    return found


def test_every_block_says_whether_it_is_run():
    for name, text in PAGES.items():
        unknown = {language for language, _ in blocks(text)} - {"python", "bash", "text"}
        assert not unknown, f"{name}: mark blocks as python or bash, which are run, or as text"
        assert text.count("\n```") % 2 == 0 and len(blocks(text)) == text.count("\n```") // 2, name


def test_the_flags_of_every_command_are_known():
    """Those with placeholders too, in blocks and in sentences."""
    seen = 0
    for name, text in PAGES.items():
        sentences = [f"hf-condense {c}" for c in re.findall(r"`hf-condense ([^`|]+)`", text)]
        for arguments in (found for block in [*sentences, *(b for _, b in blocks(text))] for found in commands(block)):
            arguments = [a for a in arguments if a not in ("...", "[RUN_FOLDER]")]
            method = arguments[arguments.index("--method") + 1] if "--method" in arguments else None
            arguments = short_names(arguments) if arguments[0] == "pool" else arguments
            parser = build_parser(arguments[0], method if method in METHODS else None, None)
            if arguments[0] in STAGES:
                _, rest = parser.parse_known_args(arguments)
                assert not [a for a in rest if a.startswith("--")], f"{name}: {arguments}"
            elif len(arguments) > 2:
                parser.parse_args([a if a != "N" else "1" for a in arguments])
            seen += 1
    assert seen > 20


def test_readme(reader):
    found = run_page(PAGES["README.md"], reader)
    assert found["train"].column_names == ["image", "label", "soft_label"]
    assert found["student"].num_classes == 10 and found["loss"].isfinite()
    assert json.loads((found["folder"] / "condensation.json").read_text())["content"]["method"]["name"] == "edc"


def test_using_a_set(reader):
    found = run_page(PAGES["docs/use.md"], reader)
    assert found["loss"].isfinite() and len(found["data"]) == 20
    assert torch.load("exported/torch/set.pt", weights_only=True)["soft_labels"].shape == (20, 10)
    assert len(list(Path("exported/folders").rglob("*.png"))) == 20


def test_first_loss_of_the_trainer_examples(reader):
    """Cross-entropy over ten classes begins near 2.3, the KL divergence at temperature 4 below 0.1."""
    for page, low, high in (("README.md", 1.5, 3.5), ("docs/use.md", 0.0, 0.3)):
        (example,) = (b for b in python_examples(PAGES[page]) if "**data.for_trainer(" in b)
        found = {"data": DistilledDataset.load("runs/demo/dataset"), **given(example, reader / "out", 10, 1, 8)}
        exec(example, found)
        assert low < found["trainer"].state.log_history[0]["loss"] < high, "binary cross-entropy would be near 0.7"


def test_the_hub(reader):
    found = run_page(PAGES["docs/hub.md"], reader)
    assert len(found["train"]) == 20
    assert "model.safetensors" in HfApi().list_repo_files("org/convnet-from-ten-images")
    card = ModelCard.load("org/convnet-from-ten-images")
    assert card.data.datasets == [HUB_ID] and "61.00 %" in card.text and "online" in card.text


@pytest.mark.parametrize("page", ["docs/start.md", "docs/own_photos.md"])
def test_pages_for_beginners(page, reader):
    run_page(PAGES[page], reader)
    assert len(list(Path("runs").glob("*/dataset/README.md"))) >= 2


def test_a_method_in_a_page(reader):
    """The example moves the means of classes to those of the real images; with the other sign it moves them away."""
    found = run_page(PAGES["docs/add_a_method.md"], reader)
    METHODS.pop("pixel_means")
    distance = class_mean_distances(found["trainer"])
    assert distance["images"] < 0.9 * distance["initial"]


def class_mean_distances(trainer: CondensationTrainer) -> dict[str, float]:
    """Distance of class means to those of the real images, before and after."""
    made, train = trainer.condense(), trainer.train
    real = torch.stack([train.images(train.rows_of(c)).float().mean(0) for c in range(10)])
    return {
        name: (getattr(made, name).float().reshape(10, -1, *real.shape[1:]).mean(1) - real).norm().item()
        for name in ("initial", "images")
    }


def test_pages_without_examples_are_only_those():
    """A page with new examples needs a test above."""
    run = {"README.md", "docs/use.md", "docs/hub.md", "docs/start.md", "docs/own_photos.md", "docs/add_a_method.md"}
    assert {
        name for name, text in PAGES.items() if {"python", "bash"} & {language for language, _ in blocks(text)}
    } == run
