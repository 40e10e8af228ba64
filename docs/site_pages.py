"""The site shows README, CONTRIBUTING, recipes and benchmarks too, from where they stand in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "recipes/README.md",
    "benchmarks/README.md",
    "benchmarks/ledger.md",
    "benchmarks/log/*.md",
    "benchmarks/results/*",
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages outside docs/, under their paths in the repository."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links between docs/ and the rest of the repository lead to the same pages of the site, whose root docs/ is."""
    if page.file.generated_by is None:
        return markdown.replace("](../", "](")
    return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)
