"""Networks drawn anew are those that building them would have given."""

import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.errors import ModelError
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.loading import load_model

FACTS = {"num_classes": 4, "image_size": 16, "channels": 1, "mean": (0.3,), "std": (0.2,)}


@pytest.mark.parametrize(("name", "redraws"), [("convnet_w32", True), ("resnet18", False)])
def test_a_drawn_network_equals_a_built_one(name, redraws):
    fresh = FreshNetworks(name, device=torch.device("cpu"), **FACTS)
    for i in (0, 1, 2, 1):
        found = fresh(Key(0, "net") / i)
        built = load_model(name, key=Key(0, "net") / i, **FACTS)
        for a, b in zip(found.state_dict().values(), built.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert found.training and all(p.requires_grad for p in found.parameters())
        found.backbone.get_classifier().weight.data.zero_()  # whoever trains it leaves nothing behind
        found.requires_grad_(False)
    assert fresh._redraws is redraws


def test_a_folder_of_trained_weights_gives_no_fresh_networks(tmp_path):
    """Its weights would be the same for every key."""
    write_checkpoint(load_model("convnet_w32", key=Key(0), **FACTS), tmp_path / "own", 16)
    fresh = FreshNetworks(str(tmp_path / "own"), device=torch.device("cpu"), **FACTS)
    with pytest.raises(ModelError, match="convnet_w32") as caught:
        fresh(Key(1))
    assert caught.value.field == "base_model"
    assert fresh.fingerprint  # a method that trains no fresh network may have such a base model
