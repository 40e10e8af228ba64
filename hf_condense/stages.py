"""Stages of a run: what each was made from, whether it is done, and what a second run may do with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_condense.errors import ConfigError
from hf_condense.files import canonical_json, fingerprint, read_json, write_json


@dataclass
class Stage:
    """One stage and its folder in the run folder.

    Args:
        name: of the stage, for messages.
        folder: where it writes; `stage.json` in it names what it is made from.
        settings: everything its outputs depend on, flat: setting -> value.
        version: raised by hand when the stage's outputs change.
        upstream: fingerprint of the stage before it, or of the source.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    version: int
    upstream: str

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.name, self.settings, self.version, self.upstream])

    @property
    def _file(self) -> Path:
        return self.folder / "stage.json"

    def begin(self, overwrite: bool) -> bool:
        """Readies the folder; returns True when the stage is already done with exactly these settings.

        Raises:
            ConfigError: the folder holds this stage with another setting (named), and `overwrite` is off.
        """
        if self._file.exists():
            there = read_json(self._file)
            if there["fingerprint"] == self.fingerprint:
                return there["done"]  # nothing is written twice, so that every life of a run gets further
            self._changed(there, overwrite)
            shutil.rmtree(self.folder)
        write_json(self._file, self._record(done=False))
        return False

    def finish(self, **facts: Any) -> None:
        """Marks the stage as done; `facts` (seconds, memory ...) go into the record only."""
        write_json(self._file, self._record(done=True, **facts))

    def facts(self) -> dict[str, Any]:
        """What `finish` was given."""
        return read_json(self._file)["facts"]

    def _record(self, done: bool, **facts: Any) -> dict[str, Any]:
        return {
            "stage": self.name, "fingerprint": self.fingerprint, "version": self.version, "upstream": self.upstream,
            "done": done, "settings": self.settings, "facts": facts,
        }  # fmt: skip

    def _changed(self, there: dict[str, Any], overwrite: bool) -> None:
        if overwrite:
            return
        old, new = there["settings"], self.settings
        for name in sorted({*old, *new}):
            before, now = old.get(name), new.get(name)
            if canonical_json(before) != canonical_json(now):
                raise ConfigError(
                    name,
                    now,
                    f"{before!r}, with which {self.name} in {self.folder.parent} was run",
                    "give the old value, another --output_dir, or --overwrite to redo this and later stages",
                )
        # settings are equal, so what it was made from has changed: an earlier stage was redone, or the code moved on
