"""The images of one split: decoded in memory, from disk or on the way, always the same pixels."""

import faulthandler
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_images import image_dataset

from hf_condense.config import DataSettings
from hf_condense.data.cache import cache_folder
from hf_condense.data.decoding import worker_count
from hf_condense.data.images import ImageSource
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.errors import ArtefactError, DataError

LABELS = [0, 1, 2] * 33


@pytest.fixture(scope="module")
def data():
    from datasets import DatasetDict

    return DatasetDict(train=image_dataset(LABELS), test=image_dataset([0, 1, 2]))


def train_of(data, **settings):
    return open_source(DataSettings(**settings), Key(0), dataset=data).train


def test_labels_and_rows_need_no_pixels(data, monkeypatch):
    source = train_of(data, image_size=64)
    monkeypatch.setattr("hf_condense.data.images.to_pixels", None)  # any decoding would now fail
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == LABELS
    assert source.rows_of(1).tolist() == list(range(1, 99, 3))
    assert source.subset([5, 3]).labels.tolist() == [2, 0]
    assert len(source.fingerprint) == 16
    with pytest.raises(DataError):
        source.images([0])


def test_decoded_in_memory_on_disk_and_on_the_way_are_equal(data):
    memory, disk, lazy = train_of(data), train_of(data, decode_gb=0.0), train_of(data)
    whole = memory.decoded()
    assert whole.dtype == torch.uint8
    assert whole.shape == memory.shape == (99, 3, 12, 12)
    assert torch.equal(disk.decoded(), whole)
    assert list((cache_folder() / "decoded").glob("*.npy")) == [disk.decoded_file]
    again = train_of(data, decode_gb=0.0)
    again._decode = None  # the file is found, nothing is decoded
    assert torch.equal(again.decoded(), whole)
    rows = [98, 0, 41, 41]
    assert torch.equal(lazy.images(rows), whole[rows])
    assert lazy._decoded is None
    assert torch.equal(memory.images(rows), whole[rows])
    assert np.array_equal(np.asarray(lazy.native(41)), whole[41].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("batch_size", [1, 7, 32, 64, 99, 500])
def test_batches_cover_every_row_once_in_order(data, batch_size):
    lazy, whole = train_of(data), train_of(data).decoded()
    for source in (lazy, lazy.subset(range(99))):
        rows, images, labels = zip(*source.batches(batch_size))
        assert np.concatenate(rows).tolist() == list(range(99))
        assert torch.equal(torch.cat(images), whole)
        assert torch.cat(labels).tolist() == LABELS
        assert {len(r) for r in rows[:-1]} <= {batch_size}
        lazy.decoded()


def test_batches_ahead_hold_a_few_chunks_in_memory(data):
    asked = []
    batches = (asked.append(number) or np.arange(10) for number in range(1000))
    next(train_of(data, decode_gb=0.0).ahead(batches))
    assert len(asked) <= 2 * worker_count() + 2


def test_a_subset_takes_decoded_images_along(data):
    source = train_of(data)
    whole = source.decoded()
    part = source.subset([9, 4])
    assert torch.equal(part.decoded(), whole[[9, 4]])
    part.decoded().zero_()
    assert source.decoded()[9].any()  # a copy
    assert part.subset([1]).rows.tolist() == [4]


def test_the_fingerprint_tells_content_not_place(data, tmp_path):
    data.save_to_disk(str(tmp_path / "saved"))
    for split in data:
        data[split].to_parquet(str(tmp_path / "parquet" / f"{split}.parquet"))
    base = train_of(data).fingerprint
    for folder in ("saved", "parquet"):
        found = open_source(DataSettings(dataset=str(tmp_path / folder)), Key(0)).train
        assert found.fingerprint == base, folder
    source = train_of(data)
    others = [
        train_of(data, image_size=16), train_of(data, channels="1"), source.subset(range(98)),
        source.subset(range(98, -1, -1)), train_of(data, classes=("dog", "cat", "emu")),
    ]  # fmt: skip
    assert len({base, *(s.fingerprint for s in others)}) == 6


def test_swapped_labels_change_the_fingerprint(data):
    from datasets import DatasetDict

    swapped = image_dataset([1, 0, *LABELS[2:]])
    assert train_of(DatasetDict(train=swapped, test=data["test"])).fingerprint != train_of(data).fingerprint


def test_one_changed_image_changes_the_fingerprint(data):
    from datasets import DatasetDict, concatenate_datasets

    train = data["train"]
    changed = concatenate_datasets([train.select(range(98)), train.select([2])])
    assert train_of(DatasetDict(train=changed, test=data["test"])).fingerprint != train_of(data).fingerprint


@pytest.mark.parametrize("decode_gb", [4.0, 0.0])
def test_batches_of_asked_rows_come_ahead_in_their_order(data, decode_gb):
    """Of a set above the limit they are decoded as they pass: the source keeps none, and writes no file."""
    source, whole = train_of(data, decode_gb=decode_gb), train_of(data).decoded()
    batches = [np.array(rows) for rows in (range(98, 20, -1), [7], [3, 3, 50], range(64))]
    found = list(source.ahead(batches))
    assert [len(images) for images in found] == [len(rows) for rows in batches]
    assert all(torch.equal(images, whole[rows]) for images, rows in zip(found, batches))
    assert (source._decoded is None) == (decode_gb == 0) and not source.decoded_file.exists()


def test_a_full_disk_leaves_nothing_behind(data, monkeypatch):
    source = train_of(data, decode_gb=0.0)

    def stops_half_way(rows):
        yield np.zeros((32, 3, 12, 12), np.uint8)
        raise OSError(28, "No space left on device")

    source._decode = stops_half_way
    with pytest.raises(ArtefactError, match="No space left") as caught:
        source.decoded()
    assert caught.value.field == "HF_CONDENSE_CACHE"
    assert not [p for p in (cache_folder() / "decoded").iterdir() if p.suffix != ".lock"]
    assert torch.equal(train_of(data, decode_gb=0.0).decoded(), train_of(data).decoded())


def test_a_cache_that_cannot_be_written_to_is_told(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ArtefactError) as caught:
        train_of(data, decode_gb=0.0).decoded()
    assert caught.value.field == "HF_CONDENSE_CACHE"


def test_more_pixels_than_memory_are_opened_and_cannot_be_written_to(data, recwarn):
    """The file is a hole, so that it takes no room on the disk."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("MemTotal", "SwapTotal")))
    small = train_of(data, decode_gb=0.0)
    count = (memory + (4 << 30)) // small.decoded()[0].numel()
    large = ImageSource(small.table, np.zeros(count), np.zeros(count), ("a",), small.pixel_format, decode_gb=0.0)
    large.fingerprint = "large"
    with open(large.decoded_file, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": large.shape})
        file.truncate(file.tell() + count * small.decoded()[0].numel())
    pixels = large.decoded()
    assert pixels.shape == large.shape and not pixels[-1].any() and not large.images([0, count - 1]).any()
    assert not [str(w.message) for w in recwarn]
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        small.decoded()[0, 0, 0, 0] = 1  # a private copy would take it, and use up memory
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_other_decoding_makes_another_file(data, monkeypatch):
    source = train_of(data, decode_gb=0.0)
    before = source.decoded_file
    monkeypatch.setattr("hf_condense.data.images.DECODING_VERSION", 1000)
    assert source.decoded_file != before


def test_two_processes_decode_to_disk_once(data, tmp_path):
    """The second one waits for the first and finds its file."""
    source, log = train_of(data, decode_gb=0.0), tmp_path / "log"
    decode = source._decode

    def noted(rows):
        with open(log, "a") as file:
            file.write("decoded\n")
        time.sleep(0.2)
        return decode(rows)

    source._decode = noted
    child = os.fork()
    if child == 0:
        source.decoded()
        os._exit(0)
    pixels = source.decoded()
    assert os.waitpid(child, 0)[1] == 0
    assert log.read_text() == "decoded\n"
    assert torch.equal(pixels, train_of(data).decoded())


def test_stored_images_leave_room_for_a_crop_where_that_is_usual():
    from hf_condense.data.decoding import PixelFormat

    sizes = {8: 8, 32: 32, 64: 64, 112: 112, 128: 146, 224: 256}
    pixels = PixelFormat(3, 8, (0.5,) * 3, (0.5,) * 3)
    assert {s: replace(pixels, image_size=s).stored_size for s in sizes} == sizes
