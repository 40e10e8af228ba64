"""IDC and DREAM: what is matched, the batched optimiser, training on real images, exact resume, decoded sets everywhere."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

from hf_condense import create_method, files
from hf_condense.data.augmentation import ViewPolicy, draw_views
from hf_condense.data.formation import decode, decode_set
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.siamese import SiamesePolicy, apply_siamese, draw_siamese
from hf_condense.errors import ArtefactError, ConfigError, DataError
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import score
from hf_condense.hub import provenance
from hf_condense.hub.artefact import write_artefact
from hf_condense.hub.distilled import DistilledDataset
from hf_condense.labels.store import write_store
from hf_condense.labels.teacher import Ensemble
from hf_condense.models.convnet import ConvNet
from hf_condense.objectives.gradients import gradient_distance, parameter_gradients
from hf_condense.objectives.real_training import RealLoop, RealTraining
from hf_condense.plan import SetSpec
from hf_condense.selection.centres import medoids
from hf_condense.selection.paired import PairedViews
from tests.hub.conftest import make_artefact, make_content
from tests.matching import CPU, Given, context, digits, matching_loss, networks, stopped_and_resumed, synthesise

KEY = Key(0, "idc")
SHORT = {"iterations": 2, "inner_steps": 4, "real_batch": 16, "network_images": 40, "lr": 10.0, "lr_side": 8}
METHODS = ("idc", "dream")


def objective_of(method: str, given, images, labels, **settings):
    found = create_method(method, **{**SHORT, **settings}).objective(given)
    found.start(None, images, labels, given.key)
    return found


def first_images(ipc: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    source = digits()
    rows = [r for c in range(10) for r in source.rows_of(c)[:ipc]]
    return source.images(rows).float() / 255, torch.from_numpy(source.labels[rows])


# settings


@pytest.mark.parametrize(
    ("dataset", "settings", "side", "ipc", "lr"),
    [
        ("CIFAR", {}, 32, 1, 5e-4), ("CIFAR", {}, 32, 2, 1e-3), ("CIFAR", {}, 32, 10, 5e-3),
        ("CIFAR", {}, 32, 50, 2.5e-2), ("ImageNet", {"lr": 3e-3, "lr_side": 224}, 224, 10, 3e-3),
        ("MNIST", {"lr": 1e-4, "lr_side": 28}, 28, 10, 1e-4), ("Fashion", {"lr": 1e-4}, 28, 1, 7.65625e-6),
        ("Fashion", {"lr": 1e-4}, 28, 10, 7.65625e-5), ("Fashion", {"lr": 1e-4}, 28, 50, 3.828125e-4),
        ("Tiny", {}, 64, 10, 2e-2),
    ],
)  # fmt: skip
def test_learning_rate_follows_number_and_size_of_images(dataset, settings, side, ipc, lr):
    """Without momentum there is nothing but the authors' rule."""
    recipe = create_method("idc", momentum=0.0, **settings).recipe(None, SetSpec(10, ipc, side))
    assert recipe.lr == pytest.approx(lr, rel=1e-12)
    usual = create_method("idc", **settings).recipe(None, SetSpec(10, ipc, side))
    assert usual.lr == pytest.approx(2 * lr * (1 - 2**-10)) and usual.momentum == 2**-10
    assert (usual.space, usual.clamp_every, usual.steps, usual.optimizer) == ("unit", 100, 200_000, "sgd")


