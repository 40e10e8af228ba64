import pytest
import torch

from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.randomness import Key
from hf_condense.labels.views import epoch_batches, slices, view_batches

POLICY = ViewPolicy(8, crop=(0.3, 1.0), mix="cutmix")


def run(images, epoch=0, key=None, policy=POLICY, **more):
    key = key if key is not None else Key(3)
    return list(view_batches(images, torch.arange(len(images)) % 3, policy, key, epoch, 4, **more))


def test_every_epoch_is_another_order_of_all_images():
    first, second = (torch.cat(epoch_batches(Key(0), e, 10, 4)) for e in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("images", "size", "limit", "sizes"),
    [
        (9, 4, None, [4, 3, 2]),  # a single image would stop batch norms: it gets a companion, and batches stay as many
        (5, 4, None, [3, 2]),
        (10, 4, None, [4, 4, 2]),
        (9, 4, 2, [4, 4]),  # what the limit leaves out needs none
        (3, 2, None, [2, 1]),  # nor can one of two be spared
        (1, 4, None, [1]),
    ],
)  # fmt: skip
def test_a_last_image_is_not_left_alone(images, size, limit, sizes):
    found = epoch_batches(Key(0), 0, images, size, limit)
    assert [len(rows) for rows in found] == sizes
    order = (Key(0) / "order" / 0).permutation(images)
    assert torch.cat(found).tolist() == order[: sum(sizes)].tolist()


def test_a_name_is_a_batch(images):
    x = images(10)
    for (r, _, a), (s, _, b) in zip(run(x, 2), run(x, 2)):
        assert torch.equal(r, s) and torch.equal(a.images, b.images) and torch.equal(a.partner, b.partner)
    assert not torch.equal(run(x, 2)[0][2].images, run(x, 2, Key(4))[0][2].images)
    assert not torch.equal(run(x, 2)[0][2].images, run(x, 3)[0][2].images)


def test_labels_are_of_the_rows_and_a_short_batch_is_kept(images):
    x = images(10)
    batches = run(x)
    assert [len(r) for r, _, _ in batches] == [4, 4, 2]
    assert all(torch.equal(b.labels, r % 3) for r, _, b in batches)
    assert [len(r) for r, _, _ in run(x, limit=1)] == [4]
    assert torch.equal(run(x, limit=1)[0][2].images, batches[0][2].images)


def test_without_augmentation_the_pixels_are_the_images(images):
    x = images(10)
    for rows, _, batch in run(x, policy=ViewPolicy(8, flip=0.0)):
        assert torch.equal(batch.images, x[rows] / 255) and batch.lam == 1 and batch.partner is None


@pytest.mark.parametrize("size, parts", [(4, [4]), (9, [4]), (2, [2, 2]), (3, [2, 2])])  # no image alone
def test_slices(images, size, parts):
    batch = run(images(10))[0][2]
    batch.soft = torch.arange(12.0).view(4, 3)
    found = list(slices(batch, size))
    assert [len(b.labels) for b in found] == parts
    assert torch.equal(torch.cat([b.images for b in found]), batch.images)
    assert torch.equal(torch.cat([b.soft for b in found]), batch.soft)
    assert (found[0].partner is None) == (len(parts) > 1)
