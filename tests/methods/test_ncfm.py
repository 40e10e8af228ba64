"""NCFM: its terms by hand, tiles, classes that are independent, calibration, and its gate failing with the sign flipped."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hf_condense import create_method
from hf_condense.data.formation import decode
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.models.embedding import embed
from hf_condense.objectives.characteristic import characteristic, characteristic_distance
from hf_condense.plan import SetSpec
from tests.matching import context, digits, stopped_and_resumed, synthesise

OWN = {
    "iterations": 6, "real_batch": 12, "frequencies": 16, "trainings": 2, "network_epochs": 2, "formation_factor": 1,
    "network_batch": 64, "network_families": (), "families": (), "classes_per_shard": 4,
}  # fmt: skip
KEY = Key(0, "ncfm")


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
    """Networks are trained once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_CONDENSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def begun(ipc: int = 2, number: int = 0, **settings):
    """An objective at its first step, and images and labels of a shard of four classes."""
    made, given = create_method("ncfm", **OWN | settings), context(ipc=ipc)
    shard = made.plan(10, ipc).groups[-1][number]
    objective, labels = made.objective(given, made.ready(shard, given, None)), torch.tensor(shard.labels)
    images = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(1))
    objective.start(shard, images, labels, given.key / shard.id)
    return objective, images, labels


def pulled(objective, images, labels, step: int = 3, only: str | None = None):
    """Losses by name, and the gradient of the images."""
    shown, losses = images.clone().requires_grad_(True), {}
    for term in objective.terms(shown, labels, step, KEY):
        losses[term.name] = losses.get(term.name, 0.0) + float(term.loss.detach())
        if only in (None, term.name):
            term.loss.backward()
    return losses, shown.grad


@pytest.mark.parametrize("factor", [1, 2])
def test_a_step_by_hand(factor):
    """Class by class from the definition: real images, tiles, normalised features, one draw of frequencies for all."""
    objective, images, labels = begun(formation_factor=factor)
    losses, _ = pulled(objective, images, labels)
    key, frequencies = objective.key / "step" / 3, objective._frequencies
    network, matching, calibration = objective.fresh(objective.key / "network" / 3), 0.0, 0.0
    trained = objective.fresh.trained(objective.key / "network" / 3)

    def psi(shown):
        found = F.normalize(embed(network, shown), dim=1)
        return characteristic(found, frequencies, torch.full((1, len(found)), 1 / len(found)))

    with torch.no_grad():
        for c in labels.unique().tolist():
            real = objective.views.real(c, 12, key / "real")
            own = decode(images[labels == c], factor)
            assert (len(real), len(own)) == (12, 2 * factor**2)
            matching += 300 * float(characteristic_distance(psi(real), psi(own), 0.5, 0.5))
            calibration += float(F.cross_entropy(trained(own), torch.full((len(own),), c)))
    assert losses["distribution"] == pytest.approx(matching, rel=1e-4)
    assert losses["calibration"] == pytest.approx(calibration, rel=1e-5)


def test_without_calibration_there_is_no_cross_entropy():
    both, (alone, gradient) = pulled(*begun()), pulled(*begun(calibration=0.0))
    assert both[0].keys() == {"distribution", "calibration"} and alone == {"distribution": both[0]["distribution"]}
    torch.testing.assert_close(pulled(*begun(), only="distribution")[1], gradient)
    torch.testing.assert_close(
        pulled(*begun(calibration=3.0), only="calibration")[1], 3 * pulled(*begun(), only="calibration")[1]
    )


def test_the_trained_network_sees_the_views_that_are_matched():
    objective, images, labels = begun(families=("color", "crop"))
    seen, inner = [], objective._seen

    def watched(*parts):
        seen.append(inner(*parts)[0].detach())
        return inner(*parts)

    objective._seen = watched
    pulled(objective, images, labels)
    half = len(seen) // 2
    assert half and all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:]))
    assert not torch.equal(torch.cat(seen[:half]), images)


