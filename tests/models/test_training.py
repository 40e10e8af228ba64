"""The fit loop: learns, repeats bit for bit, resumes exactly, averages weights, accumulates."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.models.training import AveragedModel, Batch, FitRecipe, build_optimizer, evaluate_top1, fit, predict

CPU = torch.device("cpu")
KEY = Key(0, "fit")


def network() -> nn.Module:
    """Dropout and batch norm, so that random state and buffers matter."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * 16, 2)
        )


IMAGES = torch.from_numpy(KEY.uniform(24, 1, 6, 6)).float()
LABELS = (IMAGES.mean((1, 2, 3)) > IMAGES.mean()).long()


def batches(epoch: int, size: int = 8):
    order = torch.from_numpy((KEY / "order" / epoch).permutation(len(LABELS)))
    for rows in order.split(size):
        yield Batch(IMAGES[rows], LABELS[rows])


def cross_entropy(logits, batch):
    return F.cross_entropy(logits, batch.labels)


def weights(model) -> torch.Tensor:
    return torch.cat([v.double().flatten() for v in model.state_dict().values()])


def train(epochs=4, model=None, loss=cross_entropy, data=batches, on_epoch=None, state=None, **changes):
    recipe = FitRecipe(epochs=epochs, **{"lr": 0.05, "momentum": 0.9, **changes})
    return fit(
        model or network(),
        data,
        loss,
        recipe,
        device=CPU,
        key=KEY,
        on_epoch=on_epoch,
        state_folder=state,
        save_every=0.0,
    )


def test_learns_and_does_not_with_the_sign_flipped():
    learned = train(30)
    assert learned.steps == 90 and len(learned.history) == 30 and not learned.model.training
    assert learned.history[-1]["loss"] < 0.5 * learned.history[0]["loss"]
    assert evaluate_top1(learned.model, IMAGES, LABELS, CPU) > 0.9
    flipped = train(30, loss=lambda logits, batch: -cross_entropy(logits, batch))
    assert evaluate_top1(flipped.model, IMAGES, LABELS, CPU) < 0.5


