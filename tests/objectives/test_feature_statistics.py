"""EDC's objective: the identities of its specification, what gets gradients, resume, and that it can be failed."""

import copy
import traceback
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.plain import PlainHook, plain_targets
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError, ConfigError
from hf_condense.models.statistics import collect_statistics
from hf_condense.models.taps import Taps
from hf_condense.objectives.feature_statistics import FeatureStatistics, flatness_term
from hf_condense.objectives.matching import Matching, root
from hf_condense.objectives.settings import MatchingSettings

torch.set_num_threads(1)
CPU, KEY = torch.device("cpu"), Key(0, "test")
PLAIN = MatchingSettings(stat_momentum=0.0, flatness_weight=0.0, match_weight=1.0)

WEAK = ViewPolicy(size=8, crop=(0.5, 1.0), per="batch")


class Net(nn.Module):
    """Computes in the precision of its weights, whatever images come in."""

    def __init__(self, seed=0, dtype=torch.float64, norm=True):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5) if norm else nn.Identity(), nn.ReLU(),
            nn.Conv2d(5, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
        ).to(dtype)  # fmt: skip
        self.dtype = dtype

    def forward(self, x):
        return self.layers(x.to(self.dtype))


class Source:
    image_size, num_classes = 8, 4

    def __init__(self, n=40, classes=(0, 0, 0, 0, 1, 1, 1, 2, 2, 3)):
        self.labels = np.random.default_rng(0).permutation(np.array(classes)[np.arange(n) % len(classes)])
        pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        self.pixels = (pixels // torch.from_numpy(self.labels + 1).view(-1, 1, 1, 1)).to(torch.uint8)

    def images(self, rows):
        return self.pixels[torch.as_tensor(rows)]


def make(
    settings=PLAIN,
    observers=None,
    source=None,
    images=None,
    labels=None,
    mode="exact",
    policy=None,
    dtype=torch.float64,
):
    """An objective that has started on a batch, which is all real images where not said."""
    source = source or Source()
    observers = observers or [Net(dtype=dtype).eval()]
    statistics = collect_statistics(observers, source, None, settings.patch_side(8), Key(0), CPU, mode=mode)
    objective = FeatureStatistics(observers, statistics, settings, policy)
    images = (source.pixels.to(dtype) / 255 if images is None else images).clone().requires_grad_(True)
    labels = torch.from_numpy(source.labels) if labels is None else labels
    objective.start(None, images, labels, KEY)
    return objective, images, labels


def step(objective, images, labels, number=0):
    """(logs, gradient) of one step."""
    images.grad = None
    logs = {}
    for term in objective.terms(images, labels, number, KEY / number):
        term.loss.backward()
        logs.update(term.logs)
    objective.after(images, number, KEY / number)
    return {k: float(v) for k, v in logs.items()}, images.grad


def some(n=8, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=generator, dtype=torch.float64), torch.arange(n) % 4


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("class_matching", ["aggregated", "per_class"])
def test_identity_1_the_real_set_fits_itself(alpha, class_matching):
    settings = replace(PLAIN, alpha=alpha, class_matching=class_matching)
    objective, images, labels = make(settings)
    logs, _ = step(objective, images, labels)
    scale = step(*make(settings, images=some()[0], labels=some()[1]))[0]["matching"]
    assert logs["matching"] < 1e-5 * scale
    brighter, _ = step(*make(settings, images=images.detach() + 0.1))  # the check can fail
    assert brighter["matching"] > 1e-2 * scale


def test_identity_2_official_statistics_miss_the_variance_between_images():
    settings = replace(PLAIN, alpha=0.0)
    objective, images, labels = make(settings, mode="official", observers=[Net(norm=False).eval()])
    matching, taps = objective.matching[0], objective.taps[0]
    with taps:
        objective.observers[0](images)
        first, second = taps.collect()
    stem = slice(0, 3)
    mean, var = matching.statistics.class_targets(labels)
    torch.testing.assert_close(first[stem], mean[stem], rtol=1e-6, atol=1e-6)
    between = images.detach().mean((2, 3)).var(0, correction=0)
    torch.testing.assert_close((second - first**2)[stem] - var[stem], between, rtol=1e-5, atol=1e-6)


def test_identity_3_alpha_1_knows_no_labels():
    images, labels = some()
    for alpha, equal in ((1.0, True), (0.5, False)):
        settings = replace(PLAIN, alpha=alpha)
        results = []
        for given in (labels, torch.zeros_like(labels)):
            objective, x, _ = make(settings, images=images, labels=given)
            results.append(step(objective, x, labels))  # cross-entropy sees the same labels in both
        assert torch.equal(results[0][1], results[1][1]) is equal
        assert (results[0][0]["matching"] == results[1][0]["matching"]) is equal


def test_identity_3_one_class_makes_both_parts_equal():
    source = Source(classes=(2,))
    images, labels = some()[0], torch.full((8,), 2)
    found = [step(*make(replace(PLAIN, alpha=a), source=source, images=images, labels=labels))[0] for a in (0.0, 1.0)]
    assert found[0]["matching"] == pytest.approx(found[1]["matching"], rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("zero", [False, True])
def test_identity_6_straight_through(momentum, zero):
    settings = replace(PLAIN, stat_momentum=momentum, stat_ema_zero_init=zero, alpha=1.0)
    matching = make(settings, images=some()[0], labels=some()[1])[0].matching[0]
    generator = torch.Generator().manual_seed(0)
    for visit in range(1, 4):
        first = torch.rand(matching.layout.size, generator=generator, dtype=torch.float64).requires_grad_(True)
        before = matching.average
        loss = matching.loss(first, first.detach() ** 2 + 1)  # variance 1 at this value; gradient only by first
        (gradient,) = torch.autograd.grad(loss, first)
        now = torch.stack([first.detach(), torch.ones_like(first)])
        expected = now if visit == 1 and not zero else momentum * before[0] + (1 - momentum) * now
        torch.testing.assert_close(matching.average[0], expected)
        residual = expected - matching.targets[0]
        s = matching.layout.segments[-1]
        part = slice(s.start, s.stop)
        pull = residual[:, part] / residual[:, part].norm(dim=1, keepdim=True)
        torch.testing.assert_close(gradient[part], pull[0] - 2 * first.detach()[part] * pull[1])


@pytest.mark.parametrize("zero", [False, True])
def test_identity_6_constant_visits(zero):
    settings = replace(PLAIN, stat_momentum=0.8, stat_ema_zero_init=zero)
    matching = make(settings)[0].matching[0]
    first = torch.rand(matching.layout.size, dtype=torch.float64)
    for _ in range(5):
        matching.loss(first, first**2 + 1)
    torch.testing.assert_close(matching.average[0, 0], first * ((1 - 0.8**5) if zero else 1))


def test_identity_7_dropping_touches_convolutions_only():
    images, labels = some()
    none, all_dropped = (make(replace(PLAIN, drop_rate=r), images=images, labels=labels)[0] for r in (0.0, 1.0))
    x = images.clone().requires_grad_(True)
    logs, _ = step(all_dropped, x, labels)
    matching = all_dropped.matching[0]
    conv = torch.tensor([s.is_conv for s in matching.layout.segments])[matching.segment]
    assert not matching.average[..., conv].any() and matching.average[..., ~conv].any()
    norms_only = Matching(matching.statistics, PLAIN, CPU)
    norms_only.start(labels, torch.float64)
    norms_only.weight = norms_only.weight * torch.tensor([not s.is_conv for s in matching.layout.segments])
    with none.taps[0] as taps, torch.no_grad():
        none.observers[0](images)
        expected = norms_only.loss(*taps.collect())
    assert logs["matching"] == pytest.approx(float(expected), rel=1e-9)
    assert logs["matching"] > 0


def test_dropping_is_keyed_and_near_its_rate():
    matching = make(replace(PLAIN, drop_rate=0.3))[0].matching[0]
    kept = torch.stack([matching.keep(torch.from_numpy((KEY / i).uniform(3))) for i in range(400)]).double().mean(0)
    assert kept[1] == 1  # the norm
    assert ((kept[[0, 2]] - 0.7).abs() < 0.08).all()


def test_identity_7_first_layer_weight():
    images, labels = some()
    one_layer = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()]
    one_layer[0].insert(0, ToDouble())
    found = [
        step(*make(replace(PLAIN, first_layer_weight=w), observers=one_layer, images=images, labels=labels))[0][
            "matching"
        ]
        for w in (1.0, 10.0)
    ]
    assert found[1] == pytest.approx(10 * found[0], rel=1e-6)


class ToDouble(nn.Module):
    def forward(self, x):
        return x.double()


@pytest.mark.parametrize("official", [False, True])
def test_identity_9_flatness_is_zero_at_first(official):
    settings = replace(PLAIN, flatness_weight=0.25, flatness_official=official)
    policy = WEAK
    objective, images, labels = make(settings, images=some()[0], labels=some()[1], policy=policy)
    assert step(objective, images, labels, 0)[0]["flatness"] == pytest.approx(0, abs=1e-14)
    with torch.no_grad():
        images += 0.3 * torch.rand_like(images)
    assert step(objective, images, labels, 1)[0]["flatness"] > 1e-9


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_identity_9_ends_of_the_decay(decay):
    settings = replace(PLAIN, flatness_weight=0.25, flatness_decay=decay)
    objective, images, labels = make(settings, images=some()[0], labels=some()[1])
    first = images.detach().clone()
    with torch.no_grad():
        images += 0.1
    step(objective, images, labels)
    torch.testing.assert_close(objective.flat_images, first if decay == 1 else images.detach())


def test_identity_9_directions_and_scaling():
    torch.manual_seed(0)
    logits, anchor = torch.randn(2, 5, 7, dtype=torch.float64).unbind(0)
    logits.requires_grad_(True), anchor.requires_grad_(True)
    p, q = (F.softmax(t.detach() / 4, 1) for t in (logits, anchor))
    paper, official = (flatness_term(logits, anchor, replace(PLAIN, flatness_official=o)) for o in (False, True))
    torch.testing.assert_close(paper.detach(), (p * (p / q).log()).sum() / 5)
    torch.testing.assert_close(official.detach() * 7, (q * (q / p).log()).sum() / 5)
    (paper + official).backward()
    assert logits.grad.abs().sum() > 0 and anchor.grad is None


def test_equals_plain_hooks_over_steps():
    """The whole trajectory of images, with two observers in turn and momentum, against one hook a layer."""
    settings = replace(PLAIN, stat_momentum=0.8, match_weight=0.1, first_layer_weight=10.0)
    observers = [Net(0).eval(), Net(1).eval()]
    objective, fast, labels = make(settings, observers=observers, images=some()[0], labels=some()[1])
    slow = fast.detach().clone().requires_grad_(True)
    hooks, plain = [], copy.deepcopy(observers)
    for model, matching in zip(plain, objective.matching):
        layout, targets = matching.layout, matching.targets
        hooks.append([
            PlainHook(m, 4, [plain_targets(layout, *t, n) for t in targets], 0.5, 0.8)
            for n, m in model.named_modules() if n in layout.layers
        ])  # fmt: skip
    optimisers = [torch.optim.Adam([x], 0.05, betas=(0.5, 0.9)) for x in (fast, slow)]
    for number in range(6):
        step(objective, fast, labels, number)
        slow.grad = None
        k = number % 2
        logits = plain[k](slow)
        losses = [hook.loss for hook in hooks[k]]
        (F.cross_entropy(logits, labels) + 0.1 * (10 * losses[0] + sum(losses[1:]))).backward()
        torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-8, atol=1e-12)
        for optimiser in optimisers:
            optimiser.step()
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_per_class_at_one_image_a_class_and_any_order():
    settings = replace(PLAIN, class_matching="per_class", alpha=0.0)
    images, _ = some(4)
    labels = torch.tensor([2, 0, 3, 1])
    objective, x, _ = make(settings, images=images, labels=labels)
    logs, gradient = step(objective, x, labels)
    order = labels.argsort()
    again, y, _ = make(settings, images=images[order], labels=labels[order])
    sorted_logs, sorted_gradient = step(again, y, labels[order])
    assert logs["matching"] == pytest.approx(sorted_logs["matching"], rel=1e-12)
    torch.testing.assert_close(gradient[order], sorted_gradient)


