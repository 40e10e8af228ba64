"""Files of strangers are read as numbers or refused, and nothing in them runs."""

import os
import pickle
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_condense.errors import ArtefactError
from hf_condense.hub.importing.restricted import read_untrusted
from hf_condense.hub.importing.sets import read_tensors


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_would_run_code_is_refused_by_name_and_does_not_run(tmp_path, zipped):
    marker, file = tmp_path / "ran", tmp_path / "batch_0.tar"
    torch.save([torch.ones(2), {"deep": [Trap(marker)]}], file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ArtefactError, match=rf"batch_0.tar='{os.name}.system'.*tensors"):
        read_untrusted(file)
    assert not marker.exists()
    torch.load(file, weights_only=False)  # the trap is a real one
    assert marker.exists()


def test_a_plain_pickle_with_a_trap_does_not_run(tmp_path):
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(ArtefactError, match=r"x\.pt"):
        read_untrusted(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value, named",
    [
        (Fraction(1, 2), "fractions.Fraction"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.array([Fraction(1, 2)]), "numpy.dtypes.ObjectDType"),
        (torch.device("cpu"), "torch.device"),
    ],
)
def test_other_classes_are_refused_by_name(tmp_path, value, named):
    torch.save({"data": [value]}, tmp_path / "x.pt")
    with pytest.raises(ArtefactError, match=named):
        read_untrusted(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_torch_and_numpy_come_back(tmp_path, zipped):
    value = [torch.arange(6.0).view(2, 3), np.float64(0.3), np.int64(2), np.eye(2, dtype=np.float32), None, True]
    value = {"data": [value, (1, "word")], "more": OrderedDict(a=torch.tensor([True]))}
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read_untrusted(tmp_path / "x.pt")
    numbers = found["data"][0]
    assert torch.equal(numbers[0], value["data"][0][0]) and numbers[1:3] == [0.3, 2] and numbers[4:] == [None, True]
    assert np.array_equal(numbers[3], np.eye(2)) and numbers[3].dtype == np.float32
    assert found["data"][1] == (1, "word") and found["more"]["a"].dtype == torch.bool


def test_files_of_numpy_1_come_back(tmp_path):
    torch.save([np.float64(0.3)], tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    older = (tmp_path / "x.pt").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in older
    (tmp_path / "x.pt").write_bytes(older)
    assert read_untrusted(tmp_path / "x.pt") == [0.3]


@pytest.mark.parametrize("content", [b"", b"not a pickle", None])
def test_damaged_and_missing_files_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"x\.pt"):
        read_untrusted(tmp_path / "x.pt")


def test_a_file_cut_short_is_named(tmp_path):
    torch.save([torch.ones(1000)], tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:900])
    with pytest.raises(ArtefactError, match=r"x\.pt"):
        read_untrusted(tmp_path / "x.pt")


def test_a_list_that_holds_itself_is_no_set_and_ends(tmp_path):
    value: list = []
    value.append(value)
    torch.save(value, tmp_path / "res_x.pt")
    read_untrusted(tmp_path / "res_x.pt")
    with pytest.raises(ArtefactError, match="images and labels"):
        read_tensors(tmp_path / "res_x.pt", ["a", "b"])
    torch.save([value, value, [Fraction(1, 2)]], tmp_path / "both.pt")
    with pytest.raises(ArtefactError, match=r"fractions\.Fraction"):
        read_untrusted(tmp_path / "both.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_small_file_makes_no_large_array(tmp_path, zipped):
    n = 400_000
    pixels, labels = torch.zeros(1).expand(n, 3, 8, 8), torch.zeros(1, dtype=torch.int64).expand(n)
    torch.save([pixels, labels], tmp_path / "res_x.pt", _use_new_zipfile_serialization=zipped)
    assert (tmp_path / "res_x.pt").stat().st_size < 4000
    with pytest.raises(ArtefactError, match=r"res_x\.pt.*numbers stand in the file"):
        read_tensors(tmp_path / "res_x.pt", ["a", "b"])


def test_a_pickle_that_names_no_array_is_named(tmp_path):
    class Empty:  # an array of a terabyte whose numbers are nowhere
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (1 << 37,), b"d")

    class Odd:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (3,)

    for thing in (Empty(), Odd()):
        torch.save([thing], tmp_path / "x.pt")
        with pytest.raises(ArtefactError, match=r"x\.pt"):
            read_untrusted(tmp_path / "x.pt")
