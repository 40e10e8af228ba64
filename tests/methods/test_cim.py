"""CIM: tiles of whole images, the pairing of tiles and images, the gradient in closed form, and what optimisation gains."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from hf_condense import CondensationTrainer, create_method
from hf_condense.data.formation import decode, enlarged
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.pixels import to_unit
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import SiamesePolicy
from hf_condense.data.spaces import pixel_space
from hf_condense.engine import Engine
from hf_condense.errors import ConfigError, ModelError
from hf_condense.methods.cim import DATASETS
from hf_condense.models.image_model import ImageModel
from hf_condense.models.loading import load_model
from hf_condense.objectives.paired_features import PairedFeatures, feature_layer
from hf_condense.run.resolve import load_preset, preset_names
from hf_condense.selection.realism import cell_rows, tile

CPU = torch.device("cpu")
UNIT = pixel_space("unit", (0.0,), (1.0,), CPU)


class Pooled(nn.Module):
    """Averages 2 x 2 pixels: linear features."""

    def __init__(self, side: int, pool: int = 2) -> None:
        super().__init__()
        self.pool, self.head = pool, nn.Linear((side // pool) ** 2, 3)

    def forward(self, x):
        return self.head(F.avg_pool2d(x, self.pool).flatten(1) if self.pool > 1 else x.flatten(1))


def linear(side: int, pool: int = 2) -> ImageModel:
    return ImageModel(Pooled(side, pool), num_classes=3, mean=(0.0,), std=(1.0,), channels=1).double().freeze()


def objective(side, sources, factor=2, pool=2, policy=None, **settings) -> PairedFeatures:
    found = PairedFeatures(linear(side, pool), UNIT, policy, factor=factor, **settings)
    found.sources = sources
    found.start(None, torch.zeros(1, 1, side, side, dtype=torch.float64), torch.zeros(1, dtype=torch.int64), Key(0))
    return found


def loss_of(found: PairedFeatures, images, key=None):
    return sum(
        term.loss for term in found.terms(images, torch.zeros(len(images), dtype=torch.int64), 0, key or Key(0))
    )


def anchors(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 1, side, side), np.uint8))


def tiled(images: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the anchors in float64 unit pixels, and the sources of each image."""
    count, side = len(images) // factor**2, images.shape[-1]
    small = F.interpolate(images, (-(-side // factor),) * 2, mode="bilinear", antialias=True)
    rows = cell_rows(np.arange(len(images)), count).reshape(count, -1)
    return tile(small, count, factor, side).double() / 255, images[torch.from_numpy(rows)]


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_one_tile_is_its_image_and_loss_and_gradient_are_zero(distance):
    images, sources = tiled(anchors(3, 8), 1)
    z = images.clone().requires_grad_(True)
    loss = loss_of(objective(8, sources, factor=1, distance=distance), z)
    loss.backward()
    assert float(loss.detach()) == 0 and not z.grad.any()


def test_constant_images_lose_nothing_in_a_tile_and_chessboards_do():
    flat = torch.arange(0, 240, 30, dtype=torch.uint8)[:8].view(8, 1, 1, 1).expand(8, 1, 8, 8).contiguous()
    board = (((torch.arange(8)[:, None] + torch.arange(8)) % 2) * 255).to(torch.uint8).expand(8, 1, 8, 8).contiguous()
    losses = [float(loss_of(objective(8, s, pool=1), x)) for x, s in (tiled(flat, 2), tiled(board, 2))]
    assert losses[0] < 1e-20 and losses[1] > 1


def test_tiles_that_divide_the_side_are_decoded_as_those_of_formation():
    images = torch.rand(3, 2, 12, 12, dtype=torch.float64)
    for factor in (1, 2, 3):
        assert torch.equal(enlarged(images, factor), decode(images, factor))


@pytest.mark.parametrize(("factor", "side"), [(1, 8), (2, 8), (2, 9), (3, 9), (3, 8), (3, 10)])
def test_every_tile_is_held_against_its_own_image(factor, side):
    """Anchors have constant values in order; the decoded tiles come in the same order."""
    values = torch.arange(2 * factor**2, dtype=torch.uint8).view(-1, 1, 1, 1) * 7
    images, sources = tiled(values.expand(-1, 1, side, side).contiguous(), factor)
    order = sources.transpose(0, 1).flatten(0, 1)[:, 0, 0, 0]
    middle = enlarged(images, factor)[:, 0, side // 2, side // 2] * 255
    assert torch.allclose(middle, order.double(), rtol=0, atol=1e-9) and order.tolist() == (values.flatten()).tolist()
    mixed = sources.flip(0)
    assert float(loss_of(objective(side, mixed, factor, pool=1), images)) > 0


def test_the_gradient_of_l1_is_the_sign_scattered_by_the_adjoint_of_the_zoom():
    images, sources = tiled(anchors(8, 8), 2)
    z = images.clone().requires_grad_(True)
    loss_of(objective(8, sources, distance="l1"), z).backward()

    def matrix(image_shape) -> torch.Tensor:
        """Features of the decoded tiles as a matrix of one image's pixels."""
        columns = []
        for place in range(64):
            unit = torch.zeros(64, dtype=torch.float64)
            unit[place] = 1
            columns.append(F.avg_pool2d(enlarged(unit.view(1, 1, 8, 8), 2), 2).flatten())
        return torch.stack(columns, 1)

    a = matrix(images.shape)
    for j in range(2):
        wanted = F.avg_pool2d(sources[j].double() / 255, 2).flatten()  # of cell 0, 1, 2, 3, as `decode` orders tiles
        apart = a @ images[j].flatten() - wanted
        gradient = a.T @ apart.sign() / 16  # d = 16 features a tile
        assert torch.allclose(z.grad[j].flatten(), gradient, atol=1e-10)


def test_real_image_and_tile_share_one_draw():
    policy = SiamesePolicy(("crop", "cutout"))
    images, sources = tiled(anchors(4, 8), 2)
    found = objective(8, sources, policy=policy)
    together = float(loss_of(found, images, Key(1)))
    from hf_condense.data.siamese import draw_siamese

    def apart(a: Key, b: Key) -> float:
        real, shown = sources[0].double() / 255, enlarged(images, 2)
        x, y = (
            found.features(found._seen(v, draw_siamese(policy, k / "siamese", 1, 8, 8)))
            for v, k in ((real, a), (shown, b))
        )
        return float((x - y).square().sum())

    assert together == pytest.approx(apart(Key(1), Key(1)), rel=1e-12)
    assert together != pytest.approx(apart(Key(1), Key(2)), rel=1e-3)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_images_are_independent_and_the_loss_sums_over_them(distance):
    images, sources = tiled(anchors(8, 8), 2)
    z, twice = (x.clone().requires_grad_(True) for x in (images, images.repeat(40, 1, 1, 1)))
    one = loss_of(objective(8, sources, distance=distance), z)
    many = loss_of(objective(8, sources.repeat(40, 1, 1, 1, 1), distance=distance), twice)  # in several terms
    one.backward(), many.backward()
    assert float(many.detach()) == pytest.approx(40 * float(one.detach()), rel=1e-12)
    assert torch.allclose(twice.grad, z.grad.repeat(40, 1, 1, 1), atol=1e-14)


def test_a_layer_by_its_path_is_the_child_that_the_script_counts():
    model = load_model("torchvision/resnet18", ImageSpec(4, 32, (0.5,), (0.5,), 3), key=Key(0))
    assert feature_layer(model, "layer3") is list(model.backbone.children())[-4]
    assert feature_layer(model, None) is model.backbone.fc
    for wrong in ("layer9", ""):
        with pytest.raises(ModelError, match="layer=.*a module of torchvision/resnet18: conv1,.*layer3.*or none"):
            feature_layer(model, wrong)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return CondensationTrainer(
        "cim", "digits", output_dir=str(tmp_path_factory.mktemp("cim")), ipc=3, max_per_class=40, max_test=100,
        base_model="convnet_d1", squeeze_epochs=4, squeeze_lr=0.05, threads=1, precision="fp32",
    ).prepare()  # fmt: skip


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three digits at 16 pixels, whose tiles have 8."""
    return CondensationTrainer(
        "cim", "digits", output_dir=str(tmp_path_factory.mktemp("large")), ipc=2, max_per_class=40, max_test=60,
        classes="0,1,2", image_size=16, base_model="convnet_d1", squeeze_epochs=4, squeeze_lr=0.05, threads=1, precision="fp32",
    ).prepare()  # fmt: skip


def make(context, folder, flipped=False, **settings):
    method = create_method("cim", **{"candidates": 30, **settings})
    if flipped:
        make_objective = method.objective

        def against(*arguments):
            found = make_objective(*arguments)
            terms = found.terms
            found.terms = lambda *a: (replace(term, loss=-term.loss) for term in terms(*a))
            return found

        method.objective = against
    return Engine(Accelerator(cpu=True), folder, 10**9).run(method, context)


@torch.no_grad()
def apart(context, made, factor=2) -> float:
    """Mean squared distance of the features of enlarged tiles from those of their images."""
    found = create_method("cim", tile_factor=factor, families=()).objective(context)
    real = context.train.images(made.origin.T.ravel()).float() / 255
    tiles = found.features(enlarged(to_unit(made.images), factor))
    return float((tiles - found.features(real)).square().sum(1).mean())


def test_tiles_come_nearer_to_their_images_and_with_the_sign_flipped_they_do_not(large, tmp_path):
    made = make(large, tmp_path / "run", iterations=30, families=())
    before = replace(made, images=made.initial)
    assert apart(large, made) < 0.7 * apart(large, before)
    flipped = make(large, tmp_path / "flipped", flipped=True, iterations=10, families=())
    assert apart(large, flipped) > apart(large, before)


def test_tiles_come_nearer_under_augmentation_and_where_they_have_few_pixels(context, tmp_path):
    made = make(context, tmp_path / "augmented", iterations=20)
    assert apart(context, made) < 0.9 * apart(context, replace(made, images=made.initial))


def test_each_image_says_which_real_ones_are_in_it(context, tmp_path):
    made = make(context, tmp_path, iterations=1)
    assert made.origin.shape == (30, 4)
    for c in range(10):
        mine = made.origin[3 * c : 3 * c + 3]
        assert len(set(mine.ravel().tolist())) == 12 and (context.train.labels[mine] == c).all()
    small = F.interpolate(context.train.images(made.origin[:, 3]), (4, 4), mode="bilinear", antialias=True)
    assert torch.equal(made.initial[..., 4:, 4:], small)


@pytest.mark.parametrize("clamp", ["end", "never"])
def test_published_images_are_the_floats_rounded(context, tmp_path, clamp):
    made = make(context, tmp_path, iterations=5, lr=0.1, clamp=clamp)
    assert (made.pixels is not None) == (clamp == "never")
    if made.pixels is not None:
        assert made.pixels.min() < 0 or made.pixels.max() > 1
        assert (made.images / 255 - made.pixels.clamp(0, 1)).abs().max() <= 1 / 510 + 1e-6


def test_images_of_a_class_are_those_the_observer_finds_easiest(context, tmp_path):
    observer, train = context.observers[0].model, context.train
    made = make(context, tmp_path, iterations=1, candidates=1000)
    for c in (0, 7):
        rows = train.rows_of(c)
        with torch.no_grad():
            losses = F.cross_entropy(
                observer(train.images(rows).float() / 255), torch.full((len(rows),), c), reduction="none"
            )
        easiest = rows[np.argsort(losses.numpy(), kind="stable")[:12]]
        assert made.origin[3 * c : 3 * c + 3].T.ravel().tolist() == easiest.tolist()


def test_stages_of_pdd_hold_tiles_against_their_own_images(context):
    """Earlier images come first in the union; they have no term, and the new ones keep their sources."""
    from hf_condense.objectives.union import Frozen, Union

    images, sources = tiled(anchors(8, 8), 2)
    plain = objective(8, sources)
    union = Union(PairedFeatures(linear(8), UNIT, None), Frozen(torch.rand(2, 1, 8, 8), torch.zeros(2).long(), 1))
    assert union.needs_sources
    union.sources = sources
    union.start(SimpleNamespace(rows=(2, 3)), images, torch.zeros(2).long(), Key(0))
    assert float(loss_of(union, images)) == pytest.approx(float(loss_of(plain, images)), rel=1e-12)


def test_what_cannot_be_is_refused(context):
    with pytest.raises(ConfigError, match="tile_factor=9: expected up to 8, the side"):
        create_method("cim", tile_factor=9).check(replace(context, ipc=0))
    with pytest.raises(ConfigError, match="families"):
        create_method("cim", families=("blur",))


def test_presets_hold_the_values_of_the_script_and_the_paper():
    assert set(DATASETS) - {"imagenet-10", "imagenet-100"} == set(preset_names("cim")) - {
        "digits", "fashion_mnist", "imagenet-1k-ipc100",
    }  # fmt: skip
    for name in ("cifar10", "cifar100", "tiny-imagenet", "imagenet-1k"):
        paper, script = (load_preset("cim", name, 10, variant).values for variant in ("paper", "official"))
        for values in (paper, script):
            assert (values["iterations"], values["lr"], values["tile_factor"], values["candidates"]) == (
                200,
                0.01,
                2,
                300,
            )
            assert values["layer"] == ("layer3" if name == "imagenet-1k" else None)
        assert (paper["distance"], script["distance"], script["tiling"], script["clamp"]) == (
            "l2",
            "l1",
            "nearest",
            "never",
        )
    assert load_preset("cim", "imagenet-1k", 100, "paper").values["candidates"] == 500
