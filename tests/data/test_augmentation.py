"""Views: drawn by name, replayable, and equal to the same steps done to one image after the other."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_condense.data.augmentation import (
    ROW_BLOCK,
    ViewPolicy,
    Views,
    apply_views,
    cutmix_box,
    draw_views,
    mixed_targets,
    row_views,
)
from hf_condense.data.rand_augment import apply_rand_augment
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError

EVERYTHING = ViewPolicy(
    size=24, crop=(0.2, 1.0), flip=0.5, pad=3, roll=5, shuffle=3, rand_augment=(2, 9), mix="cutmix", mix_alpha=1.0
)
POLICIES = {
    "crop": ViewPolicy(size=24, crop=(0.08, 1.0)),
    "pad": ViewPolicy(size=32, pad=4, fill=(0.4, 0.5, 0.6)),
    "roll": ViewPolicy(size=32, roll=32),
    "shuffle": ViewPolicy(size=32, shuffle=3, flip=0.0),
    "tiles": ViewPolicy(size=24, crop=(0.2, 1.0), tiles=3, tile_share=0.75),
    "rand_augment": ViewPolicy(size=32, rand_augment=(2, 9)),
    "cutmix": ViewPolicy(size=32, mix="cutmix"),
    "mixup": ViewPolicy(size=32, mix="mixup", mix_alpha=0.8),
    "everything": EVERYTHING,
    "alike": replace(EVERYTHING, per="batch"),
}


def same(a: Views, b: Views) -> bool:
    a, b = a.to_tensors(), b.to_tensors()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def plain(images, views, policy):
    """Every step with slices, pads and F.interpolate, an image at a time."""
    done = []
    for i, x in enumerate(images):
        if views.ops is not None:
            x = apply_rand_augment(x[None], views.ops[i : i + 1], views.signs[i : i + 1], policy.rand_augment[1])[0]
        if views.strips is not None:
            for axis in (2, 1):  # columns first, then rows
                strips = [torch.from_numpy(s) for s in np.array_split(x.numpy(), policy.shuffle, axis)]
                x = torch.cat([strips[j] for j in views.strips[i, axis - 1].tolist()], axis)
        if views.offsets is not None:
            top, left = views.offsets[i].tolist()
            canvas = torch.tensor(policy.fill or (0.0,) * len(x), dtype=x.dtype).view(-1, 1, 1)
            canvas = canvas.repeat(1, x.shape[1] + 2 * policy.pad, x.shape[2] + 2 * policy.pad)
            canvas[:, policy.pad : policy.pad + x.shape[1], policy.pad : policy.pad + x.shape[2]] = x
            x = canvas[:, top : top + x.shape[1], left : left + x.shape[2]]
        t, l, h, w = views.boxes[i].tolist()
        x = F.interpolate(x[None, :, t : t + h, l : l + w], policy.size, mode="bilinear")[0]
        if views.flips[i]:
            x = x.flip(-1)
        if views.rolls is not None:
            x = x.roll(views.rolls[i].tolist(), (-2, -1))
        done.append(x)
    done = torch.stack(done)
    if views.partner is None:
        return done
    if policy.mix == "mixup":
        return views.lam * done + (1 - views.lam) * done[views.partner]
    top, left, bottom, right = views.mix_box
    mixed = done.clone()
    mixed[:, :, top:bottom, left:right] = done[views.partner][:, :, top:bottom, left:right]
    return mixed


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_one_step_and_one_image_after_the_other(policy, channels):
    if policy.fill is not None:
        policy = replace(policy, fill=policy.fill[:channels])
    images = torch.rand(30, channels, 32, 32, dtype=torch.float64)
    for seed in range(3):
        views = draw_views(policy, Key(seed), 30, 32, 32)
        found = apply_views(images, views, policy)
        assert found.shape == (30, channels, policy.size, policy.size)
        torch.testing.assert_close(found, plain(images, views, policy), rtol=0, atol=1e-10)
        single = apply_views(images.float(), views, policy)
        assert single.dtype == torch.float32
        if policy.rand_augment is None:  # single precision may round to another pixel there
            torch.testing.assert_close(single.double(), found, rtol=0, atol=1e-5)


def test_images_need_not_be_square():
    images, policy = torch.rand(6, 3, 20, 33, dtype=torch.float64), replace(EVERYTHING, rand_augment=None)
    views = draw_views(policy, Key(0), 6, 20, 33)
    torch.testing.assert_close(apply_views(images, views, policy), plain(images, views, policy), rtol=0, atol=1e-10)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_equal_keys_draw_equal_views(policy):
    assert same(draw_views(policy, Key(3) / "x" / 7, 12, 32, 32), draw_views(policy, Key(3) / "x" / 7, 12, 32, 32))
    assert not same(draw_views(policy, Key(3) / "x" / 7, 12, 32, 32), draw_views(policy, Key(3) / "x" / 8, 12, 32, 32))


def test_views_do_not_depend_on_the_process_or_on_what_was_drawn_before():
    code = (
        "import sys, json\n"
        "from hf_condense.data.augmentation import *\n"
        "policy = ViewPolicy(**json.loads(sys.argv[1]))\n"
        "print([draw_views(policy, Key(5) / i, 4, 32, 32).to_tensors()['boxes'].tolist() for i in (2, 0, 1)])\n"
    )
    run = subprocess.run([sys.executable, "-c", code, json.dumps(asdict(EVERYTHING))], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    torch.rand(3), np.random.rand(3)
    here = {i: draw_views(EVERYTHING, Key(5) / i, 4, 32, 32).boxes.tolist() for i in (0, 1, 2)}
    assert json.loads(run.stdout) == [here[2], here[0], here[1]]


def test_drawing_and_applying_leave_global_random_state_alone():
    torch.manual_seed(0), np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    apply_views(torch.ones(4, 3, 32, 32), draw_views(EVERYTHING, Key(0), 4, 32, 32), EVERYTHING)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_views_survive_a_store(policy, tmp_path):
    from safetensors.torch import load_file, save_file

    views = draw_views(policy, Key(1), 9, 32, 32)
    save_file(views.to_tensors(), tmp_path / "views.safetensors")
    back = Views.from_tensors(load_file(tmp_path / "views.safetensors"))
    assert same(views, back)
    assert (back.count, back.lam, back.mix_box) == (views.count, views.lam, views.mix_box)
    images = torch.rand(9, 3, 32, 32)
    again = ViewPolicy(**json.loads(json.dumps(asdict(policy))))
    assert again == policy
    assert torch.equal(apply_views(images, views, policy), apply_views(images, back, again))


def test_a_view_of_an_image_does_not_depend_on_the_rest_of_the_batch():
    policy = replace(EVERYTHING, mix="none")
    images, views = torch.rand(10, 3, 32, 32), draw_views(policy, Key(0), 10, 32, 32)
    part = torch.tensor([7, 2, 5])
    alone = apply_views(images[part], views.rows(part), policy)
    torch.testing.assert_close(alone, apply_views(images, views, policy)[part], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="whole batch"):
        draw_views(EVERYTHING, Key(0), 10, 32, 32).rows(part)


def test_one_draw_a_batch_treats_all_images_alike():
    policy = replace(EVERYTHING, per="batch", mix="none")
    views = draw_views(policy, Key(2), 5, 32, 32)
    image = torch.rand(1, 3, 32, 32)
    made = apply_views(image.expand(5, -1, -1, -1), views, policy)
    assert all(torch.equal(made[0], x) for x in made)
    # and so fits a batch of another size, such as images beside their average
    assert torch.equal(apply_views(image.expand(8, -1, -1, -1), views, policy)[7], made[0])
    every = replace(policy, per="image")
    made = apply_views(image.expand(5, -1, -1, -1), draw_views(every, Key(2), 5, 32, 32), every)
    assert len({x.sum().item() for x in made}) == 5
    with pytest.raises(ValueError, match="8 images do not fit 5 views"):
        views = draw_views(replace(every, rand_augment=None), Key(2), 5, 32, 32)
        apply_views(torch.rand(8, 3, 32, 32), views, every)


def test_nothing_to_do_returns_the_images():
    images = torch.rand(4, 3, 32, 32)
    policy = ViewPolicy(size=32, crop=(1.0, 1.0), flip=0.0)
    for i in range(100):
        assert apply_views(images, draw_views(policy, Key(i), 4, 32, 32), policy) is images


def test_flips_follow_their_probability():
    for flip in (0.0, 0.3, 1.0):
        views = draw_views(ViewPolicy(size=8, flip=flip), Key(0), 5000, 8, 8)
        assert views.flips.double().mean().item() == pytest.approx(flip, abs=0.03 if flip == 0.3 else 0)


def test_pads_and_rolls_cover_their_range():
    views = draw_views(ViewPolicy(size=32, pad=4, roll=6), Key(0), 3000, 32, 32)
    for drawn, count in ((views.offsets, 9), (views.rolls, 7)):
        counts = torch.stack([torch.bincount(drawn[:, axis], minlength=count) for axis in (0, 1)])
        assert counts.shape == (2, count)
        assert counts.min() > 0.7 * 3000 / count


def test_two_strips_give_four_equally_likely_outcomes():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    policy = ViewPolicy(size=4, shuffle=2, flip=0.0)
    made = apply_views(image.expand(4000, -1, -1, -1), draw_views(policy, Key(0), 4000, 4, 4), policy)
    outcomes, counts = made.view(4000, 16).unique(dim=0, return_counts=True)
    quadrants = [image[0, 0, :2, :2], image[0, 0, :2, 2:], image[0, 0, 2:, :2], image[0, 0, 2:, 2:]]
    a, b, c, d = quadrants
    expected = {tuple(torch.cat((torch.cat(x, 1), torch.cat(y, 1))).flatten().tolist()) for x, y in
                (((a, b), (c, d)), ((b, a), (d, c)), ((c, d), (a, b)), ((d, c), (b, a)))}  # fmt: skip
    assert {tuple(o.tolist()) for o in outcomes} == expected
    assert (counts - 1000).abs().max() < 150
    still = ViewPolicy(size=4, shuffle=1, flip=0.0)
    assert apply_views(image, draw_views(still, Key(0), 1, 4, 4), still) is image


def test_cutmix_boxes_lie_inside_and_have_the_area_of_lambda():
    stream = np.random.default_rng(0)
    for size in (8, 31, 224):
        for lam, *centre in stream.random((500, 3)):
            top, left, bottom, right = cutmix_box(lam, np.array(centre), size)
            assert 0 <= top <= bottom <= size
            assert 0 <= left <= right <= size
            side = size * np.sqrt(1 - lam)
            # cut at the border only: an uncut side is within two pixels of the square's (rounded down, then to even)
            for low, high, c in ((top, bottom, centre[0]), (left, right, centre[1])):
                assert high - low <= side
                if low > 0 and high < size:
                    assert high - low > side - 2
                assert low <= int(c * size) <= high


def test_cutmix_weight_is_the_share_of_own_pixels():
    policy = ViewPolicy(size=32, flip=0.0, mix="cutmix")
    images = torch.arange(1.0, 11).view(10, 1, 1, 1).expand(10, 1, 32, 32)
    weights = []
    for i in range(300):
        views = draw_views(policy, Key(i), 10, 32, 32)
        made = apply_views(images, views, policy)
        partner, lam = mixed_targets(views)
        assert sorted(partner.tolist()) == list(range(10))
        moved = partner != torch.arange(10)
        own = (made == images).double().mean((1, 2, 3))
        torch.testing.assert_close(own[moved], torch.full_like(own[moved], lam))
        theirs = (made == images[partner]).double().mean((1, 2, 3))
        torch.testing.assert_close(theirs[moved], torch.full_like(own[moved], 1 - lam))
        weights.append(lam)
    assert 0.45 < np.mean(weights) < 0.75  # one half for whole squares; more, since the border cuts some off
    assert min(weights) < 0.3  # the border nearly always cuts a large square
    assert max(weights) > 0.95


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_a_share_of_batches_is_mixed(mix):
    always = ViewPolicy(size=32, mix=mix)
    half, images = replace(always, mix_probability=0.5), torch.rand(3, 1, 32, 32)
    drawn = [(draw_views(half, Key(i), 3, 32, 32), draw_views(always, Key(i), 3, 32, 32)) for i in range(400)]
    mixed = [(a, b) for a, b in drawn if a.lam < 1]
    assert 160 < len(mixed) < 230
    assert all(a.lam == b.lam and torch.equal(a.partner, b.partner) for a, b in mixed)
    plain = next(a for a, _ in drawn if a.lam == 1)
    assert plain.to_tensors().keys() == mixed[0][0].to_tensors().keys()  # stores have the same columns for both
    unmixed = apply_views(images, replace(plain, partner=None), half)
    assert torch.equal(apply_views(images, plain, half), unmixed)


def test_mixup_weight_has_its_distribution():
    policy = ViewPolicy(size=4, mix="mixup", mix_alpha=0.8)
    lams = np.array([mixed_targets(draw_views(policy, Key(i), 2, 4, 4))[1] for i in range(2000)])
    assert abs(lams.mean() - 0.5) < 0.03
    assert abs(lams.var() - 0.25 / (2 * 0.8 + 1)) < 0.01
    assert mixed_targets(draw_views(replace(policy, mix="none"), Key(0), 2, 4, 4)) == (None, 1.0)


def test_differentiable():
    policy = replace(EVERYTHING, size=6, pad=1, rand_augment=None)
    images = torch.rand(3, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    views = draw_views(policy, Key(0), 3, 8, 8)
    assert torch.autograd.gradcheck(lambda x: apply_views(x, views, policy), images)
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    apply_views(images, draw_views(EVERYTHING, Key(0), 3, 32, 32), EVERYTHING).sum().backward()
    assert images.grad.abs().sum() > 0


def test_views_of_rows_do_not_depend_on_the_batch():
    policy = replace(EVERYTHING, mix="none")
    rows = np.array([3, ROW_BLOCK + 1, 0, 5 * ROW_BLOCK - 1, 2])
    together = row_views(policy, Key(0), rows, 32, 32)
    for i in range(len(rows)):
        assert same(together.rows(torch.tensor([i])), row_views(policy, Key(0), rows[i : i + 1], 32, 32))
    assert len({tuple(b) for b in row_views(policy, Key(0), np.arange(1000), 32, 32).boxes.tolist()}) > 900
    for tied in (EVERYTHING, replace(policy, per="batch")):
        with pytest.raises(ValueError, match="rows"):
            row_views(tied, Key(0), rows, 32, 32)


def test_no_images_no_views():
    views = draw_views(EVERYTHING, Key(0), 0, 32, 32)
    assert views.count == 0
    assert views.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0), ("crop", (0.0, 1.0)), ("crop", (0.5, 1.5)), ("crop", (0.9, 0.5)), ("ratio", (2.0, 1.0)),
        ("flip", 1.5), ("pad", -1), ("roll", -1), ("shuffle", 0), ("tiles", 0), ("tile_share", 1.5), ("rand_augment", (2, 31)), ("rand_augment", (0, 9)),
        ("mix", "cut"), ("mix_alpha", 0.0), ("mix_probability", 1.5), ("per", "row"),
    ],
)  # fmt: skip
def test_bad_policies_name_the_field(name, value):
    with pytest.raises(ConfigError) as error:
        ViewPolicy(**{"size": 32, name: value})
    assert error.value.field == name


def test_views_of_another_image_size_are_refused():
    views = draw_views(ViewPolicy(size=16, crop=(0.9, 1.0)), Key(0), 4, 64, 64)
    with pytest.raises(ValueError, match="leaves an image of 32 x 32"):
        apply_views(torch.rand(4, 3, 32, 32), views, ViewPolicy(size=16))


@pytest.mark.parametrize("crop", [None, (0.08, 1.0)])
@pytest.mark.parametrize(("tiles", "side"), [(2, 32), (2, 33), (3, 32)])
def test_a_view_shows_one_tile(tiles, side, crop):
    """Of 4,000 crops none crosses a border, and every tile is drawn as often as another."""
    policy = ViewPolicy(size=16, crop=crop, tiles=tiles, flip=0.0)
    boxes = draw_views(policy, Key(0), 4000, side, side).boxes.long()
    bounds = torch.tensor([0, *np.cumsum([side // tiles + (i < side % tiles) for i in range(tiles)])])
    cells = []
    for top, length in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        first = torch.searchsorted(bounds, top, right=True) - 1
        last = torch.searchsorted(bounds, top + length - 1, right=True) - 1
        assert torch.equal(first, last)
        if crop is None:
            assert torch.equal(length, bounds[first + 1] - bounds[first])
        cells.append(first)
    drawn = (cells[0] * tiles + cells[1]).bincount(minlength=tiles**2) / 4000
    assert len(drawn) == tiles**2 and (drawn - 1 / tiles**2).abs().max() < 0.03


def test_a_crop_in_a_tile_sees_one_source_image():
    """Each tile has a colour of its own; without tiles most crops see several."""
    images = torch.arange(4.0).view(1, 1, 2, 2).repeat_interleave(17, 2).repeat_interleave(17, 3)[..., :33, :33]
    images = images.expand(200, 1, 33, 33)
    for tiles, least, most in ((2, 200, 200), (1, 0, 100)):
        policy = ViewPolicy(size=20, crop=(0.08, 1.0), tiles=tiles)
        seen = apply_views(images, draw_views(policy, Key(1), 200, 33, 33), policy)
        single = int((seen.flatten(1) == seen.flatten(1)[:, :1]).all(1).sum())
        assert least <= single <= most


def test_one_tile_changes_no_view_and_a_share_of_tiles_leaves_the_others_whole():
    plain, one = ViewPolicy(size=16, crop=(0.08, 1.0)), ViewPolicy(size=16, crop=(0.08, 1.0), tiles=1, tile_share=0.5)
    assert same(draw_views(plain, Key(0), 50, 32, 32), draw_views(one, Key(0), 50, 32, 32))
    boxes = draw_views(ViewPolicy(size=16, tiles=2, tile_share=0.75), Key(0), 4000, 32, 32).boxes
    whole = (boxes[:, 2] == 32).float().mean()
    assert abs(whole - 0.25) < 0.03


def test_tiles_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="tiles=2: expected 1 with pad or shuffle"):
        ViewPolicy(size=16, tiles=2, pad=2)
    with pytest.raises(ConfigError, match="tiles=9: expected up to 8, the side"):
        draw_views(ViewPolicy(size=8, tiles=9), Key(0), 1, 8, 8)
