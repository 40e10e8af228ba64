"""The model card: YAML that the Hub accepts, and the facts in the text."""

import pytest
from huggingface_hub import ModelCard

from hf_condense.models.card import ModelCardFacts, render

FACTS = {
    "name": "convnet_w32", "library": "timm", "architecture": "convnet_w32", "dataset": "org/digits", "class_names": ("0", "1"),
    "image_size": 8, "channels": 1, "parameters": 19_239, "top1": 0.934, "epochs": 5, "sha256": "ab" * 32,
    "source": {"id": "convnet_w32", "revision": None, "pretrained": False}, "license": "cc-by-4.0",
}  # fmt: skip


def test_card_of_a_network_from_scratch():
    text = render(ModelCardFacts(**FACTS))
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.datasets) == ("cc-by-4.0", "timm", ["org/digits"])
    assert data.base_model is None and "dataset-distillation" in data.tags
    for said in ("93.40 %", "5 epochs", "ab" * 32, "8 x 8", "import hf_condense.models.convnet", "0, 1."):
        assert said in text


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_card_of_a_fine_tuned_network(library):
    source = {"id": "org/net@abc", "revision": "abc", "pretrained": True}
    changes = {"library": library, "architecture": "resnet18", "source": source, "license": None, "epochs": 0}
    text = render(ModelCardFacts(**{**FACTS, **changes}))
    data = ModelCard(text).data
    assert data.base_model == "org/net" and data.license is None
    assert "published weights as they are, starting from org/net@abc (abc)" in text
    assert ("AutoModelForImageClassification" in text) is (library == "transformers")
    assert "hf_condense.models" not in text


def test_card_names_no_place_of_this_machine():
    source = {"id": "/home/someone/net", "revision": None, "pretrained": True}
    text = render(ModelCardFacts(**{**FACTS, "source": source}))
    assert "/home/someone" not in text and "net" in text