@pytest.mark.parametrize("class_matching", ["aggregated", "per_class"])
@pytest.mark.parametrize("sign", [1, -1])
def test_learning_brings_images_closer_and_flipped_signs_do_not(class_matching, sign):
    settings = replace(PLAIN, class_matching=class_matching, match_weight=0.1, flatness_weight=0.25, stat_momentum=0.8)
    policy = WEAK
    objective, images, labels = make(settings, images=some()[0], labels=some()[1], policy=policy)
    optimiser = torch.optim.Adam([images], 0.02, betas=(0.5, 0.9))
    values = []
    for number in range(40):
        logs, gradient = step(objective, images, labels, number)
        images.grad = sign * gradient
        optimiser.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        values.append(logs["ce"] + 0.1 * logs["matching"])
    closer = np.mean(values[-5:]) < np.mean(values[:5])
    assert closer if sign == 1 else not closer


@pytest.mark.parametrize("persist", [False, True])
def test_resumed_equals_unbroken(persist):
    settings = replace(PLAIN, stat_momentum=0.8, flatness_weight=0.25, drop_rate=0.3, stat_ema_persist=persist)
    observers = [Net(0).eval(), Net(1).eval()]
    policy = WEAK

    def begin():
        return make(settings, observers=observers, images=some()[0], labels=some()[1], policy=policy)

    def run(objective, images, labels, numbers):
        for number in numbers:
            _, gradient = step(objective, images, labels, number)
            with torch.no_grad():
                images -= 0.1 * gradient

    whole, images, labels = begin()
    run(whole, images, labels, range(7))
    broken, half, _ = begin()
    run(broken, half, labels, range(3))
    saved = {k: v.clone() for k, v in broken.state_dict().items()}
    resumed, rest, _ = begin()
    resumed.load_state_dict(saved)
    with torch.no_grad():
        rest.copy_(half)
    run(resumed, rest, labels, range(3, 7))
    assert torch.equal(rest, images)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_state_of_a_chain_crosses_shards_only_where_it_persists():
    images, labels = some()
    for persist in (False, True):
        settings = replace(PLAIN, stat_momentum=0.8, stat_ema_persist=persist)
        objective, x, _ = make(settings, images=images, labels=labels)
        step(objective, x, labels)
        left = {k: v.clone() for k, v in objective.state_dict().items()}
        objective.start(None, x, labels, KEY)
        fresh = FeatureStatistics(objective.observers, objective.statistics, settings)
        fresh.load_state_dict(left)  # as a resumed chain does, before the first shard of its own
        fresh.start(None, x, labels, KEY)
        for found in (objective, fresh):
            assert found.counter == int(persist)
            assert torch.equal(found.matching[0].average, left["average.0"]) is persist


