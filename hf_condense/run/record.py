"""The record of a stage in its folder: what it was made from, whether it is done, what a second start may do with it."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_condense.errors import ConfigError
from hf_condense.files import canonical_json, fingerprint, read_json, write_json

log = logging.getLogger(__name__)
NOTE_EVERY = 60.0  # seconds between two notes of what a stage at work has taken


@dataclass
class StageRecord:
    """One stage and its folder in the run folder.

    Args:
        name: of the stage, for messages.
        folder: where it writes; `stage.json` in it names what it is made from.
        settings: everything its outputs depend on, flat: setting -> value.
        version: raised by hand when the stage's outputs change.
        upstream: fingerprint of the stage before it, or of the source.
        first: whether no stage comes before it: another `upstream` then means another source, which was not asked for.
        by_content: whether its files are named by all that its settings say: other settings then leave them alone.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    version: int
    upstream: str
    first: bool = False
    by_content: bool = False
    uses: list[tuple[str, float]] = field(default_factory=list, init=False)  # of the cache, by this attempt
    _before: dict[str, Any] = field(default_factory=dict, init=False)  # facts of earlier attempts
    _began: float | None = field(default=None, init=False)
    _noted: float = field(default=0.0, init=False)

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.name, self.settings, self.version, self.upstream])

    @property
    def _file(self) -> Path:
        return self.folder / "stage.json"

    @property
    def begun(self) -> bool:
        """Whether the folder holds a record of the stage."""
        return self._file.exists()

    @property
    def done(self) -> bool:
        """Whether the stage is done with exactly these settings."""
        there = self._read()
        return there is not None and there["fingerprint"] == self.fingerprint and there["done"]

    def _read(self) -> dict[str, Any] | None:
        return read_json(self._file) if self.begun else None

    def begin(self, overwrite: bool) -> bool:
        """Prepares the folder for work that is left, and returns whether earlier work on it is kept.

        Raises:
            ConfigError: the folder holds this stage with another setting (named), made by another version of it or from
                another source, and `overwrite` is off.
        """
        there = self._read()
        kept = there is not None and self._goes_on(there)
        self._began = self._noted = time.perf_counter()
        self._before = {"began": time.time()}
        if kept:
            self._before |= there["facts"]
        elif there is not None:
            if not overwrite:
                self.refuse_change()
            self._empty()
        if there is None or there["fingerprint"] != self.fingerprint:  # nothing is written twice
            self._write(done=False, facts=self._before)
        return kept

    def note(self, done: bool = False, peak_bytes: int = 0) -> None:
        """Writes down what the stage has taken so far, earlier attempts included, and whether it is done.

        Args:
            peak_bytes: most memory of this attempt; the record keeps the most of all.
        """
        self._noted = time.perf_counter()
        seconds = self._before.get("seconds", 0.0) + self._noted - self._began
        peak = max(peak_bytes, self._before.get("peak_bytes", 0))
        # older than the stage: what an earlier attempt or another process of this one made has cost time that is counted
        reused = [name for name, made in self.uses if made < self._before["began"]]
        reused = sorted({*self._before.get("reused", []), *reused})
        facts = {"seconds": round(seconds, 2), "peak_bytes": peak, "began": self._before["began"], "reused": reused}
        self._write(done, facts)

    def tick(self) -> None:
        """`note` now and then while a stage is at work: a killed process writes nothing down any more."""
        if self._began is not None and time.perf_counter() - self._noted > NOTE_EVERY:
            self.note()

    def facts(self) -> dict[str, Any]:
        """Seconds and peak_bytes; they stand in the record only."""
        found = read_json(self._file)["facts"]
        return {name: found[name] for name in ("seconds", "peak_bytes") if name in found}

    def reused(self) -> list[str]:
        """What the stage took from the cache, where it was before the stage began: its time is not counted."""
        return read_json(self._file)["facts"].get("reused", [])

    def _write(self, done: bool, facts: dict[str, Any]) -> None:
        record = {
            "stage": self.name,
            "fingerprint": self.fingerprint,
            "version": self.version,
            "upstream": self.upstream,
            "done": done,
            "settings": self.settings,
            "facts": facts,
        }
        write_json(self._file, record)

    def _empty(self) -> None:
        """Deletes everything but the record, which goes when it is written over: until then it names what is left."""
        log.warning("%s: %s was made from something else and is deleted", self.name, self.folder)
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry != self._file:
                entry.unlink()

    def _goes_on(self, there: dict[str, Any]) -> bool:
        """Whether what the record speaks of can stay where it is."""
        same = there["fingerprint"] == self.fingerprint
        return same or (self.by_content and there["version"] == self.version)

    def refuse_change(self) -> None:
        """Raises what `begin` raises without `overwrite`, and does nothing else."""
        there = self._read()
        if there is None or self._goes_on(there):
            return
        made = f"with which {self.name} in {self.folder.parent} was run"
        redo = "--overwrite to redo this and later stages"
        old, new = there["settings"], self.settings
        # what a person has most likely changed is named first: the rest often follows from it
        for name in sorted({*old, *new}, key=lambda name: (name != "method", name != "ipc", name)):
            before, now = old.get(name), new.get(name)
            if canonical_json(before) != canonical_json(now):
                raise ConfigError(
                    name, now, f"{before!r}, {made}", f"give the old value, another --output_dir, or {redo}"
                )
        if there["version"] != self.version:
            step = f"go on with the release that made it, give another --output_dir, or {redo}"
            raise ConfigError("version", self.version, f"{there['version']}, {made}", step)
        if self.first:
            step = f"put the old data back, give another --output_dir, or {redo}"
            raise ConfigError("dataset", "other images or labels than before", f"those {made}", step)
        # what is left is an earlier stage that was redone on purpose