def test_one_step_for_all_classes_is_a_step_after_each_class():
    """Gradients that depend on where the images are; images are compared where their own gradient is taken."""
    classes, steps = 5, 6
    slope = torch.rand(classes, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    begin = torch.rand(classes, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images, lr = begin.clone().requires_grad_(True), 0.03
    optimiser = torch.optim.SGD([images], lr, momentum=0.5)
    seen = []
    for _ in range(steps):
        for c in range(classes):
            seen.append(images[c].detach().clone())
            images.grad = torch.zeros_like(images)
            images.grad[c] = slope[c] * images[c].detach() ** 2
            optimiser.step()
    recipe = create_method("idc", lr=lr).recipe(None, SetSpec(classes, 10, 32))
    batched = begin.clone().requires_grad_(True)
    optimiser = torch.optim.SGD([batched], recipe.lr, momentum=recipe.momentum)
    for step in range(steps):
        for c in range(classes):
            assert torch.allclose(batched[c], seen[step * classes + c], rtol=0, atol=1e-12)
        batched.grad = slope * batched.detach() ** 2
        optimiser.step()


def test_defaults_and_bad_settings():
    idc, dream = create_method("idc").settings, create_method("dream").settings
    assert (idc.sampler, idc.init, idc.real_batch) == ("random", "real", 64)
    assert (dream.sampler, dream.init, dream.real_batch) == ("centres", "centres", 128)
    assert create_method("idc").protocol("cifar10") == "idc" and create_method("dream").protocol("digits") == "small"
    for name, value in (
        ("formation_factor", 0), ("formation", "x"), ("families", ("shear",)), ("families", ("crop", "crop")),
        ("momentum", 1.0), ("per_cluster", 3), ("real_batch", 0),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            create_method("idc", **{name: value})
    with pytest.raises(DataError, match="formation_factor"):
        given = context(ipc=30)
        method = create_method("idc")
        method.start(method.plan(10, 30).groups[0][0], given)


# first images


@pytest.mark.parametrize("method", METHODS)
def test_first_images_are_collages_of_their_class(method):
    source, given = digits(), context(ipc=2)
    made = create_method(method)
    start = made.start(made.plan(10, 2).groups[0][7], given)
    cells = decode(start.images.float() / 255, 2)
    shrunk = F.interpolate(source.images(source.rows_of(7)).float() / 255, (4, 4))
    shown = F.interpolate(shrunk, (8, 8), mode="bilinear")
    away = torch.cdist(cells.flatten(1), shown.flatten(1)).min(1)
    assert away.values.max() < 0.02 and len(set(away.indices.tolist())) == 8  # whole images, each another one
    assert all(source.labels[start.origin] == 7)


def test_centres_of_first_images_are_found_in_raw_pixels_too():
    """As the authors' script does it: networks that are meant for normalised images are shown them as they are."""
    given, source = context(ipc=3), digits()
    method = create_method("dream", formation_factor=1, cluster_normalised=False)
    shard = method.plan(10, 3).groups[0][4]
    rows, network = source.rows_of(4), given.fresh(given.key / "init")
    with torch.no_grad():
        seen = network.backbone.forward_features(source.images(rows).float() / 255).flatten(1)
    picks = medoids(seen, 3, given.key / shard.id)
    assert method.start(shard, given).origin.tolist() == rows[picks.numpy()].tolist()
    usual = create_method("dream", formation_factor=1).start(shard, given)
    assert usual.origin.tolist() != rows[picks.numpy()].tolist()


def test_noise_and_whole_images_as_first_images():
    given = context(ipc=3)
    noise = create_method("idc", init="noise")
    found = noise.start(noise.plan(10, 3).groups[0][0], given)
    assert found.images.is_floating_point() and (found.origin == -1).all()
    assert found.images.min() >= 0 and found.images.max() <= 1 and abs(float(found.images.mean()) - 0.5) < 0.05
    plain = create_method("dream", formation_factor=1)
    start = plain.start(plain.plan(10, 3).groups[0][4], given)
    assert torch.equal(start.images, digits().images(start.origin)) and len(set(start.origin.tolist())) == 3


# what is matched


@pytest.mark.parametrize(
    ("settings", "tensors"),
    [({}, 3), ({"match_fc": True}, 4), ({"match_bias": True}, 13), ({"match_fc": True, "match_bias": True}, 14)],
)
def test_convolution_kernels_alone_are_matched(settings, tensors):
    images, labels = first_images()
    found = objective_of("idc", context(2, name="convnet_w32"), images, labels, **settings)
    list(found.terms(images.clone().requires_grad_(True), labels, 0, KEY))
    matched = found._gradients(images[:4], None, 0, None)
    assert len(matched) == tensors and sum(g.ndim == 4 for g in matched) == 3
    assert sum(g.ndim == 2 for g in matched) == int(settings.get("match_fc", False))


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_distance_is_that_of_a_hand_computation(kind):
    torch.manual_seed(0)
    net = ConvNet(3, 1, 8, width=4).double()
    real, mine = torch.rand(5, 1, 8, 8, dtype=torch.float64), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    a, b = (parameter_gradients(net, x, torch.ones(len(x), dtype=torch.int64), dims=3) for x in (real, mine))
    by_hand = 0.0
    for weight in (m.weight for m in net.features if isinstance(m, torch.nn.Conv2d)):
        sides = []
        for x in (real, mine):
            loss = F.cross_entropy(net(x), torch.ones(len(x), dtype=torch.int64))
            sides.append(torch.autograd.grad(loss, weight)[0])
        away = (sides[0] - sides[1]).flatten().tolist()
        by_hand += sum(x * x if kind == "mse" else abs(x) for x in away)
    assert float(gradient_distance(a, b, kind)) == pytest.approx(by_hand, rel=1e-10)


def test_the_loss_is_nothing_for_the_real_images_themselves_under_a_shared_draw():
    images, labels = first_images(4)
    source = digits()
    given = replace(context(4), flip=False)
    found = objective_of("idc", given, images, labels, formation_factor=1)
    found.sampler = Given({c: source.rows_of(c)[:4] for c in range(10)})
    assert all(
        float(t.loss.detach()) <= 1e-12 for t in found.terms(images.clone().requires_grad_(True), labels, 0, KEY)
    )
    shared, draws = found.views.draw, iter([KEY / "one", KEY / "other"] * 10)
    seen = found.views.seen
    found.views.seen = lambda images, draw, classes: seen(images, shared(next(draws)), classes)
    apart = [float(t.loss.detach()) for t in found.terms(images.clone().requires_grad_(True), labels, 0, KEY)]
    assert all(loss > 1e-6 for loss in apart)


def test_gradients_of_the_class_loop_are_those_of_vmap():
    torch.manual_seed(0)
    net = ConvNet(4, 1, 8, width=4).double().requires_grad_(False)
    real = torch.rand(4, 6, 1, 8, 8, dtype=torch.float64)
    images = torch.rand(4, 2, 1, 8, 8, dtype=torch.float64)
    kernels = {n: p for n, p in net.named_parameters() if p.ndim >= 3}

    def loss_of(weights, x, c):
        return F.cross_entropy(functional_call(net, weights, (x,)), c.expand(len(x)))

    def all_classes(x):
        per_class = vmap(grad(loss_of), in_dims=(None, 0, 0))
        a, b = (per_class(kernels, side, torch.arange(4)) for side in (real, x))
        return sum((a[n] - b[n]).square().sum() for n in kernels)

    together = images.clone().requires_grad_(True)
    all_classes(together).backward()
    one = images.clone().requires_grad_(True)
    for c in range(4):
        before = one.grad.clone() if one.grad is not None else torch.zeros_like(one)
        a = parameter_gradients(net, real[c], torch.full((6,), c), dims=3)
        b = parameter_gradients(net, one[c], torch.full((2,), c), create_graph=True, dims=3)
        gradient_distance(b, a, "mse").backward()
        changed = (one.grad - before).flatten(1).abs().sum(1) > 0
        assert changed.tolist() == [k == c for k in range(4)]  # rows of other classes stay
    assert torch.allclose(one.grad, together.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_step_of_one_class_moves_no_other_but_by_momentum(momentum):
    images, labels = first_images()
    found = objective_of("idc", context(2), images, labels)
    mine = images.clone().requires_grad_(True)
    optimiser = torch.optim.SGD([mine], SHORT["lr"], momentum=momentum)
    for c, term in enumerate(found.terms(mine, labels, 0, KEY)):
        before = mine.detach().clone()
        optimiser.zero_grad()
        term.loss.backward()
        with torch.no_grad():
            optimiser.step()
        moved = (mine.detach() != before).flatten(1).any(1)
        assert moved.tolist() == [k == c or (momentum > 0 and k < c) for k in labels.tolist()]


def test_of_many_decoded_images_random_ones_are_matched():
    images, labels = first_images(5)
    found = objective_of("idc", context(5), images, labels, syn_batch=7)
    shown = [found._shown(images[:5], KEY / i) for i in range(2)]
    whole = decode(images[:5], 2)
    assert all(len(s) == 7 and (torch.cdist(s.flatten(1), whole.flatten(1)).min(1).values < 1e-6).all() for s in shown)
    assert not torch.equal(*shown)
    bound = objective_of("idc", context(5), images, labels, syn_batch=11, formation="bound")
    assert len(bound._shown(images[:5], KEY)) == 11


def test_weighted_images_count_as_often_as_their_weights_say():
    torch.manual_seed(0)
    net = ConvNet(3, 1, 8, width=4).double()
    images, labels = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.tensor([1, 1])
    twice = parameter_gradients(net, images[[0, 0, 1]], labels[[0, 0, 1]])
    weighted = parameter_gradients(net, images, labels, weights=torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))
    assert all(torch.allclose(a, b) for a, b in zip(twice, weighted))


# networks trained on real images


def training(loop: RealLoop, policy: SiamesePolicy | None = None) -> RealTraining:
    return RealTraining(PairedViews(digits(), policy, CPU), loop, KEY)


@pytest.mark.parametrize("images", [1, 64, 100, 500])
def test_a_call_sees_enough_images_and_goes_on_where_the_last_one_stopped(images):
    found, total = training(RealLoop(images, 64)), len(digits())
    calls = [[(n, rows) for n, rows in found.batches(call)] for call in range(4)]
    for call in calls:
        assert images <= sum(len(rows) for _, rows in call) < images + 64
    numbers = [n for call in calls for n, _ in call]
    assert numbers == list(range(len(numbers)))
    whole = [r for call in calls for _, rows in call for r in rows][: total // 64 * 64]
    assert len(set(whole)) == len(whole)  # a pass has no image twice
    again = training(RealLoop(images, 64))
    assert all((a == b).all() for (_, a), (_, b) in zip(calls[3], again.batches(3)))


def test_a_set_smaller_than_a_batch_is_a_batch():
    found = training(RealLoop(500, 10**6))
    assert [len(rows) for _, rows in found.batches(2)] == [len(digits())]


def test_cutout_is_left_out_where_batches_are_mixed():
    policy = SiamesePolicy(("color", "crop", "cutout"), mode="combined")
    assert training(RealLoop(1, 8), policy).policy.families == ("color", "crop")
    assert training(RealLoop(1, 8, cutmix=0.0), policy).policy.families == ("color", "crop", "cutout")
    assert training(RealLoop(1, 8), None).policy is None


@pytest.mark.parametrize("families", [(), ("color", "crop", "rotate")])
@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_a_call_is_steps_by_hand_under_the_named_draws(families, cutmix):
    """SGD with momentum and decay on two batches: each image augmented by itself, then boxes of one batch swapped."""
    source, n = digits(), 16
    policy = SiamesePolicy(families, mode="combined") if families else None
    found, network = training(RealLoop(2 * n, n, cutmix=cutmix), policy), networks(source)(KEY)
    by_hand = deepcopy(network)
    weights = list(by_hand.parameters())
    speed = [torch.zeros_like(p) for p in weights]
    found.begin(network, 0)
    order = (KEY / "order" / 0).permutation(len(source))
    for number in range(2):
        rows, key = order[n * number : n * (number + 1)], KEY / "batch" / number
        images, labels = source.images(rows).float() / 255, torch.from_numpy(source.labels[rows])
        if policy:
            drawn = draw_siamese(replace(policy, family_per="call"), key, n, 8, 8)
            mean, std = source.mean[0], source.std[0]
            images = apply_siamese((images - mean) / std, drawn, policy) * std + mean
        mixed, partner, own = images.clone(), torch.arange(n), 1.0
        if cutmix:
            views = draw_views(ViewPolicy(8, flip=0.0, mix="cutmix"), key, n, 8, 8)
            (top, left, bottom, right), partner = views.mix_box, views.partner
            for i in range(n):
                mixed[i, :, top:bottom, left:right] = images[partner[i], :, top:bottom, left:right]
            own = 1 - (bottom - top) * (right - left) / 64
        logits = by_hand(mixed)
        loss = own * F.cross_entropy(logits, labels) + (1 - own) * F.cross_entropy(logits, labels[partner])
        with torch.no_grad():
            for p, v, g in zip(weights, speed, torch.autograd.grad(loss, weights)):
                v.mul_(0.9).add_(g + 5e-4 * p)
                p.sub_(0.01 * v)
    found.go_on(0)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(network.parameters(), weights))


def test_training_and_epochs_before_it_make_the_network_better():
    source = digits()
    images, labels = source.images().float() / 255, torch.from_numpy(source.labels)

    def top1(epochs: int, calls: int) -> float:
        found, network = training(RealLoop(256, 32, pretrain_epochs=epochs)), networks(source)(KEY)
        found.begin(network, 0)
        for call in range(calls):
            found.go_on(call)
        with torch.no_grad():
            return float((network(images).argmax(1) == labels).float().mean())

    untrained = top1(0, 0)
    assert top1(0, 6) > untrained + 0.3 and top1(3, 0) > untrained + 0.3


def test_networks_are_trained_between_steps_and_replaced_after_their_outer_iterations():
    images, labels = first_images()
    given = context(2)
    found = objective_of("idc", given, images, labels, inner_steps=2, fix_iter=2)
    calls = []
    go_on = found.training.go_on
    found.training.go_on = lambda call: calls.append(call) or go_on(call)

    def weights(step: int) -> torch.Tensor:
        list(found.terms(images.clone().requires_grad_(True), labels, step, KEY / step))
        assert not any(p.requires_grad or p.grad is not None for p in found._network.parameters())
        return torch.cat([p.flatten() for p in found._network.parameters()]).clone()

    seen = [weights(step) for step in range(5)]
    assert calls == [0, 1, 2]
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))
    fresh = networks(digits())(given.key / "network" / 1)
    assert torch.equal(seen[4], torch.cat([p.flatten() for p in fresh.parameters()]))


# runs


@pytest.mark.parametrize("method", METHODS)
def test_matching_gets_better_and_with_the_sign_flipped_worse(method, tmp_path):
    """In networks and real batches that synthesis has not seen."""
    settings = {**SHORT, "iterations": 4, "inner_steps": 5, "families": ("crop",), "cluster_every": 5}
    given = context(ipc=1)
    for sign in (1, -1):
        made = synthesise(method, given, tmp_path / str(sign), sign, **settings)
        first, last = (
            matching_loss(method, given, made, images.float() / 255, 5, **settings)
            for images in (made.initial, made.images)
        )
        assert (last < 0.8 * first) == (sign > 0), f"{first:.2f} -> {last:.2f}"


def test_images_teach_more_than_those_they_started_from(tmp_path):
    """With one training image in each: tiles of 4 x 4 pixels show no digit."""
    settings = {**SHORT, "iterations": 6, "inner_steps": 5, "families": ("crop",), "formation_factor": 1}
    source, given = digits(), context(ipc=1)
    made = {sign: synthesise("idc", given, tmp_path / str(sign), sign, **settings) for sign in (1, -1)}
    images = {"idc": made[1].images, "flipped": made[-1].images, "initial": made[1].initial}
    table = score(
        {name: ImageSet(pixels, torch.arange(10)) for name, pixels in images.items()},
        protocol=get_protocol("small", steps=60), students=["convnet_d1"], regimes=["hard"], seeds=2, ipc=1,
        test_images=source.images(), test_labels=torch.from_numpy(source.labels), spec=source.plain_spec, key=KEY, device=CPU,
        scores_folder=tmp_path / "scores", flip=False,
    )  # fmt: skip
    top1 = {name: sum(c["top1"] for c in table.cells if c["row"] == name) / 2 for name in images}
    assert top1["idc"] > top1["initial"] + 0.05 and top1["flipped"] < top1["initial"] - 0.05, top1


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_exactly(method, tmp_path):
    """Clusters hold for three steps of four: checkpoints fall inside them, and inside the networks' training."""
    given, settings = context(ipc=2), {**SHORT, "cluster_every": 3}
    whole = synthesise(method, given, tmp_path / "whole", **settings)
    assert torch.equal(whole.images, synthesise(method, given, tmp_path / "twice", **settings).images)
    assert whole.pixels is None and whole.labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert not torch.equal(whole.images, whole.initial)

    for stop_at in (1, 2):
        again = stopped_and_resumed(method, given, tmp_path / f"{stop_at}", stop_at, every=3, **settings)
        assert torch.equal(again.images, whole.images), f"stopped at step {3 * stop_at}"


def test_pixels_are_put_back_into_range_after_each_outer_iteration(tmp_path, monkeypatch):
    """Checkpoints hold them before they are rounded; between two outer iterations they do leave it."""
    outside = {}

    def look(when: str, path: Path) -> None:
        if path.parent.name == "checkpoints" and when == "after":
            tensors, metadata = files.load_tensors(path)
            pixels = tensors["pixels"]
            outside[metadata["step"]] = float((pixels - pixels.clamp(0, 1)).abs().max())

    monkeypatch.setattr(files, "on_replace", look)
    synthesise("idc", context(ipc=2), tmp_path, every=1, **{**SHORT, "iterations": 3})
    assert len(outside) == 11 and outside[4] == outside[8] == 0
    assert all(away > 0 for step, away in outside.items() if step % 4), outside


def test_momentum_of_the_network_and_its_clusters_are_part_of_a_checkpoint():
    images, labels = first_images()
    given = context(2)

    def at(step: int, found) -> list[float]:
        mine = images.clone().requires_grad_(True)
        return [float(t.loss.detach()) for t in found.terms(mine, labels, step, KEY / step)]

    found = objective_of("dream", given, images, labels)
    for step in (0, 1, 2):
        at(step, found)
    state = {name: value.clone() for name, value in found.state_dict().items()}
    assert {name.split(".")[0] for name in state} == {"network", "training", "sampler"}
    known = at(3, found)
    for lost in (None, "training", "sampler"):
        again = objective_of("dream", context(2), images, labels)
        kept = {n: torch.zeros_like(v) if lost and n.startswith(lost) else v for n, v in state.items()}
        again.load_state_dict(kept)
        assert (at(3, again) == known) == (lost is None), lost


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_have_the_terms_of_one_between_them(method):
    images, labels = first_images()

    def slopes(share) -> list[torch.Tensor]:
        found = create_method(method, **SHORT).objective(context(2))
        found.share = share
        found.start(None, images, labels, KEY)
        out = []
        for step in (0, 1):
            mine = images.clone().requires_grad_(True)
            for term in found.terms(mine, labels, step, KEY / step):
                term.loss.backward()
            out.append(mine.grad)
        return out

    for whole, a, b in zip(slopes((0, 1)), slopes((0, 2)), slopes((1, 2))):
        assert torch.equal(whole, a + b) and not torch.equal(whole, a)


def test_batch_norms_are_held_in_a_step(tmp_path):
    made = synthesise("dream", context(1, name="convnet_bn_w32"), tmp_path, **{**SHORT, "cluster_every": 2})
    assert not torch.equal(made.images, made.initial)


# what others are given


def network() -> Ensemble:
    return Ensemble([networks(digits())(KEY).freeze()])


def test_students_and_label_stores_see_decoded_images(tmp_path):
    images = (torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    labels, policy = torch.arange(6), ViewPolicy(8, flip=0.0)
    store = write_store(tmp_path, images, labels, network(), policy, KEY, 1, 5, CPU, formation_factor=2)
    shown, names = decode_set(images, labels, 2)
    batches = list(store.replay(0, shown, names))
    assert store.rows == 24 and sorted(torch.cat([b.labels for b in batches]).tolist()) == sorted([*range(6)] * 4)
    with torch.no_grad():
        assert torch.allclose(batches[0].soft, network().logits(batches[0].images), atol=1e-2)
    assert store.open(tmp_path, images)  # it belongs to the images as they are published
    whole, tiles = ImageSet(images, labels), ImageSet(images, labels, formation_factor=2)
    assert whole.digest != tiles.digest and whole.bytes == tiles.bytes
    spec = ImageSpec(num_classes=10, image_size=8, channels=1, mean=(0.5,), std=(0.25,))
    table = score(
        {"tiles": tiles}, protocol=get_protocol("small", epochs=2, steps=None, batch=8), students=["convnet_d1"],
        regimes=["hard"], seeds=1, ipc=4, test_images=images, test_labels=labels, spec=spec, key=KEY, device=CPU,
        scores_folder=tmp_path / "scores",
    )  # fmt: skip
    assert table.cells[0]["steps"] == 2 * 3  # 24 training images in batches of 8


def test_a_published_set_says_how_it_is_decoded_and_does_it(tmp_path):
    training = provenance.training_block("idc", None, 6, 2, formation_factor=2)
    made = make_artefact(content=make_content(training=training, regimes=["hard"]))
    content = write_artefact(tmp_path / "set", made)
    assert content["training"]["decode"] == {"formation": {"factor": 2}}
    data = DistilledDataset.load(tmp_path / "set")
    shown, names = decode_set(made.images, made.labels, 2)
    assert torch.equal(data.images, made.images) and data.formation_factor == 2
    batches = list(data.training_batches("hard", 0, 16))
    assert sum(len(b.labels) for b in batches) == 4 * len(made.images)
    away = torch.cdist(torch.cat([b.images for b in batches]).flatten(1), shown.flatten(1)).min(1)
    assert away.values.max() < 0.02 and len(set(away.indices.tolist())) == len(shown)
    items = data.torch_dataset()
    assert len(items) == len(shown) and torch.equal(items[5]["pixel_values"], shown[5])
    assert [int(items[i]["labels"]) for i in range(len(items))] == names.tolist()
    with pytest.raises(ArtefactError, match="soft"):
        data.torch_dataset(soft=True)
    assert "2 × 2 training images" in (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    plain = make_artefact()
    write_artefact(tmp_path / "plain", plain)
    assert DistilledDataset.load(tmp_path / "plain").formation_factor == 1


def test_gradient_matching_may_have_the_sampler_too(tmp_path):
    settings = {"iterations": 2, "outer_loop": 2, "inner_loop": 1, "real_batch": 8}
    made = [
        synthesise("dsa", context(1), tmp_path / sampler, sampler=sampler, **settings)
        for sampler in ("random", "centres")
    ]
    assert not torch.equal(made[0].pixels, made[1].pixels)
    with pytest.raises(ConfigError, match="cluster_every"):
        create_method("dc", cluster_every=0)
