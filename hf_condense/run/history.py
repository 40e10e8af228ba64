"""History: losses, rates and scores of a run as lines of a file in its folder, from which curves are drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_condense.callbacks import Callback, Control, State
from hf_condense.processes import Processes

Curves = dict[tuple[str, str, str], dict[int, float]]  # (stage, work, name) -> step -> value


class HistoryCallback(Callback):
    """Appends what is logged to `logs/history-<process>.jsonl` of a run folder.

    Args:
        folder: of the run.
        processes: each has a file of its own.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.path, self.world = folder / "logs" / f"history-{processes.rank:03d}.jsonl", processes.world

    def on_stage_begin(
        self, config: Any, state: State, control: Control, resumed: bool = False, **kwargs: Any
    ) -> None:
        if not resumed:
            self._append({"stage": state.stage, "from": "the beginning", "processes": self.world})

    def on_log(
        self,
        config: Any,
        state: State,
        control: Control,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._append({"stage": state.stage, "work": state.work, "step": state.step, "logs": dict(logs or {})})

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_history(folder: Path) -> Curves:
    """The curves of a run folder. Steps that were repeated after a kill, and stages that were redone, count once."""
    curves: Curves = {}
    worlds: dict[str, int] = {}  # stage -> processes that it was last begun by, as the first one says
    for rank, path in enumerate(sorted((folder / "logs").glob("history-*.jsonl"))):
        own: Curves = {}
        for line in _lines(path):
            if "from" in line:
                own = {key: values for key, values in own.items() if key[0] != line["stage"]}
                if rank == 0:
                    worlds[line["stage"]] = line["processes"]
            for name, value in line.get("logs", {}).items():
                own.setdefault((line["stage"], line["work"], name), {})[line["step"]] = value
        for key, values in own.items():
            if rank < worlds.get(key[0], 1):  # of more processes, which made the stage before it was redone
                curves.setdefault(key, {}).update(values)
    return {key: dict(sorted(values.items())) for key, values in curves.items()}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):  # a killed process leaves the last one unfinished
            yield json.loads(line)