def test_classes_are_independent_and_their_images_in_no_order():
    objective, images, labels = begun()
    losses, gradient = pulled(objective, images, labels)
    assert gradient.flatten(1).norm(dim=1).min() > 0
    other = images.clone()
    other[labels == 2] = 0.3  # another class's images
    changed = pulled(objective, other, labels)[1]
    torch.testing.assert_close(changed[labels != 2], gradient[labels != 2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed[labels == 2], gradient[labels == 2], atol=1e-3)
    swapped = pulled(objective, images.view(4, 2, 1, 8, 8).flip(1).reshape(images.shape), labels)
    assert swapped[0] == pytest.approx(losses, rel=1e-5)
    # the same networks and frequencies in another shard
    next_one, shown, names = begun(number=1)
    pulled(next_one, shown, names)
    assert torch.equal(next_one._frequencies, objective._frequencies) and set(names.tolist()) == {4, 5, 6, 7}


def test_first_images_are_tiles_of_real_ones():
    given, made = context(ipc=3), create_method("ncfm")
    shard = made.plan(10, 3).groups[0][7]
    begun = made.start(shard, given)
    assert (made.formation_factor, made.real_images_each) == (2, 4) and begun.origin.shape == (3, 4)
    assert len({*begun.origin.ravel().tolist()}) == 12 and (digits().labels[begun.origin] == 7).all()
    real = digits().images(begun.origin[1])
    for k, (top, left) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        tile = F.interpolate(real[k : k + 1].float(), (4, 4), mode="nearest")[0]
        assert torch.equal(begun.images[1, :, top : top + 4, left : left + 4].float(), tile)
    single = create_method("ncfm", formation_factor=1).start(shard, given)
    assert single.origin.shape == (3,) and torch.equal(single.images, digits().images(single.origin))


def test_pixels_stay_in_their_bounds_and_one_step_is_taken_for_all_classes():
    recipe = create_method("ncfm").recipe(None, SetSpec(10, 1, 32))
    assert (recipe.optimizer, recipe.space, recipe.clamp_every, recipe.schedule) == ("adam", "unit", 1, "constant")
    assert create_method("ncfm").protocol("cifar10") == create_method("ncfm").protocol("imagewoof") == "ncfm"
    assert create_method("ncfm").protocol("tiny-imagenet") == "ncfm-tiny-imagenet"
    assert create_method("ncfm").protocol("somebody/photos") == "small"


def test_images_come_nearer_to_real_ones_and_farther_away_with_the_sign_flipped(tmp_path):
    given, own = context(ipc=1), OWN | {"iterations": 25, "lr": 0.05, "real_batch": 40, "frequencies": 128}
    right, wrong = (synthesise("ncfm", given, tmp_path / str(sign), sign, **own) for sign in (1, -1))
    method = create_method("ncfm", **own | {"classes_per_shard": 10})
    shard = method.plan(10, 1).groups[-1][0]

    def judged(images) -> dict[str, float]:
        """In networks and frequencies that synthesis did not draw."""
        objective = method.objective(given, method.ready(shard, given, None))
        objective.key = KEY / "unseen"
        objective.start(shard, images / 255, right.labels, KEY)
        found = [pulled(objective, images / 255, right.labels, step)[0] for step in range(6)]
        return {name: sum(losses[name] for losses in found) / 6 for name in found[0]}

    near, begin, far = judged(right.images), judged(right.initial), judged(wrong.images)
    said = f"{near} {begin} {far}"
    assert near["distribution"] < 0.9 * begin["distribution"] < begin["distribution"] < far["distribution"], said
    assert near["calibration"] < begin["calibration"] < far["calibration"], said


def test_a_run_stopped_between_two_steps_goes_on_exactly(tmp_path):
    given = context(ipc=1)
    whole = synthesise("ncfm", given, tmp_path / "whole", **OWN)
    again = stopped_and_resumed("ncfm", given, tmp_path / "again", 2, every=2, **OWN)
    assert torch.equal(again.images, whole.images) and not torch.equal(whole.images, whole.initial)
    assert whole.pixels is None


def test_training_of_networks_is_part_of_the_estimate():
    assert create_method("ncfm", trainings=3, network_epochs=4).images_before(100) == 1200
    assert create_method("ncfm", network_folder="there").images_before(100) == 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"amplitude": 0.0, "phase": 0.0}, "phase"), ({"frequencies": 0}, "frequencies"), ({"families": ("shear",)}, "families")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        create_method("ncfm", **wrong)
