"""Lists a folder: images and other files, in the order in which `datasets` reads them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SHOWN = 3  # names in a message
NO_DATA = (
    "readme.md",
    "thumbs.db",
    "desktop.ini",
    "license",
    "license.txt",
)  # about the dataset, or of a file browser


@dataclass(frozen=True)
class Listing:
    """Files below a folder, hidden ones left out.

    Args:
        images, others: paths below the folder, sorted.
        folders: all folders below it, sorted.
    """

    images: tuple[PurePosixPath, ...]
    others: tuple[PurePosixPath, ...]
    folders: tuple[PurePosixPath, ...]

    def below(self, folder: str) -> Listing:
        """The listing of one of its top folders."""

        def inside(paths: Iterable[PurePosixPath]) -> tuple[PurePosixPath, ...]:
            return tuple(PurePosixPath(*p.parts[1:]) for p in paths if len(p.parts) > 1 and p.parts[0] == folder)

        return Listing(inside(self.images), inside(self.others), inside(self.folders))

    @property
    def top(self) -> list[str]:
        """Top folders that hold images."""
        return sorted({p.parts[0] for p in self.images if len(p.parts) > 1})

    @property
    def unread(self) -> list[PurePosixPath]:
        """Files that are neither images nor about the dataset."""
        return [p for p in self.others if p.name.lower() not in NO_DATA]


def list_files(root: Path) -> Listing:
    """The listing of `root`. Links to folders are followed, each folder once."""
    files, folders, seen = [], [], set()
    for place, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        inner[:] = [] if real in seen else [name for name in inner if not name.startswith((".", "__"))]
        if real in seen:
            continue
        seen.add(real)
        below = PurePosixPath(Path(place).relative_to(root).as_posix())
        folders += [below / name for name in inner]
        files += [below / name for name in names if not name.startswith((".", "__"))]
    files.sort(key=str)
    known = image_endings()
    images = tuple(f for f in files if f.suffix.lower() in known)
    return Listing(images, tuple(f for f in files if f.suffix.lower() not in known), tuple(sorted(folders, key=str)))


def image_endings() -> set[str]:
    """Endings of the names of image files, in lower case."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return set(ImageFolder.EXTENSIONS)


def endings(files: Iterable[PurePosixPath]) -> str:
    """How many files there are of each ending, the most frequent first."""
    counts = Counter(p.suffix.lower() or p.name for p in files)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5))


def some(names: Iterable[object]) -> str:
    """The first few of many names, and how many more there are."""
    names = [str(name) for name in names]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
