"""Opens a dataset given as short name, Hub id, folder or object, and raises clear errors when it cannot."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hf_condense.config import DataSettings, nearest
from hf_condense.data.listing import endings, list_files
from hf_condense.data.local import nothing_in, open_local
from hf_condense.data.names import ALIASES, KNOWN, KnownDataset, canonical_name
from hf_condense.data.tables import READERS
from hf_condense.errors import CondensationError, DataError

logger = logging.getLogger(__name__)
PROBE_SECONDS = 5.0


@dataclass
class Opened:
    """Splits as `datasets` objects, before columns and classes are determined.

    Args:
        splits: name -> Dataset or IterableDataset.
        id: the dataset as the user named it.
        known: the entry of the table of names, if it has one.
        revision: commit of the Hub repository, where known.
        license: of the dataset, where its card or info names it.
        hub: whether it came from the Hub (so that id and revision identify it).
        root: folder that paths in a local table start from.
    """

    splits: dict[str, Any]
    id: str
    known: KnownDataset | None = None
    revision: str | None = None
    license: str | None = None
    hub: bool = False
    root: Path | None = None


def open_splits(settings: DataSettings, dataset: Any = None) -> Opened:
    """Opens the dataset object where one is given, else what `settings.dataset` names. No image is decoded.

    Raises:
        DataError: unknown name, gated or unreachable repository, folder without images, damaged file.
    """
    if dataset is not None:
        return _given(dataset)
    name = canonical_name(settings.dataset)
    known = KNOWN.get(name)
    if known is not None and known.embedded:
        from hf_condense.data.embedded import embedded

        splits = dict(embedded(name))
        return Opened(splits, name, known, license=_info_license(splits))
    path = Path(settings.dataset).expanduser()
    if known is None and (path.exists() or _looks_like_path(settings.dataset)):
        return _local(path, settings)
    return _from_hub(name, known, settings)


def _given(dataset: Any) -> Opened:
    from datasets import Dataset, IterableDataset

    splits = dict(dataset) if isinstance(dataset, Mapping) else {"train": dataset}
    wrong = [s for s, d in splits.items() if not isinstance(d, (Dataset, IterableDataset))]
    if wrong or not splits:
        kind = type(splits[wrong[0]]).__name__ if wrong else "an empty dictionary"
        raise DataError(
            "dataset",
            kind,
            "a datasets.Dataset, DatasetDict, IterableDataset, or a name",
            "wrap it, for example with datasets.Dataset.from_dict",
        )
    for split, transform in {name: _transform(d) for name, d in splits.items() if _transform(d)}.items():
        logger.warning(
            "split %s: the transform %s is not applied, images are read as they are stored; apply it with dataset.map, "
            "or leave it out: augmentation is part of the method",
            split,
            transform,
        )
    first = next(iter(splits.values()))
    return Opened(splits, first.info.dataset_name or "in-memory dataset", license=_info_license(splits))


def _transform(dataset: Any) -> str | None:
    """Name of the function that `set_transform` or `with_transform` has set on a Dataset, or None."""
    shown = getattr(dataset, "format", {})  # streams have none
    if shown.get("type") != "custom":
        return None
    function = shown["format_kwargs"].get("transform")
    return getattr(function, "__qualname__", type(function).__name__)


def _looks_like_path(name: str) -> bool:
    return (
        name.startswith((".", "~", os.sep))
        or name.count("/") > 1
        or Path(name).suffix.lower() in (*READERS, ".tar", ".zip")
    )


def _local(path: Path, settings: DataSettings) -> Opened:
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = get_close_matches(path.name, [n for n in beside if not n.startswith(".")], n=2)
        near = f"did you mean {' or '.join(close)}?" if close else "check the spelling"
        raise DataError("dataset", str(path), "a folder or file that exists, a short name or a Hub id", near)
    with clear_dataset_errors(str(path), None, path):
        splits = open_local(path, settings)
    card = path / "README.md" if path.is_dir() else path.parent / "README.md"
    return Opened(splits, settings.dataset, license=_info_license(splits) or _card_license(card), root=card.parent)


def _from_hub(name: str, known: KnownDataset | None, settings: DataSettings) -> Opened:
    from datasets import load_dataset
    from huggingface_hub import try_to_load_from_cache

    hub_id = known.hub_id if known else name
    config = settings.dataset_config or (known.config if known else None)
    arguments: dict[str, Any] = {"streaming": settings.streaming}
    if settings.revision or (known and known.revision):
        arguments["revision"] = settings.revision or known.revision
    if known and known.data_dir:
        arguments["data_dir"] = settings.dataset_config or known.data_dir
        config = None
    with clear_dataset_errors(settings.dataset, known, None), _without_waiting():
        splits = dict(load_dataset(hub_id, *([config] if config else []), **arguments))
        revision = _commit(splits) or _asked_commit(hub_id, arguments.get("revision")) or settings.revision
    card = try_to_load_from_cache(hub_id, "README.md", repo_type="dataset", revision=revision)
    license = _info_license(splits) or _card_license(Path(card) if isinstance(card, str) else None)
    return Opened(splits, settings.dataset, known, revision, license, hub=True)


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Asks once whether the Hub answers. If not, cached files are used, without minutes of retries."""
    import datasets.config
    import huggingface_hub.constants as constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        yield
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception as error:  # the client library's connection errors differ between its versions
        logger.warning("%s does not answer (%s): looking in the local cache only", constants.ENDPOINT, error)
    else:
        yield
        return
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def clear_dataset_errors(name: str, known: KnownDataset | None, path: Path | None) -> Iterator[None]:
    """Turns errors of `datasets` into a DataError with the next step. Errors of this library pass unchanged."""
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowInvalid

    try:
        yield
    except CondensationError:
        raise
    except (DatasetGenerationError, ArrowInvalid) as error:
        raise _damaged(name, path, error.__cause__ or error) from error
    except Exception as error:
        raise _explained(name, known, path, error) from error


