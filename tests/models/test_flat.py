"""Weights in one vector: the same logits, gradients of first and second order, and networks that are more than weights."""

import torch
import torch.nn.functional as F

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_model

FACTS = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": (0.3,), "std": (0.2,)}


def convnet(name: str = "convnet_d1", seed: int = 0) -> ImageModel:
    return load_model(name, ImageSpec(**FACTS), key=Key(seed)).double()


def images(n: int = 3) -> torch.Tensor:
    return torch.from_numpy(Key(n).uniform(n, 1, 8, 8))


def test_a_vector_holds_what_the_network_computes_with():
    network, other = convnet(), convnet(seed=1)
    flat = FlatNetwork(network)
    weights, unit = flat.flatten(), images()
    assert weights.shape == (flat.size,) == (sum(p.numel() for p in network.parameters()),)
    assert torch.equal(weights, torch.cat([p.flatten() for p in network.parameters()]))
    assert [name for name, _ in flat.table] == [name for name, _ in network.named_parameters()]
    assert torch.equal(flat(weights, network.normalise(unit)), network(unit))
    elsewhere = FlatNetwork(other)
    assert torch.equal(elsewhere(weights, network.normalise(unit)), network(unit))  # whatever the shell's own weights
    assert not torch.equal(other(unit), network(unit))
    elsewhere.load_(weights)
    assert torch.equal(other(unit), network(unit))


def test_a_snapshot_is_a_copy():
    network = convnet()
    weights = FlatNetwork(network).flatten()
    kept = weights.clone()
    for p in network.parameters():
        p.data.add_(1)
    assert torch.equal(weights, kept)
    assert not torch.equal(FlatNetwork(network).flatten(), kept)


def test_gradients_are_those_of_the_parameters():
    network, labels = convnet(), torch.tensor([0, 2, 3])
    flat, z = FlatNetwork(network), network.normalise(images())
    by_parameter = torch.autograd.grad(F.cross_entropy(network.backbone(z), labels), list(network.parameters()))
    weights = flat.flatten().requires_grad_(True)
    found = torch.autograd.grad(F.cross_entropy(flat(weights, z), labels), weights)[0]
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in by_parameter]), atol=1e-14, rtol=1e-12)


def test_gradients_of_gradients_reach_weights_and_images():
    network, labels = convnet(), torch.tensor([0, 2, 3])
    flat, z = FlatNetwork(network), network.normalise(images()).requires_grad_(True)
    weights = flat.flatten().requires_grad_(True)
    along = torch.from_numpy(Key(3).uniform(flat.size, low=-1))

    def slope(at: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(flat(at, shown), labels)
        return torch.autograd.grad(loss, at, create_graph=True)[0] @ along

    to_weights, to_images = torch.autograd.grad(slope(weights, z), (weights, z))
    step, around = 1e-6, torch.zeros_like(z)
    around[0, 0, 3, 3] = step
    wanted = (slope(weights, z + around) - slope(weights, z - around)) / (2 * step)
    torch.testing.assert_close(to_images[0, 0, 3, 3], wanted, atol=1e-7, rtol=1e-5)
    wanted = (slope(weights + step * along, z) - slope(weights - step * along, z)) / (2 * step)
    torch.testing.assert_close(to_weights @ along, wanted, atol=1e-6, rtol=1e-5)


def test_batch_norms_use_the_images_at_hand_and_keep_their_running_statistics():
    network, unit = convnet("convnet_bn_w32"), images(5)
    before = {name: value.clone() for name, value in network.named_buffers() if "running" in name}
    flat = FlatNetwork(network.eval())
    found = flat(flat.flatten(), network.normalise(unit))
    assert before and all(torch.equal(value, network.get_buffer(name)) for name, value in before.items())
    assert not network.training and not torch.equal(found, network(unit))
    assert torch.equal(found, network.train()(unit)), "as in training"
