"""Real batches by class: passes without repeats, and one image for each k-means cluster of what the network sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.models.embedding import embed
from hf_condense.selection.centres import kmeans
from hf_condense.selection.paired import PairedViews
from hf_condense.selection.sampler import CentresSampler, RandomSampler, SamplerSettings, representatives
from tests.matching import CPU, digits, networks

KEY = Key(0, "sampler")


def blobs(groups: int, each: int, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    centres = 20 * torch.randn(groups, d, generator=generator)
    of = torch.arange(groups).repeat_interleave(each)
    noise = 0.01 * torch.randn(groups * each, d, generator=generator)
    return (centres[of] + noise).double(), of  # distances in a tight blob are small beside those between blobs


def sampler(real_batch: int = 8, **settings) -> CentresSampler:
    chosen = SamplerSettings(sampler="centres", real_batch=real_batch, **settings)
    return CentresSampler(PairedViews(digits(), None, CPU), KEY, chosen)


def frozen(key: Key = KEY):
    return networks(digits())(key).requires_grad_(False)


def test_random_batches_go_through_the_class_before_any_image_comes_again():
    source = digits()
    found = RandomSampler(source, 16, KEY)

    def rows(step: int) -> list[int]:
        found.begin(step, 0, None, [3])
        return found.rows(3).tolist()

    whole = len(source.rows_of(3)) // 16
    assert whole >= 3
    first = [r for step in range(whole) for r in rows(step)]
    assert len(set(first)) == len(first) == 16 * whole and set(first) <= set(source.rows_of(3).tolist())
    assert rows(whole) != rows(0) and rows(1) == first[16:32]  # any step, in any order


def test_a_class_smaller_than_the_batch_is_taken_whole():
    source = digits()
    found = RandomSampler(source, 1000, KEY)
    found.begin(5, 0, None, [0])
    assert sorted(found.rows(0)) == source.rows_of(0).tolist()
    centres = sampler(1000)
    centres.begin(0, 0, frozen(), [0])
    assert sorted(centres.rows(0)) == source.rows_of(0).tolist() and centres.weights(0) is None


def test_one_row_for_each_of_128_blobs():
    features, of = blobs(128, 6)
    picks, weights = representatives(features, 128, KEY)
    assert sorted(of[picks].tolist()) == list(range(128))
    assert torch.allclose(weights, torch.full((128,), 1 / 128))


def test_permuted_rows_give_permuted_picks():
    features, _ = blobs(12, 9)
    order = torch.from_numpy(Key(4).permutation(len(features)))
    for pick in ("each", "tight"):
        picks, _ = representatives(features, 12, KEY, pick)
        moved, _ = representatives(features[order], 12, KEY, pick)
        assert set(order[moved].tolist()) == set(picks.tolist())


def test_several_picks_of_a_cluster_are_its_nearest_rows():
    features, of = blobs(10, 7)
    picks, weights = representatives(features, 30, KEY, per_cluster=3)
    assert len(set(picks.tolist())) == 30 and torch.equal(of[picks].bincount(), torch.full((10,), 3))
    centre = torch.stack([features[of == g].mean(0) for g in range(10)])
    for g in range(10):
        rows = (of == g).nonzero()[:, 0]
        nearest = rows[(features[rows] - centre[g]).norm(dim=1).argsort()[:3]]
        assert set(nearest.tolist()) == set(picks[of[picks] == g].tolist())
    assert abs(float(weights.sum()) - 1) < 1e-6


def test_tight_picks_are_the_nearest_of_all_whichever_cluster_they_are_in():
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(2))
    picks, weights = representatives(features, 20, KEY, "tight")
    clusters = kmeans((features - features.mean(0))[None], 20, KEY)
    own = (features - features.mean(0) - clusters.centroids[0][clusters.assignment[0]]).norm(dim=1)
    assert own[picks].max() <= np.sort(own.numpy())[19] + 1e-6
    assert len(set(clusters.assignment[0][picks].tolist())) < 20 and len(weights) == 20


def test_weights_are_the_sizes_of_clusters():
    features, of = blobs(2, 10)
    features = torch.cat([features, features[of == 0] + 1e-3])  # 20 in the first group, 10 in the second
    picks, weights = representatives(features, 2, KEY)
    groups = torch.cat([of, of[of == 0]])[picks]
    assert sorted(zip(groups.tolist(), weights.tolist())) == [(0, pytest.approx(2 / 3)), (1, pytest.approx(1 / 3))]


def test_clusters_are_made_anew_every_so_many_steps_and_with_a_new_network():
    found, made = sampler(8, cluster_every=10), []
    found.pick = lambda c, network, key: made.append((key.parts[-2], c)) or (np.arange(8), None)
    network = frozen()
    for step in range(200):  # two outer iterations of 100
        found.begin(step, step % 100, network, [0, 1, 2])
    assert len(made) == 2 * 10 * 3
    assert sorted({step for step, _ in made}) == list(range(0, 200, 10))
    for every, count in ((1, 100), (100, 1)):
        found, made = sampler(8, cluster_every=every), []
        found.pick = lambda c, network, key: made.append(c) or (np.arange(8), None)
        for step in range(100):
            found.begin(step, step, network, [0])
        assert len(made) == count


def test_picks_are_of_the_class_and_near_centroids_of_what_the_network_sees():
    source, found, network = digits(), sampler(8), frozen()
    found.begin(0, 0, network, [4, 5])
    rows = found.rows(4)
    assert len(set(rows.tolist())) == 8 and set(rows.tolist()) <= set(source.rows_of(4).tolist())
    with torch.no_grad():
        features = embed(network, source.images(source.rows_of(4)).float() / 255)
    picks, _ = representatives(features, 8, KEY / 0 / 4)
    assert source.rows_of(4)[picks.numpy()].tolist() == rows.tolist()


def test_candidates_are_others_each_time_and_raw_pixels_make_other_picks():
    source, network = digits(), frozen()
    pool = sampler(8, cluster_candidates=16)
    taken = [set(pool.pick(2, network, KEY / i)[0].tolist()) for i in range(3)]
    assert taken[0] != taken[1] and all(t <= set(source.rows_of(2).tolist()) and len(t) == 8 for t in taken)
    raw, plain = sampler(8, cluster_normalised=False), sampler(8)
    rows = source.rows_of(2)
    with torch.no_grad():
        seen = network.backbone.forward_features(source.images(rows).float() / 255).flatten(1)
    assert torch.allclose(raw._features(network, rows), seen, atol=1e-4)
    assert not torch.allclose(plain._features(network, rows), seen, atol=1e-2)


def test_picks_of_a_resumed_run_are_those_of_the_weights_under_which_they_were_made():
    network = frozen()
    found = sampler(8, cluster_every=5)
    found.begin(10, 0, network, [0, 1])
    state = {name: value.clone() for name, value in found.state_dict().items()}
    kept = {c: found.rows(c).tolist() for c in (0, 1)}
    again, other = sampler(8, cluster_every=5), frozen(Key(9))
    again.load_state_dict(state, other, [1])  # a process with a class of its own
    assert again.rows(1).tolist() == kept[1]
    again.begin(11, 1, other, [1])
    assert again.rows(1).tolist() == kept[1]


def test_medoids_cover_a_class_better_than_random_rows():
    source, network = digits(), frozen()
    rows = source.rows_of(8)
    with torch.no_grad():
        features = embed(network, source.images(rows).float() / 255)

    def left(picks: torch.Tensor) -> float:
        """Squared distance to the nearest pick, of the whole variance."""
        return float(torch.cdist(features, features[picks]).min(1).values.square().mean() / features.var(0).sum())

    medoids = left(representatives(features, 12, KEY)[0])
    random = np.mean([left(torch.from_numpy((KEY / i).permutation(len(rows))[:12])) for i in range(5)])
    assert medoids < 0.93 * random


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"cluster_every": 0}, "cluster_every"), ({"per_cluster": 0}, "per_cluster"), ({"sampler": "x"}, "sampler"),
        ({"cluster_candidates": 0}, "cluster_candidates"), ({"cluster_pick": "tight", "per_cluster": 2}, "per_cluster"),
        ({"real_batch": 8, "per_cluster": 3}, "per_cluster"), ({"real_batch": 0}, "real_batch"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(settings, field):
    with pytest.raises(ConfigError, match=field):
        SamplerSettings(**settings)
