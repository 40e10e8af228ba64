"""Previews that strangers published, decoded within limits and encoded again: nothing of their bytes reaches a page."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from hf_condense.errors import HubError
from hf_condense.hub.refusals import NoAnswer, clear_hub_errors
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.result import SetRef

PREVIEW = "preview.png"
MAX_FILE_BYTES = 8_000_000  # as published
MAX_PIXELS = 16_000_000
MAX_BYTES = 300_000  # on the page
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """An encoded picture. `suffix`: png where that fits, else webp."""

    data: bytes
    suffix: str
    width: int
    height: int


class Pictures:
    """Previews of a board's sets: of a folder's own copies, and of the Hub at each set's revision while it answers."""

    def __init__(self, place: Place) -> None:
        self.place, self.online = place, True

    def of(self, ref: SetRef) -> Picture | None:
        """The preview of a set; None where none can be shown, which never stops a build."""
        try:
            data = self._local(ref) if ref.local else self._of_hub(ref)
            return None if data is None else encode_again(data)
        except NoAnswer as error:
            self.online = False
            log.warning("pages are made without pictures of sets on the Hub: %s", error)
        except (HubError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            log.warning("no picture of %s: %s", ref.repo, " ".join(str(error).split()))
        return None

    def _local(self, ref: SetRef) -> bytes | None:
        path = self.place.folder / ref.repo / PREVIEW
        inside = path.resolve().is_relative_to(self.place.folder.resolve())  # no link out of the board
        return _read(path) if inside and path.is_file() else None

    def _of_hub(self, ref: SetRef) -> bytes | None:
        """Asks for the size first: what a stranger calls a preview may be anything."""
        from huggingface_hub import HfApi, constants

        if not self.online or constants.HF_HUB_OFFLINE:
            return None
        api = HfApi()
        with clear_hub_errors(ref.repo):
            found = api.get_paths_info(ref.repo, [PREVIEW], repo_type="dataset", revision=ref.revision)
            if not found or found[0].size > MAX_FILE_BYTES:
                return None
            return _read(Path(api.hf_hub_download(ref.repo, PREVIEW, repo_type="dataset", revision=ref.revision)))


def encode_again(data: bytes) -> Picture:
    """Decodes a PNG and encodes its pixels alone, in at most 300 kB: as PNG, else as WebP, smaller where needed.

    Raises:
        ValueError, OSError: too large, or no PNG. The size is read from the header before any pixel is decoded.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_FILE_BYTES}")
    with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels, at most {MAX_PIXELS}")
        image = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    encoded = _encoded(image, "PNG", optimize=True)
    if len(encoded) <= MAX_BYTES:
        return Picture(encoded, "png", *image.size)
    while len(encoded := _encoded(image.convert("RGB"), "WEBP", quality=80)) > MAX_BYTES:
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)), Image.Resampling.LANCZOS)
    return Picture(encoded, "webp", *image.size)


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_FILE_BYTES + 1)
