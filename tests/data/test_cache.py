"""What goes wrong while something is made for the cache is told as what it is."""

from __future__ import annotations

import errno

import pytest

from hf_condense.data.cache import one_at_a_time
from hf_condense.errors import ArtefactError
from hf_condense.files import load_tensors, write_text


def test_a_damaged_file_is_not_told_as_a_full_cache(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"cut off")
    with (
        pytest.raises(ArtefactError, match="other.safetensors.*a whole safetensors file"),
        one_at_a_time(tmp_path / "a"),
    ):
        load_tensors(tmp_path / "other.safetensors")


def test_a_full_cache_is_named_whoever_met_it(tmp_path):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ArtefactError, match="HF_CONDENSE_CACHE.*No space left"), one_at_a_time(tmp_path / "a"):
        full()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="HF_CONDENSE_CACHE.*exists"), one_at_a_time(tmp_path / "a"):
        write_text(tmp_path / "file" / "a", "not a folder above it")
