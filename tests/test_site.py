"""The pages of docs/ build into a site with every link and reference found, and fetch nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import hf_condense

ROOT = Path(__file__).parents[1]
OFFLINE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **OFFLINE}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser loads beside a page."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        link = named.get("href") if tag == "link" and named.get("rel") != "canonical" else named.get("src")
        self.places += [link] if link else []


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site):
    pages = [p.stem for p in (ROOT / "docs").glob("*.md")]
    assert len(pages) > 8 and not [name for name in pages if not (site / name / "index.html").is_file()]
    assert (site / "index.html").is_file() and (site / "condense_digits.ipynb").is_file()
    for page in site.rglob("*.html"):
        found = Loaded()
        found.feed(page.read_text(encoding="utf-8"))
        assert found.places and not [p for p in found.places if re.match(r"(https?:)?//", p)], page


def test_the_reference_has_every_public_name_with_its_text(site):
    text = (site / "reference" / "index.html").read_text(encoding="utf-8")
    for name in hf_condense.__all__:
        assert f'id="hf_condense.{name}"' in text, f"docs/reference.md does not show {name}"
    assert "Condenses a dataset, stage by stage" in text and "One epoch of augmented batches" in text


def test_a_broken_link_fails_the_build(tmp_path):
    """The gate of the first test: the same settings over a page with a wrong link."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nothing](no_such_page.md)", encoding="utf-8")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    settings = re.sub(r"^(nav|not_in_nav|hooks):.*?(?=^\w)", "", settings, flags=re.S | re.M)
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **OFFLINE}, capture_output=True, text=True)
    assert done.returncode == 1 and "no_such_page.md" in done.stderr
