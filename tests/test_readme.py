"""The examples of README and of the recipes' page run as they stand, the ones on the Hub against the local one."""

import math
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard

from hf_condense.trainer import CondensationTrainer
from tests.examples import given, python_examples

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
HUB_ID = "org/cifar10-ipc10-edc"
TINY = {
    "method": "random", "dataset": "digits", "ipc": 2, "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1",
    "squeeze_epochs": 2, "min_top1_over_chance": 0, "protocol": "small", "student_epochs": 2, "student_seeds": 1,
    "students": "convnet_d1", "baselines": "full", "threads": 1, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A folder with `runs/demo`, as the demo leaves it but for its size."""
    root = tmp_path_factory.mktemp("readme")
    CondensationTrainer(**TINY, output_dir=str(root / "runs" / "demo")).run()
    return root


def run_all(blocks: list[str], tmp_path: Path) -> dict:
    found: dict = {}
    for block in blocks:
        found |= given(block, tmp_path / "out", 10, 1, 8)
        exec(compile(block, "README.md", "exec"), found)
    return found


def test_examples_of_using_a_set(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(run_folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    blocks = python_examples(PAGE[PAGE.index("## Use a condensed") : PAGE.index("## Make one")])
    assert len(blocks) == 3
    found = run_all(blocks, tmp_path)
    assert found["student"].num_classes == 10 and math.isfinite(found["loss"])
    first = found["trainer"].state.log_history[0]["loss"]
    assert 1.5 < first < 3.5, "cross-entropy over ten classes, not the binary one near 0.7"


def test_examples_of_the_hub(run_folder, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "organizations", hub.organizations | {"org": {"ada"}})
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    CondensationTrainer(**TINY, output_dir=str(run_folder / "runs" / "demo")).push_to_hub(HUB_ID, push_models=True)
    (block,) = python_examples(RECIPES[RECIPES.index("## On the Hub") :])
    found = run_all([block], tmp_path)
    assert len(found["train"]) == 20
    assert "model.safetensors" in HfApi().list_repo_files("org/convnet-from-ten-images")
    card = ModelCard.load("org/convnet-from-ten-images")
    assert card.data.datasets == [HUB_ID] and "61.00 %" in card.text and "online" in card.text


def test_other_examples_are_python():
    for page in (PAGE, RECIPES):
        for block in python_examples(page):
            compile(block, "README.md", "exec")
