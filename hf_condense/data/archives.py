"""Zip archives are unpacked once, by content, into the cache folder."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from hf_condense.data.cache import cache_folder, one_at_a_time
from hf_condense.errors import DataError
from hf_condense.files import atomic_path, fingerprint, sha256_file


def unpacked(archives: Sequence[Path]) -> Path:
    """A folder with the files of a zip, or of several, each in a folder named after its archive.

    Names in an archive cannot lead out of the folder: `zipfile` drops `..` and leading slashes, and makes no links.

    Raises:
        DataError: one is damaged, locked with a password, or larger than the free space.
        ArtefactError: the cache folder cannot be written to.
    """
    folder = cache_folder() / "unpacked" / fingerprint([[path.name, sha256_file(path)] for path in archives])
    with one_at_a_time(folder):
        if not folder.exists():
            with atomic_path(folder) as temporary:
                for archive in archives:
                    _unpack(archive, temporary if len(archives) == 1 else temporary / archive.stem)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as found:
            size = sum(entry.file_size for entry in found.infolist())
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if size > free:
                raise DataError(
                    "dataset",
                    str(archive),
                    f"a zip that fits the disk; it has {size / 1e9:.1f} GB, {free / 1e9:.1f} are free",
                    "free space, or set HF_CONDENSE_CACHE to a folder on another disk",
                )
            found.extractall(folder)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # RuntimeError: a password is required
        step = "copy it again, or unpack it and give the folder"
        raise DataError("dataset", str(archive), f"a zip that unpacks ({error})", step) from None