class Recorded(TorchDispatchMode):
    """Operations that would make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "is_nonzero", "aten.equal", "unique")):
            on_host = any(frame.name == "view_axes" for frame in traceback.extract_stack())  # views live on the CPU
            self.waits += [] if on_host else [str(func)]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("class_matching", ["aggregated", "per_class"])
def test_nothing_waits_inside_a_step(class_matching):
    settings = MatchingSettings(class_matching=class_matching, drop_rate=0.3)
    objective, images, labels = make(
        settings, images=some()[0].float(), labels=some()[1], policy=WEAK, dtype=torch.float32
    )
    with Recorded() as recorded:
        for number in range(2):
            for term in objective.terms(images, labels, number, KEY / number):
                term.loss.backward()
            objective.after(images, number, KEY / number)
    assert not recorded.waits
    with Recorded() as recorded:
        float(images.detach().sum())  # the recorder sees one where there is one
    assert recorded.waits


def test_only_images_get_gradients():
    objective, images, labels = make(replace(PLAIN, flatness_weight=0.25))
    _, gradient = step(objective, images, labels)
    assert gradient.abs().sum() > 0
    for model in objective.observers:
        assert not model.training
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not objective.flat_images.requires_grad


def test_bf16_is_near_fp32_and_leaves_the_observer_alone():
    settings = MatchingSettings(flatness_weight=0.25)
    images, labels = some(16)[0].float(), some(16)[1]
    observers, source = [Net(dtype=torch.float32).eval()], Source()
    statistics = collect_statistics(observers, source, None, 4, Key(0), CPU)
    found = []
    for precision in ("fp32", "bf16"):
        objective = FeatureStatistics(observers, statistics, settings, None, precision)
        x = images.clone().requires_grad_(True)
        objective.start(None, x, labels, KEY)
        found.append(step(objective, x, labels))
    assert observers[0].layers[0].weight.dtype == torch.float32
    assert found[0][0]["matching"] == pytest.approx(found[1][0]["matching"], rel=0.05)
    assert F.cosine_similarity(found[0][1].flatten(), found[1][1].flatten(), dim=0) > 0.98


def test_statistics_of_another_size_are_refused():
    source, observers = Source(), [Net(dtype=torch.float32).eval()]
    statistics = collect_statistics(observers, source, None, 2, Key(0), CPU)
    with pytest.raises(ArtefactError, match="Collect the statistics again"):
        FeatureStatistics(observers, statistics, MatchingSettings()).start(
            None, torch.rand(4, 3, 8, 8), torch.arange(4), KEY
        )


def test_zero_distance_pulls_nowhere():
    x = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
    root(x).sum().backward()
    assert x.grad.tolist() == [0.0, 0.25]


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="alpha"):
        MatchingSettings(alpha=1.5)
    with pytest.raises(ConfigError, match="class_matching"):
        MatchingSettings(class_matching="local")
    assert MatchingSettings().patch_side(32) == 4 and MatchingSettings().patch_side(224) == 16


def test_taps_are_gone_between_steps():
    objective, images, labels = make()
    step(objective, images, labels)
    assert all(not m._forward_pre_hooks for model in objective.observers for m in model.modules())
    assert isinstance(objective.taps[0], Taps)
