"""A table from the Hub names no file of this machine; a person's own may, and the Hub's own files are found."""

import io
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Image
from small_images import encoded, picture

from hf_condense.config import DataSettings
from hf_condense.data.cells import from_hub
from hf_condense.data.randomness import Key
from hf_condense.data.source import open_source
from hf_condense.errors import DataError

FEATURES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
COUNT = 12


def table(**first) -> bytes:
    """Parquet of `COUNT` images of two classes, the first cell with these changes."""
    cells = [{"bytes": encoded(picture(i)), "path": f"{i}.png"} for i in range(COUNT)]
    cells[0] |= first
    rows = {"image": pa.array(cells, Image.pa_type), "label": pa.array([i % 2 for i in range(COUNT)])}
    buffer = io.BytesIO()
    pq.write_table(pa.table(rows, schema=FEATURES.arrow_schema), buffer)
    return buffer.getvalue()


@pytest.fixture
def private(tmp_path):
    """A picture of one colour that nobody published."""
    path = tmp_path / "private.png"
    path.write_bytes(encoded(picture(0).point(lambda _: 7)))
    return path


def upload(hub, files: dict[str, bytes]) -> str:
    repo_id, api = hub.fresh("pictures"), hub.api()
    api.create_repo(repo_id, repo_type="dataset")
    for name, content in files.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=repo_id, repo_type="dataset")
    return repo_id


def opened(dataset, streaming=False):
    return open_source(DataSettings(dataset=str(dataset), hold_out=0.25, streaming=streaming), Key(0, "data"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_table_from_the_hub_opens_no_file_here(hub, private, streaming):
    repo_id = upload(hub, {"train.parquet": table(bytes=None, path=str(private))})
    with pytest.raises(DataError, match="row 0 of.*private.png.*Do not trust"):
        opened(repo_id, streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_that_is_there_is_taken_whatever_its_path(hub, private, streaming):
    splits = opened(upload(hub, {"train.parquet": table(path=str(private))}), streaming)
    found = np.concatenate([source.decoded().numpy() for source in (splits.train, splits.test)])
    assert len(found) == COUNT and not (found == 7).all(axis=(1, 2, 3)).any()


def test_a_persons_own_table_may_name_files(tmp_path, private):
    (tmp_path / "x.parquet").write_bytes(table(bytes=None, path=str(private)))
    splits = opened(tmp_path / "x.parquet")
    found = np.concatenate([source.decoded().numpy() for source in (splits.train, splits.test)])
    assert (found == 7).all(axis=(1, 2, 3)).sum() == 1


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_picture_files_of_the_hub_are_read(hub, streaming, zipped):
    files = {f"{i}.png": encoded(picture(i)) for i in range(COUNT)}
    lines = [f'{{"file_name": "{i}.png", "label": "{"cat" if i % 2 else "dog"}"}}' for i in range(COUNT)]
    files["metadata.jsonl"] = "\n".join(lines).encode()
    if zipped:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        files = {"data/train.zip": archive.getvalue()}
    splits = opened(upload(hub, files), streaming)
    assert len(splits.train) + len(splits.test) == COUNT and len(splits.train.decoded()) > 0


@pytest.mark.parametrize(
    "path, fetched",
    [
        ("hf://datasets/org/name@" + "ab" * 20 + "/cat/1.png", True),
        ("zip://cat/1.png::hf://datasets/org/name@" + "ab" * 20 + "/train.zip", True),
        ("hf://datasets/org/name@main/cat/1.png", False),  # could be a repository that only the reader may see
        ("file:///etc/x.png::hf://datasets/org/name@" + "ab" * 20 + "/train.zip", False),
        ("hf://datasets/org/name@" + "ab" * 20 + "/x::/etc/x.png", False),
        ("https://example.org/1.png", False),
        ("file:///etc/x.png", False),
        ("cat/1.png", False),
    ],
)
def test_addresses(path, fetched):
    assert from_hub(path) == fetched


def test_the_way_out_of_the_cache_is_seen():
    from huggingface_hub.constants import HF_HUB_CACHE

    assert from_hub(f"{HF_HUB_CACHE}/datasets--org--name/snapshots/x/1.png")
    assert not from_hub(f"{HF_HUB_CACHE}/../../private.png") and not from_hub(f"{HF_HUB_CACHE}-mine/1.png")
