"""The statistics pass: exact, additive, independent of batches and processes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.plain import PlainClassSums, plain_statistics
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.errors import ArtefactError
from hf_condense.models.statistics import RealStatistics, class_batches, collect_statistics, merge_statistics

torch.set_num_threads(1)
CPU = torch.device("cpu")


@dataclass
class Source:
    pixels: torch.Tensor
    labels: np.ndarray
    num_classes: int = 4

    @property
    def image_size(self) -> int:
        return self.pixels.shape[-1]

    def images(self, rows):
        return self.pixels[torch.as_tensor(rows)]


def make_source(n=60, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = np.random.default_rng(seed).permutation(np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])[np.arange(n) % 10])
    pixels = (pixels // torch.from_numpy(labels + 1).view(-1, 1, 1, 1)).to(torch.uint8)  # classes look different
    return Source(pixels, labels)


def make_net(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 6, 3),
        nn.Flatten(),
        nn.Linear(216, 4),
    )
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net.eval().requires_grad_(False)


class Double(nn.Module):
    """A network in float64, for images that come in float32."""

    def __init__(self, net):
        super().__init__()
        self.net = net.double()

    def forward(self, x):
        return self.net(x.double())


def collect(models=None, source=None, policy=None, **options):
    models = [make_net()] if models is None else models
    return collect_statistics(models, source or make_source(), policy, 4, Key(0), CPU, **options)


def assert_equal(a: RealStatistics, b: RealStatistics, exact=True):
    check = torch.equal if exact else lambda x, y: torch.allclose(x, y, rtol=1e-4, atol=1e-5)
    for name in ("counts", "first", "second"):
        assert check(getattr(a, name), getattr(b, name)), name
    assert a.layout == b.layout


def test_equals_plain_per_image_sums():
    net, source = make_net(), make_source()
    (found,) = collect([net], source)
    plain = {
        name: PlainClassSums(m, 4) for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)
    }
    for hook in plain.values():
        hook.labels = torch.from_numpy(source.labels)
    net(source.pixels.float() / 255)
    for s in found.layout.segments:
        for c in range(4):
            sums, n = plain[s.layer].sums[c], plain[s.layer].counts[c]
            first, second = sums[0 if s.kind == "channel" else 2 :][:2]
            assert found.counts[c] == n
            torch.testing.assert_close(found.first[c, s.start : s.stop], first / n, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.second[c, s.start : s.stop], second / n, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", [None, ViewPolicy(size=8, crop=(0.5, 1), per="batch")])
def test_batch_size_does_not_matter(policy):
    """Identity 4 of the EDC specification, second half; with augmentation too."""
    expected = collect(policy=policy, batch_size=64)[0]
    for batch_size in (1, 7, 16):
        assert_equal(collect(policy=policy, batch_size=batch_size)[0], expected, exact=False)
    assert policy is None or not torch.allclose(expected.first, collect()[0].first, rtol=1e-3)


def test_views_follow_the_key():
    policy = ViewPolicy(size=8, crop=(0.5, 1))
    one = collect_statistics([make_net()], make_source(), policy, 4, Key(0), CPU)[0]
    again = collect_statistics([make_net()], make_source(), policy, 4, Key(0), CPU)[0]
    other = collect_statistics([make_net()], make_source(), policy, 4, Key(1), CPU)[0]
    assert_equal(one, again)
    assert not torch.equal(one.first, other.first)


def test_class_moments_make_global_moments():
    """Identity 4, first half: count-weighted classes give the moments of all images at once."""
    net, source = make_net(), make_source()
    (found,) = collect([Double(net)], source)
    mean, var = found.global_moments()
    with torch.no_grad():
        x = source.pixels.double() / 255
        for (name, z), patch in zip({"net.0": x, "net.1": net[0](x)}.items(), (4, None)):
            expected = plain_statistics(z, patch)
            for s in (s for s in found.layout.segments if s.layer == name):
                at = 0 if s.kind == "channel" else 2
                torch.testing.assert_close(mean[s.start : s.stop], expected[at], rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(var[s.start : s.stop], expected[at + 1], rtol=1e-5, atol=1e-6)


def test_class_targets_are_of_the_mixture():
    (found,) = collect()
    labels = torch.tensor([0, 0, 1, 3])
    mean, var = found.class_targets(labels)
    torch.testing.assert_close(mean, found.first[labels].mean(0))
    torch.testing.assert_close(var, found.second[labels].mean(0) - found.first[labels].mean(0) ** 2)
    single = found.per_class_targets(torch.tensor([2]))
    torch.testing.assert_close(found.class_targets(torch.tensor([2, 2, 2])), tuple(t[0] for t in single))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_add_up_to_the_last_bit(world):
    models, policy = [make_net(0), make_net(1)], ViewPolicy(size=8, crop=(0.5, 1))
    whole = collect(models, policy=policy, batch_size=8, block_size=10)
    parts = [collect(models, policy=policy, batch_size=8, block_size=10, rank=r, world=world) for r in range(world)]
    assert all(0 < p[0].counts.sum() < 60 for p in parts)
    for k in range(len(models)):
        assert_equal(merge_statistics([p[k] for p in parts]), whole[k])


def test_a_class_that_two_processes_have_seen_is_refused():
    parts = [collect(batch_size=8, block_size=10, rank=r, world=2)[0] for r in range(2)]
    for twice in ([parts[0], parts[0]], [*parts, collect()[0]]):
        with pytest.raises(ValueError, match="two processes have statistics of one class"):
            merge_statistics(twice)


def test_more_processes_than_packs():
    parts = [collect(rank=r, world=2)[0] for r in range(2)]
    assert parts[1].counts.sum() == 0
    assert_equal(merge_statistics(parts), collect()[0])


def test_class_batches_cover_every_row_once():
    labels = make_source(n=101).labels
    for world in (1, 3):
        seen = [rows for r in range(world) for rows, _ in class_batches(labels, 4, 16, 20, r, world)]
        assert sorted(np.concatenate(seen)) == list(range(101))
        assert max(len(rows) for rows in seen) <= 16


def test_larger_images_are_cut_in_the_centre():
    class Stored(Source):
        image_size = 8

    source = make_source(size=12)
    small = Source(source.pixels[:, :, 2:10, 2:10], source.labels)
    assert_equal(collect(source=Stored(source.pixels, source.labels))[0], collect(source=small)[0])


def test_official_mode_has_the_published_faults():
    """Variances miss what differs between images (identity 2), class patch statistics are exchanged, norms say what
    they ran with."""
    net = make_net()
    exact, official = collect([Double(net)])[0], collect([Double(net)], mode="official")[0]
    stem = exact.layout.segments[0]
    entries = slice(stem.start, stem.stop)
    torch.testing.assert_close(official.first[:, entries], exact.first[:, entries], rtol=1e-5, atol=1e-6)

    source = make_source()
    x = source.pixels.double() / 255
    own = x[torch.from_numpy(source.labels == 1)]
    per_image = own.mean((2, 3))
    missing = per_image.var(0, correction=0)  # Var_i(mu_i)
    residual = (exact.second - exact.first**2)[1, entries] - official.second[1, entries]
    torch.testing.assert_close(residual, missing, rtol=1e-4, atol=1e-6)
    assert (missing > 0).all()

    patches = next(s for s in exact.layout.segments if s.kind == "patch")
    entries = slice(patches.start, patches.stop)
    torch.testing.assert_close(official.second[:, entries], exact.first[:, entries], rtol=1e-5, atol=1e-6)

    norm = next(s for s in exact.layout.segments if not s.is_conv)
    mean, var = official.global_moments()
    torch.testing.assert_close(mean[norm.start : norm.stop], net[1].running_mean)
    torch.testing.assert_close(var[norm.start : norm.stop], net[1].running_var)


def test_file_round_trip(tmp_path):
    for mode in ("exact", "official"):
        (made,) = collect(mode=mode)
        made.save(tmp_path / f"{mode}.safetensors")
        back = RealStatistics.load(tmp_path / f"{mode}.safetensors")
        assert_equal(back, made)
        assert back.metadata == made.metadata
        for a, b in zip(back.global_moments(), made.global_moments()):
            assert torch.equal(a, b)


def test_damaged_file_and_unknown_class_are_named(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ArtefactError, match=r"broken\.safetensors"):
        RealStatistics.load(tmp_path / "broken.safetensors")
    with pytest.raises(ArtefactError, match=r"\[4\]"):
        collect()[0].class_targets(torch.tensor([0, 4]))


def test_every_row_is_reported():
    done = []
    collect(batch_size=16, progress=done.append)
    assert sum(done) == 60
