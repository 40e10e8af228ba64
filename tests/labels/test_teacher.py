import pytest
import torch
from torch import nn

from hf_condense.errors import ConfigError, ModelError
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.image_model import ImageModel


def with_batch_norm(seed: int = 0) -> ImageModel:
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return ImageModel(body, num_classes=3, channels=1)


class Scaled(nn.Module):
    """A network whose logits are a multiple of another's."""

    def __init__(self, model: ImageModel, factor: float) -> None:
        super().__init__()
        self.model, self.factor, self.num_classes = model, factor, model.num_classes

    def forward(self, images):
        return self.model(images) * self.factor


def test_averages(images, model):
    a, b, x = model(1), model(2), images(6) / 255
    one, two = a.eval()(x), b.eval()(x)
    assert torch.allclose(Ensemble([a, b]).logits(x), (one + two) / 2, atol=1e-6)
    mean = (one.softmax(1) + two.softmax(1)) / 2
    assert torch.allclose(Ensemble([a, b], "probabilities").logits(x).exp(), mean, atol=1e-6)
    assert not torch.allclose(Ensemble([a, b]).logits(x).softmax(1), mean, atol=1e-6)


def test_weights_of_networks(images, model):
    a, b, x = model(1), model(2), images(6) / 255
    one, two = a.eval()(x), b.eval()(x)
    mixed = Ensemble([a, b], weights=(0.9, 0.1))
    assert torch.allclose(mixed.logits(x), 0.9 * one + 0.1 * two, atol=1e-6)
    assert torch.equal(Ensemble([a, b], weights=(1.0, 0.0)).logits(x), Ensemble([a]).logits(x))
    assert mixed.describe() != Ensemble([a, b]).describe() and "weights" not in Ensemble([a, b]).describe()
    for wrong, average in (((0.5, 0.6), "logits"), ((1.0,), "logits"), ((0.5, 0.5), "probabilities")):
        with pytest.raises(ConfigError, match="teacher weights"):
            Ensemble([a, b], average, weights=wrong)


def test_normalised_average_ignores_the_scale_of_one_teacher(images, model):
    x, a, b = images(6) / 255, model(1), model(2)
    plain = Ensemble([a, b], "normalised").logits(x)
    scaled = Ensemble([a, Scaled(b, 10.0)], "normalised").logits(x)
    one, two = a(x).norm(), b(x).norm()
    assert torch.allclose(scaled / plain, ((one + 10 * two) / (one + two)).expand_as(plain), rtol=1e-4)
    assert not torch.allclose(Ensemble([a, b]).logits(x), Ensemble([a, Scaled(b, 10.0)]).logits(x), rtol=0.1)


def test_batch_statistics_tie_labels_to_their_batch_and_leave_the_network_alone(images):
    x, network = images(6) / 255, with_batch_norm()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    running, batch = Ensemble([network]), Ensemble([network], bn="batch")
    assert torch.allclose(running.logits(x)[:3], running.logits(x[:3]), atol=1e-5)
    assert not torch.allclose(batch.logits(x)[:3], batch.logits(x[:3]), atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(m.training for m in network.modules())


def test_teacher_is_frozen_and_its_labels_can_enter_a_loss(images, model):
    teacher = Ensemble([model(1)]).train()
    logits = teacher.logits(images(4) / 255)
    student = torch.zeros(4, 3, requires_grad=True)
    (student - logits).square().mean().backward()
    assert student.grad is not None
    assert not teacher.training and not teacher.models[0].training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_soft_labels(teacher, images, device):
    soft = teacher.soft_labels(images(7), device, batch_size=3)
    assert soft.dtype == torch.float16 and soft.shape == (7, 3)
    assert torch.allclose(soft.float().sum(1), torch.ones(7), atol=2e-3)
    assert torch.equal(soft.argmax(1), teacher.logits(images(7) / 255).argmax(1))


def test_wrong_ensembles(model):
    with pytest.raises(ConfigError, match="one or more networks"):
        Ensemble([])
    with pytest.raises(ConfigError, match="one number of classes"):
        Ensemble([model(1), model(2, classes=4)])
    with pytest.raises(ConfigError, match="ensemble"):
        Ensemble([model(1)], "median")


def test_bytes_are_those_of_all_weights(model):
    assert Ensemble([model(1), model(2)]).bytes == 2 * Ensemble([model(1)]).bytes > 4 * model(1).parameter_count


def poisoned(model, value):
    """The same network with one weight of its head set to `value`."""
    with torch.no_grad():
        list(model.parameters())[-2].view(-1)[0] = value
    return model


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("average", ["logits", "probabilities", "normalised"])
def test_labels_that_are_no_numbers_are_refused_with_the_network_to_blame(images, model, device, value, average):
    sound, sick = model(1), poisoned(model(2), value)
    sick.name = "sick"
    with pytest.raises(ModelError, match="^invalid teachers='sick'.*those for 6 of 6 images are not"):
        Ensemble([sound, sick], average).soft_labels(images(6), device)
    assert Ensemble([sound], average).soft_labels(images(6), device).isfinite().all()


@pytest.mark.parametrize("store", ["full", "int8", "packed", "pruned", "virtual"])
def test_no_store_is_written_of_labels_that_are_no_numbers(images, model, device, tmp_path, store):
    from hf_condense.config import LabelSettings
    from hf_condense.data.augmentation import ViewPolicy
    from hf_condense.data.randomness import Key
    from hf_condense.labels.formats import store_format
    from hf_condense.labels.store import write_store

    pixels, labels = images(12), torch.arange(12) % 3
    form = store_format(LabelSettings(store, keep_every=2, views_per_image=2))
    for value, told in ((torch.nan, "finite outputs"), (1e9, "finite in half precision")):
        if store == "virtual" and value == 1e9:  # kept in single precision
            continue
        teacher = Ensemble([poisoned(model(1), value)])
        with pytest.raises(ModelError, match=f"^invalid teachers='convnet_w32'.*{told}"):
            write_store(
                tmp_path / str(value), pixels, labels, teacher, ViewPolicy(8), Key(0), 4, 4, device, form=form
            )  # fmt: skip
        assert not list((tmp_path / str(value)).glob("views-*"))
