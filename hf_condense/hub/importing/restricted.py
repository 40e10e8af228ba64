"""Reads untrusted tensor files: numbers are loaded, and files that would run code are refused before it runs."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from hf_condense.errors import ArtefactError
from hf_condense.files import regular_size

NUMBERS = (
    np.ndarray,
    np.dtype,
    multiarray.scalar,
    multiarray._reconstruct,
    (multiarray.scalar, "numpy.core.multiarray.scalar"),  # as files of NumPy 1 name it
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
)
ALLOWED = "tensors, NumPy arrays, numbers, text, lists and dictionaries"
NEXT = "ask who made it for such a file; opening it in another way would run code of theirs"


def read_untrusted(path: Path | str) -> Any:
    """The content of a `torch.save` file: tensors, NumPy arrays, numbers, text, None, lists and dictionaries.

    Raises:
        ArtefactError: the file names any other class or function (nothing of it is called), is damaged or missing, or
            holds arrays that are larger than the file.
    """
    if os.path.exists(path) and regular_size(path) is None:  # a pipe never ends
        raise ArtefactError(str(path), "no regular file", "a file of torch.save", NEXT)
    try:
        with torch.serialization.safe_globals(list(NUMBERS)):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message would advise a user to open the file in the mode that runs its code
        named = re.search(r"GLOBAL ([\w.]+)|<class '([\w.]+)'>|error:\s+(.+)", str(error))
        found = next(filter(None, named.groups())) if named else "an unknown object"
        raise ArtefactError(str(path), found, ALLOWED, NEXT) from None
    except Exception as error:  # damaged pickles fail in any way
        raise ArtefactError(
            str(path), _first_line(error), "a whole file of torch.save", "copy or download it again"
        ) from None
    _only_numbers(found, path)
    return found


def _only_numbers(found: Any, path: Path | str) -> None:
    """Raises ArtefactError for harmless classes that torch allows and no set contains, and for arrays that repeat few
    stored numbers: computing with those of a file of a kilobyte could exhaust the memory."""
    room = os.path.getsize(path)
    waiting, seen = [found], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:  # a list may hold itself
            continue
        seen.add(id(part))
        if isinstance(part, (list, tuple)):
            waiting += part
        elif isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, (torch.Tensor, np.ndarray)):
            count, size = (part.numel(), part.element_size()) if torch.is_tensor(part) else (part.size, part.itemsize)
            if count * size > room:
                allowed = f"arrays whose numbers stand in the file, which has {room} bytes"
                raise ArtefactError(str(path), f"an array of {count * size} bytes", allowed, NEXT)
        elif not isinstance(part, (np.generic, bool, int, float, str, type(None))):
            kind = f"{type(part).__module__}.{type(part).__name__}"
            raise ArtefactError(str(path), kind, ALLOWED, NEXT)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