def _damaged(name: str, path: Path | None, reason: BaseException) -> DataError:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(reason, OSError) and not isinstance(reason, pa.ArrowException) and reason.errno is not None:
        return DataError(
            "dataset", name, f"files that can be read and room to unpack them ({reason})", "free space or mend access"
        )
    files = [] if path is None else [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    for file in files:
        try:
            pq.ParquetFile(file).close()
        except (pa.ArrowException, OSError) as error:
            step = "the file is cut short or not Parquet: copy or download it again"
            return DataError("dataset", str(file), f"a whole Parquet file ({error})", step)
    short = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
    return DataError("dataset", name, f"files that can be read ({short})", "download or write them again")


def _explained(name: str, known: KnownDataset | None, path: Path | None, error: Exception) -> DataError:
    """The error of a failed `load_dataset`, chosen by its message (the library has no finer types)."""
    said = str(error)
    hub_id = known.hub_id if known else name
    page = known.page if known else f"https://huggingface.co/datasets/{hub_id}"
    if "is a gated dataset" in said:
        return DataError(
            "dataset",
            name,
            f"a dataset whose terms you have accepted ({hub_id} is gated)",
            f"open {page}, accept the terms, run `hf auth login`, and start again",
        )
    if "BuilderConfig" in said or "Config name is missing" in said:
        offered = re.findall(r"'([^']+)'", said.split("[", 1)[-1].split("]", 1)[0])
        return DataError("dataset_config", name, f"one of {', '.join(offered)}", "say which one with --dataset_config")
    if "scripts are no longer supported" in said:
        step = "try --revision refs/convert/parquet, or convert it once and give the folder"
        return DataError("dataset", name, "a repository of data files; this one holds a loading script", step)
    if said.startswith("Revision"):
        return DataError("revision", name, f"a branch, tag or commit of {hub_id}", f"see {page}/tree/main")
    if path is not None:
        listing = list_files(path) if path.is_dir() else None
        if listing is not None and not listing.unread:
            return nothing_in(path, listing)
        holds = f"; it holds {endings(listing.unread)}" if listing else ""
        step = "put images into one folder per class, or give a folder of Parquet files or a saved dataset"
        return DataError(
            "dataset", str(path), f"a dataset of images that can be read ({_first_line(error)}){holds}", step
        )
    if isinstance(error, ConnectionError) or "OfflineModeIsEnabled" in said or "Couldn't reach" in said:
        near = "" if known or "/" in name else f" ({nearest(name, [*KNOWN, *ALIASES])})"
        return DataError(
            "dataset",
            name,
            f"a Hub that answers, or a dataset that is in the local cache; {hub_id} is neither{near}",
            "connect to the network (or unset HF_HUB_OFFLINE), give a local folder, or use the embedded `digits`",
        )
    if isinstance(error, FileNotFoundError):
        step = f"{nearest(name, [*KNOWN, *ALIASES])} For a private dataset run `hf auth login` first"
        return DataError("dataset", name, "a short name, a Hub id or a folder that exists", step)
    return DataError(
        "dataset", name, f"a dataset that loads ({type(error).__name__}: {_first_line(error)})", f"see {page}"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _commit(splits: dict[str, Any]) -> str | None:
    """The commit at which a Hub dataset was read, from its info or its file list."""
    for dataset in splits.values():
        for address in dataset.info.download_checksums or {}:
            found = re.search(r"@([0-9a-f]{40})/", address)
            if found:
                return found[1]
    return None


def _asked_commit(hub_id: str, revision: str | None) -> str | None:
    """The commit from the Hub (streams do not record it), or None without network."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(hub_id, revision=revision, timeout=PROBE_SECONDS).sha
    except Exception:  # the provenance then lacks the commit; the images are the same
        return None


def _info_license(splits: dict[str, Any]) -> str | None:
    return next((d.info.license for d in splits.values() if d.info.license), None)


def _card_license(card: Path | None) -> str | None:
    """The license that the metadata block of a dataset card names, or None."""
    import yaml

    try:
        head = card.read_text(encoding="utf-8").split("---", 2) if card else []
        license = (yaml.safe_load(head[1]) or {}).get("license") if len(head) == 3 and not head[0].strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return None
    return ", ".join(license) if isinstance(license, list) else license
