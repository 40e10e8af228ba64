"""Networks drawn anew are those that building them would have given."""

import pytest
import torch

from hf_condense.data.randomness import Key
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
