"""What all tests share: no network, caches of their own, real data from HF_CONDENSE_DATA, tiny pools made once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# read once at import by the libraries, so they stand before any import of them
_CACHE = tempfile.mkdtemp(prefix="hf-condense-tests-")
os.environ["HF_HOME"] = f"{_CACHE}/hf"
os.environ["HF_CONDENSE_CACHE"] = f"{_CACHE}/hf_condense"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny networks; and children are forked from a parent without thread pools
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with fashion_mnist/ and grocery_photos/; tests that need it skip where it is not given."""
    folder = os.environ.get("HF_CONDENSE_DATA")
    if not folder:
        pytest.skip("HF_CONDENSE_DATA does not name a folder with real datasets")
    return Path(folder)
