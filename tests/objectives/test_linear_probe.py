"""Linear gradient matching: closed forms against autograd, chunks against the whole, the network left as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.models.embedding import embed
from hf_condense.models.image_model import ImageModel
from hf_condense.objectives.linear_probe import LinearGradientMatching, NoisyViews, cosine, head_gradient
from hf_condense.plan import Shard

CLASSES, SIDE = 3, 6
KEY = Key(0, "lgm")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def numbers(*shape: int, name: str = "") -> torch.Tensor:
    return torch.from_numpy((KEY / "numbers" / name / str(shape)).numpy().standard_normal(shape))


@pytest.fixture
def backbone() -> ImageModel:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES)
    )
    with torch.no_grad():
        body[1].running_mean.normal_()
    return ImageModel(body, num_classes=CLASSES, channels=1).double()


def objective(backbone, real, **settings) -> LinearGradientMatching:
    own = {"copies": 2, "chunk": 100, "head_scale": 0.0, **settings}
    made = LinearGradientMatching(
        backbone, CLASSES, NoisyViews(ViewPolicy(SIDE, crop=(0.5, 1.0)), 0.1), real=real, **own
    )
    made.start(Shard("s", "optimise", (), ()), torch.zeros(1).double(), LABELS, KEY)
    return made


def gradient(made: LinearGradientMatching, images: torch.Tensor, labels: torch.Tensor = LABELS):
    """Of all terms, back-propagated one by one; and the loss in the log."""
    images = images.clone().requires_grad_(True)
    logs = []
    for term in made.terms(images, labels, 3, KEY / "step"):
        term.loss.backward()
        logs += list(term.logs.values())
    assert len(logs) == 1
    return images.grad, logs[0]


def in_one_pass(made: LinearGradientMatching, images: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The same loss with all views in one graph; the views are those of the terms."""
    parts = 0.0
    for number, rows in enumerate(torch.arange(len(images)).repeat(made.copies).split(made.chunk)):
        z = embed(made.backbone, made.views(images[rows], KEY / "step" / "view" / number))
        parts = parts + head_gradient(z, LABELS[rows], None, CLASSES)
    return 1 - F.cosine_similarity(parts.flatten(), wanted.flatten(), dim=0)


@pytest.mark.parametrize("scale", [0.0, 0.7])
def test_the_closed_form_is_the_gradient_of_cross_entropy(scale):
    z, labels = numbers(7, 5), torch.tensor([0, 0, 0, 1, 2, 2, 0])
    weight, bias = (
        (scale * numbers(CLASSES, 5)).requires_grad_(True),
        torch.zeros(CLASSES).double().requires_grad_(True),
    )
    F.cross_entropy(z @ weight.T + bias, labels, reduction="sum").backward()
    found = head_gradient(z, labels, weight.detach() if scale else None, CLASSES)
    torch.testing.assert_close(found, torch.cat([weight.grad, bias.grad[:, None]], 1), rtol=0, atol=1e-12)


def test_without_a_head_it_is_that_of_centred_class_means():
    z = numbers(6, 5)
    means = torch.stack([z[c == LABELS].mean(0) for c in range(CLASSES)])
    found = head_gradient(z, LABELS, None, CLASSES) / 6
    torch.testing.assert_close(found[:, :-1], (z.mean(0) - means) / CLASSES, rtol=0, atol=1e-12)
    assert found[:, -1].abs().max() < 1e-15
    moved = head_gradient(2.5 * z + numbers(5), LABELS, None, CLASSES) / 6
    assert 1 - cosine(found, moved) < 1e-12 and 0 <= 1 - cosine(found, -moved) <= 2 + 1e-12
    other = head_gradient(numbers(6, 5, name="other"), LABELS, None, CLASSES)
    assert 1e-3 < 1 - cosine(found, other) <= 2


@pytest.mark.parametrize("chunk", [1, 5, 6, 12, 100])
def test_chunks_give_the_gradient_of_one_pass(backbone, chunk):
    means, images = numbers(CLASSES, 5), numbers(6, 1, SIDE, SIDE)
    made = objective(backbone, means, chunk=chunk)
    found, logged = gradient(made, images)
    wanted = head_gradient(means, torch.arange(CLASSES), None, CLASSES)
    whole = images.clone().requires_grad_(True)
    loss = in_one_pass(made, whole, wanted)
    loss.backward()
    torch.testing.assert_close(found, whole.grad, rtol=0, atol=1e-12)
    assert float(logged) == pytest.approx(float(loss.detach()), abs=1e-12)
    assert whole.grad.abs().max() > 1e-6


def test_a_graph_holds_one_chunk_whatever_the_number_of_classes(backbone):
    def saved(images: torch.Tensor, labels: torch.Tensor) -> int:
        most, sizes = 0, []
        made = objective(backbone, numbers(CLASSES, 5), chunk=3)
        terms = made.terms(images.clone().requires_grad_(True), labels, 0, KEY)
        while True:
            sizes.clear()
            with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
                term = next(terms, None)
            if term is None:
                return most
            most = max(most, sum(sizes))
            term.loss.backward()

    few = saved(numbers(6, 1, SIDE, SIDE), LABELS)
    many = saved(numbers(24, 1, SIDE, SIDE), LABELS.repeat(4))
    assert few == pytest.approx(many, rel=0.1)


def test_real_images_match_themselves(backbone):
    images = numbers(6, 1, SIDE, SIDE)
    made = objective(backbone, torch.zeros(1), copies=1)
    made.views = lambda shown, key: shown
    for scale in (0.0, 0.5):
        made.head_scale = scale
        made.real = lambda step, key: (embed(backbone, images).detach(), LABELS)
        found, loss = gradient(made, images)
        assert abs(float(loss)) < 1e-12 and found.abs().max() < 1e-7


def test_two_images_of_a_class_count_by_their_mean(backbone):
    images = numbers(6, 1, SIDE, SIDE)
    made = objective(backbone, numbers(CLASSES, 5), copies=1)
    made.views = lambda shown, key: shown
    _, loss = gradient(made, images)
    _, swapped = gradient(made, images[[3, 1, 2, 0, 4, 5]])
    _, other = gradient(made, images[[1, 0, 2, 3, 4, 5]])
    assert float(loss) == pytest.approx(float(swapped), abs=1e-12) and abs(float(loss - other)) > 1e-6


def test_the_network_is_left_as_it_was(backbone):
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    made = objective(backbone, numbers(CLASSES, 5), chunk=2)
    backbone.train()
    made.backbone.freeze()
    gradient(made, numbers(6, 1, SIDE, SIDE))
    assert all(p.grad is None for p in backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_noise_is_on_about_half_of_the_views_and_drawn_by_its_key():
    shown = torch.zeros(400, 1, 4, 4).double()
    views = NoisyViews(ViewPolicy(4, flip=0.0), 0.2, 0.5)
    made = views(shown, KEY)
    assert torch.equal(made, views(shown, KEY)) and not torch.equal(made, views(shown, KEY / 1))
    noisy = made.flatten(1).abs().amax(1) > 0
    assert 0.4 < noisy.double().mean() < 0.6
    assert abs(made[noisy].mean() - 0.5) < 0.02 and abs(made[noisy].std() - 0.2) < 0.02