def test_same_key_same_weights_whatever_the_global_state():
    first = train(ema=0.9)
    torch.manual_seed(123)
    again = train(ema=0.9)
    assert torch.equal(weights(first.model), weights(again.model))
    assert torch.equal(weights(first.ema_model), weights(again.ema_model))
    assert first.history == again.history


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "fused": True}, {"momentum": 0.0},
        {"restart": True, "schedule": "multistep", "schedule_params": {"milestones": (3,)}},
        {"restart": True, "schedule": "multistep", "schedule_params": {"milestones": (2, 4)}},
    ],
)  # fmt: skip
def test_interrupted_fit_ends_with_the_same_weights(tmp_path, changes):
    whole = train(5, ema=0.9, **changes)

    def stop(epoch, *_):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(5, ema=0.9, on_epoch=stop, state=tmp_path, **changes)
    assert [p.name for p in tmp_path.iterdir()] == ["fit.safetensors"]
    seen = []
    resumed = train(5, ema=0.9, on_epoch=lambda epoch, *_: seen.append(epoch), state=tmp_path, **changes)
    assert seen == [3, 4]
    assert torch.equal(weights(whole.model), weights(resumed.model))
    assert torch.equal(weights(whole.ema_model), weights(resumed.ema_model))
    assert resumed.history == whole.history and resumed.steps == whole.steps


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_fused_updates_are_the_others_up_to_rounding(optimizer):
    """Without batch norms: before one, a bias has a gradient of rounding errors, which Adam makes as large as any other."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 2))
    changes = {"optimizer": optimizer, "lr": 1e-2, "weight_decay": 0.1}
    plain, fused = (train(2, copy.deepcopy(body), fused=f, **changes).model for f in (False, True))
    torch.testing.assert_close(weights(fused), weights(plain), rtol=1e-4, atol=1e-6)
    assert build_optimizer(body, FitRecipe(1, **changes, fused=True)).defaults["fused"]


def test_state_of_another_recipe_or_damaged_is_refused(tmp_path):
    train(3, state=tmp_path)
    with pytest.raises(ArtefactError, match="state of this fit"):
        train(3, lr=0.01, state=tmp_path)
    (tmp_path / "fit.safetensors").write_bytes(b"short")
    with pytest.raises(ArtefactError):
        train(3, state=tmp_path)


def test_average_follows_the_formula_and_rate_zero_is_the_online_model():
    start, result = network(), train(1, data=lambda e: list(batches(e))[:1], ema=0.75)
    for w0, w1, average in zip(start.parameters(), result.model.parameters(), result.ema_model.parameters()):
        torch.testing.assert_close(average, 0.75 * w0 + 0.25 * w1)
    assert not torch.equal(start[1].running_mean, result.model[1].running_mean)
    assert torch.equal(result.ema_model[1].running_mean, result.model[1].running_mean)
    online = train(3, ema=0.0)
    assert torch.equal(weights(online.ema_model), weights(online.model))
    assert not any(p.requires_grad for p in online.ema_model.parameters())
    assert train(1).ema_model is None


def test_average_alone():
    model = nn.Linear(2, 2)
    average = AveragedModel(model, 0.5)
    before = copy.deepcopy(model)
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update()
    torch.testing.assert_close(average.model.weight, before.weight + 0.5)


def test_accumulated_batches_equal_one_large_batch_even_when_uneven():
    large = train(3, plain(), data=lambda e: batches(e, 24))
    small = train(3, plain(), data=lambda e: batches(e, 10), accumulation=3)  # 10 + 10 + 4
    assert small.steps == large.steps == 3
    torch.testing.assert_close(weights(small.model), weights(large.model), rtol=1e-4, atol=1e-6)
    other = train(3, plain(), data=lambda e: batches(e, 10))
    assert (weights(other.model) - weights(large.model)).abs().max() > 1e-4


def test_decay_spares_biases_and_norms_unless_told():
    def zero(logits, batch):
        return logits.sum() * 0.0

    for decay_all in (False, True):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
        bias, weight = model[1].bias.detach().clone(), model[1].weight.detach().clone()
        train(1, model, zero, weight_decay=0.5, decay_all=decay_all)
        assert (model[1].weight.abs() < weight.abs()).all()
        assert torch.equal(model[1].bias, bias) is not decay_all


def test_rate_is_set_each_epoch():
    result = train(
        4,
        schedule="multistep",
        schedule_params={"milestones": (2,), "factor": 0.5},
        warmup_epochs=1,
        warmup_factor=0.1,
    )
    assert [row["lr"] for row in result.history] == pytest.approx([0.005, 0.05, 0.05, 0.025])


def plain() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_restart_is_a_new_optimiser_where_the_rate_drops(kind):
    """Against torch's own optimisers, made anew by hand; without `restart` the weights are others."""
    changes = {"optimizer": kind, "schedule": "multistep", "schedule_params": {"milestones": (2, 3), "factor": 0.3}}
    by_hand = plain()
    make = {
        "sgd": lambda rate: torch.optim.SGD(by_hand.parameters(), lr=rate, momentum=0.9),
        "adam": lambda rate: torch.optim.Adam(by_hand.parameters(), lr=rate),
    }[kind]
    for epoch, rate in enumerate((0.05, 0.05, 0.015, 0.0045)):
        if epoch != 1:
            optimizer = make(rate)
        for batch in batches(epoch):
            optimizer.zero_grad()
            cross_entropy(by_hand(batch.images), batch).backward()
            optimizer.step()
    found, kept = (weights(train(4, plain(), restart=restart, **changes).model) for restart in (True, False))
    torch.testing.assert_close(found, weights(by_hand), rtol=1e-5, atol=1e-6)
    assert (kept - found).abs().max() > 1e-3


def test_frozen_parts_stay_and_clipping_bounds_the_step():
    model = network()
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()
    before = model[5].weight.detach().clone()
    train(1, model, data=lambda e: list(batches(e))[:1], grad_clip=1e-3, lr=1.0, momentum=0.0)
    assert torch.equal(model[0].weight, frozen)
    assert 0 < (model[5].weight - before).norm() <= 1.001e-3


def test_bf16_trains_in_low_precision_with_fp32_weights():
    kinds = set()

    def watch(logits, batch):
        kinds.add(logits.dtype)
        return cross_entropy(logits, batch)

    low, full = train(2, loss=watch, precision="bf16"), train(2)
    assert kinds == {torch.float32} and low.model[0].weight.dtype == torch.float32
    assert not torch.equal(weights(low.model), weights(full.model))
    torch.testing.assert_close(weights(low.model), weights(full.model), rtol=0.3, atol=0.1)


def test_predict_crops_the_centre_and_keeps_the_mode():
    class Corner(nn.Module):
        def forward(self, x):
            return x[:, :, 0, 0]

    images = torch.arange(2 * 64, dtype=torch.uint8).view(2, 1, 8, 8)
    model = Corner().train()
    logits = predict(model, images, CPU, batch_size=1, size=4)
    assert model.training
    torch.testing.assert_close(logits.flatten() * 255, images[:, 0, 2, 2].float())
    assert evaluate_top1(nn.Flatten(), torch.eye(4).view(4, 1, 2, 2), torch.tensor([0, 1, 2, 0]), CPU) == 0.75


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"optimizer": "lbfgs"}, {"schedule": "cosin"}, {"precision": "fp16"}, {"ema": 1.0},
     {"restart": True, "schedule": "cosine"}],
)  # fmt: skip
def test_wrong_recipe(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FitRecipe(**{"epochs": 1, "lr": 0.1, **wrong})
