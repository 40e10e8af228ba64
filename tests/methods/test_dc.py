"""DC and DSA: the loops, learning that fails with the sign flipped, and exact resume inside the outer loop."""

from __future__ import annotations

import pytest
import torch

from hf_condense import create_method
from hf_condense.errors import ConfigError
from hf_condense.plan import SetSpec
from tests.matching import context, matching_loss, stopped_and_resumed, synthesise

SHORT = {"iterations": 2, "outer_loop": 4, "inner_loop": 2, "real_batch": 4}


@pytest.mark.parametrize(("ipc", "loops"), [(1, (1, 1)), (2, (1, 1)), (10, (10, 50)), (12, (10, 50)), (500, (50, 10))])
def test_loops_follow_the_official_table(ipc, loops):
    dc = create_method("dc")
    assert dc.settings.loops(ipc) == loops
    assert dc.recipe(None, SetSpec(10, ipc, 28)).steps == 1000 * loops[0]
    assert create_method("dsa", outer_loop=3, iterations=2).recipe(None, SetSpec(10, ipc, 28)).steps == 6


def test_defaults_are_those_of_the_script():
    dc, dsa = create_method("dc"), create_method("dsa")
    assert (dc.settings.init, dc.settings.families, dc.settings.lr, dc.settings.momentum) == ("noise", (), 0.1, 0.5)
    assert (dsa.settings.init, len(dsa.settings.families)) == ("real", 6)
    assert dsa.views(context(1)).policy.families == (
        "color",
        "crop",
        "cutout",
        "scale",
        "rotate",
    )  # digits do not flip
    assert dc.views(context(1)).policy is None
    recipe = dc.recipe(None, SetSpec(10, 1, 28))
    assert (recipe.optimizer, recipe.schedule, recipe.clamp_every, recipe.space) == (
        "sgd",
        "constant",
        0,
        "normalised",
    )
    assert [create_method(m).protocol(d) for m, d in (("dc", "mnist"), ("dc", "svhn"), ("dsa", "mnist"))] == [
        "dc-mnist", "dc", "dsa",
    ]  # fmt: skip
    for families in (("shear",), ("crop", "crop")):
        with pytest.raises(ConfigError, match="families"):
            create_method("dsa", families=families)


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_gradients_agree_better_than_at_first_and_worse_with_the_sign_flipped(method, tmp_path):
    """In networks and real batches that synthesis has not seen."""
    settings = {"iterations": 15, "outer_loop": 1, "real_batch": 8}
    given = context(ipc=1)
    for sign in (1, -1):
        made = synthesise(method, given, tmp_path / str(sign), sign, **settings)
        first, last = (
            matching_loss(method, given, made, images, 3, **settings)
            for images in (made.initial.float() / 255, made.pixels)
        )
        said = f"{first:.1f} -> {last:.1f}"
        assert last < 0.75 * first if sign > 0 else last > 1.1 * first, said


def test_noise_starts_outside_the_range_and_pixels_stay_free(tmp_path):
    made = synthesise("dc", context(ipc=2), tmp_path, **SHORT)
    assert made.pixels.min() < 0 and made.pixels.max() > 1
    assert torch.equal(made.images, (made.pixels.clamp(0, 1) * 255).round().to(torch.uint8))
    assert (made.origin == -1).all()


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_a_run_stopped_between_two_steps_of_a_network_goes_on_exactly(method, tmp_path):
    """Checkpoints at every third of eight steps: networks of four steps are cut after their third and second."""
    given = context(ipc=2)
    whole = synthesise(method, given, tmp_path / "whole", **SHORT)

    for stop_at in (1, 2):
        again = stopped_and_resumed(method, given, tmp_path / f"{stop_at}", stop_at, every=3, **SHORT)
        assert torch.equal(again.pixels, whole.pixels), f"stopped at step {3 * stop_at}"


def test_the_network_is_part_of_a_checkpoint(tmp_path):
    """Were it forgotten, the resumed run would differ: the check above sees it."""
    given = context(ipc=2)
    objective = create_method("dc", **SHORT).objective(given)
    images = torch.rand(20, 1, 8, 8)
    labels = torch.arange(10).repeat_interleave(2)
    objective.start(None, images, labels, given.key)
    for step in (0, 1):
        list(objective.terms(images.clone().requires_grad_(True), labels, step, given.key / step))
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    fresh = create_method("dc", **SHORT).objective(context(ipc=2))
    fresh.start(None, images, labels, given.key)
    fresh.load_state_dict(state)
    lost = create_method("dc", **SHORT).objective(context(ipc=2))
    lost.start(None, images, labels, given.key)
    lost.load_state_dict({k: torch.zeros_like(v) for k, v in state.items()})

    def losses(which):
        return [float(t.loss.detach()) for t in which.terms(images.clone().requires_grad_(True), labels, 2, given.key)]

    known = losses(objective)
    assert losses(fresh) == known != losses(lost)


def test_equal_seeds_make_equal_images_and_other_seeds_others(tmp_path):
    made = [
        synthesise("dsa", context(ipc=1, seed=seed), tmp_path / f"{i}", **{**SHORT, "outer_loop": 1})
        for i, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(made[0].pixels, made[1].pixels) and not torch.equal(made[0].pixels, made[2].pixels)
