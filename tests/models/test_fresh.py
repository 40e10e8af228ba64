"""Networks drawn anew are those that building them would have given."""

import pytest
import torch

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ModelError
from hf_condense.models.checkpoints import write_checkpoint
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.loading import load_model

FACTS = {"num_classes": 4, "image_size": 16, "channels": 1, "mean": (0.3,), "std": (0.2,)}


@pytest.mark.parametrize(("name", "redraws"), [("convnet_w32", True), ("resnet18", False)])
def test_a_drawn_network_equals_a_built_one(name, redraws):
    fresh = FreshNetworks(name, ImageSpec(**FACTS), device=torch.device("cpu"))
    for i in (0, 1, 2, 1):
        found = fresh(Key(0, "net") / i)
        built = load_model(name, ImageSpec(**FACTS), key=Key(0, "net") / i)
        for a, b in zip(found.state_dict().values(), built.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert found.training and all(p.requires_grad for p in found.parameters())
        found.backbone.get_classifier().weight.data.zero_()  # whoever trains it leaves nothing behind
        found.requires_grad_(False)
    assert fresh._redraws is redraws


def test_a_folder_of_trained_weights_gives_no_fresh_networks(tmp_path):
    """Its weights would be the same for every key."""
    write_checkpoint(load_model("convnet_w32", ImageSpec(**FACTS), key=Key(0)), tmp_path / "own", 16)
    fresh = FreshNetworks(str(tmp_path / "own"), ImageSpec(**FACTS), device=torch.device("cpu"))
    with pytest.raises(ModelError, match="convnet_w32") as caught:
        fresh(Key(1))
    assert caught.value.field == "base_model"
    assert fresh.fingerprint  # a method that trains no fresh network may have such a base model
