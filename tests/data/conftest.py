"""Caches of these tests do not outlive a test."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_CONDENSE_CACHE", str(tmp_path / "cache"))
