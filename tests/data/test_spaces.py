"""Spaces of pixels: there and back, gradients by hand, the range; and what whitening does to real images (A12)."""

import pytest
import torch

from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.pixels import to_uint8
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import SiamesePolicy, siamese_pixels
from hf_condense.data.spaces import WhitenedPixels, pixel_space
from hf_condense.data.whitening import Whitening, fitted_whitening
from hf_condense.errors import ArtefactError, ConfigError, ModelError
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.loading import load_model
from tests.matching import CPU, digits

SHAPE = (3, 5, 5)
FACTS = {"num_classes": 4, "image_size": 8, "channels": 1, "mean": (0.3,), "std": (0.2,)}


def colours(n: int = 400) -> torch.Tensor:
    """Unit pixels whose neighbours and channels go together, float64."""
    noise = torch.from_numpy(Key(n).uniform(n, *SHAPE))
    return (noise + noise.roll(1, -1) + noise.mean(1, keepdim=True)) / 3


@pytest.fixture(scope="module")
def whitening() -> Whitening:
    return Whitening.fit(digits().decoded())


def spaces() -> dict:
    return {
        "normalised": pixel_space("normalised", (0.2, 0.4, 0.6), (0.2, 0.3, 0.1), CPU),
        "unit": pixel_space("unit", (0.2, 0.4, 0.6), (0.2, 0.3, 0.1), CPU),
        "whitened": pixel_space("whitened", (), (), CPU, Whitening.fit(colours()).double()),
    }


@pytest.mark.parametrize("name", spaces())
def test_there_and_back_and_the_gradient_between(name):
    space, unit = spaces()[name], colours(7)
    z = space.encode(unit).requires_grad_(True)
    back = space.decode(z)
    torch.testing.assert_close(back, unit, atol=1e-5, rtol=0)  # the map is kept in float32
    gradient = torch.from_numpy(Key(1).uniform(*back.shape, low=-1))
    torch.testing.assert_close(
        space.vjp(z, gradient), torch.autograd.grad(back, z, gradient)[0], atol=1e-12, rtol=1e-6
    )


@pytest.mark.parametrize("name", spaces())
def test_what_leaves_the_range_is_put_back_and_survives_eight_bits(name):
    space = spaces()[name]
    inside = space.encode(colours(5)).float()
    kept = inside.clone()
    space.clamp_(kept)
    torch.testing.assert_close(kept, inside, atol=1e-5, rtol=1e-5)  # what is in the range stays
    z = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)) * 9
    space.clamp_(z)
    unit = space.decode(z)
    assert unit.min() >= -1e-5 and unit.max() <= 1 + 1e-5
    assert torch.equal(to_uint8(space.decode(space.encode(to_uint8(unit).float() / 255))), to_uint8(unit))


def test_whitened_images_have_the_covariance_that_eps_leaves(whitening):
    images = digits().decoded().double() / 255
    rows = images.flatten(1)
    before, after = torch.cov(rows.T), torch.cov(whitening.double()(images).flatten(1).T)
    values, vectors = torch.linalg.eigh(before)
    expected = vectors @ torch.diag(values / (values + 0.1)) @ vectors.T
    assert (after - expected).abs().max() < 1e-4
    assert (before - expected).abs().max() > 0.1  # and not the one they had
    assert (whitening.inverse(whitening(images)) - images).abs().max() < 1e-4
    assert whitening(images).mean(0).abs().max() < 1e-5
    whitening.float()


def test_a_whitening_is_fitted_once_for_a_source(monkeypatch):
    source = digits().subset(range(300))
    first = fitted_whitening(source)
    monkeypatch.setattr(Whitening, "fit", None)  # a second fit would fail
    again = fitted_whitening(source)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), again.buffers(), strict=True))
    assert again.facts == {"kind": "zca", "eps": 0.1, "fitted_on": source.fingerprint} and again.shape == (1, 8, 8)
    with pytest.raises(TypeError):  # other images, another map
        fitted_whitening(digits().subset(range(200)))


def test_a_whitening_that_cannot_be(whitening, tmp_path):
    with pytest.raises(ConfigError, match="12288 values an image for ZCA"):
        Whitening.fit(torch.zeros(2, 3, 65, 65, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="Fit a whitening first"):
        pixel_space("whitened", (0.5,), (0.5,), CPU)
    with pytest.raises(ArtefactError):
        Whitening.load(tmp_path / "absent.safetensors")


def test_a_network_sees_whitened_images_and_its_weights_hold_nothing_of_them(whitening):
    images = digits().decoded()[:4].float() / 255
    given = load_model("convnet_d1", ImageSpec(**FACTS), whitening=whitening, key=Key(0))
    plain = load_model("convnet_d1", ImageSpec(**FACTS), key=Key(0))
    assert torch.equal(given.normalise(images), whitening(images))
    assert torch.equal(given(images), given.backbone(whitening(images)))
    white = whitening(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(given.normalise(images), white)
    assert not torch.equal(given(images), plain(images))
    assert given.state_dict().keys() == plain.state_dict().keys() and given.sha256() == plain.sha256()
    with pytest.raises(ModelError, match="whitened images"):
        load_model("convnet_d1", ImageSpec(**FACTS | {"image_size": 16}), whitening=whitening, key=Key(0))
    made = [FreshNetworks("convnet_d1", ImageSpec(**FACTS), device=CPU, whitening=w) for w in (whitening, None)]
    assert made[0](Key(1)).whitening is whitening and made[0].fingerprint != made[1].fingerprint


def test_augmentation_fills_with_the_mean_image_of_the_dataset(whitening):
    images = digits().decoded()[:3].float() / 255
    cut = siamese_pixels(images, SiamesePolicy(("cutout",), cutout=1.0), Key(0), WhitenedPixels(whitening))
    white = whitening(cut)
    zero = white.abs() < 1e-5
    assert 0.2 < zero.float().mean() < 1
    torch.testing.assert_close(white[~zero], whitening(images)[~zero], atol=1e-4, rtol=1e-4)
