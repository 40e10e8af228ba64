"""The pipeline: the stages that a run uses, linked by what they are made from; each is made once, read once, handed on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hf_condense.callbacks import Callback, Callbacks, Control, State
from hf_condense.data.cache import cache_folder, noted_uses, remove_unfinished
from hf_condense.errors import ConfigError
from hf_condense.files import fingerprint, remove_leftovers
from hf_condense.memory import peak_bytes, reset_peak
from hf_condense.run.base import Run
from hf_condense.run.condense import Condense
from hf_condense.run.evaluate import Evaluate
from hf_condense.run.launch import agreed, check_shared, from_main
from hf_condense.run.owner import owned
from hf_condense.run.record import StageRecord
from hf_condense.run.relabel import Relabel
from hf_condense.run.squeeze import Squeeze, source_fingerprint
from hf_condense.run.stage import Stage
from hf_condense.run.statistics import Statistics

log = logging.getLogger(__name__)
STAGES: tuple[type[Stage], ...] = (Squeeze, Statistics, Condense, Relabel, Evaluate)


class Pipeline(Mapping[type[Stage], Any]):
    """The stages of a run. As a mapping it gives the output of each, made or read when it is first asked for.

    Args:
        run: whose stages they are.
        callbacks: get the events of stages that are not done yet.
    """

    def __init__(self, run: Run, callbacks: Sequence[Callback] = ()) -> None:
        self.run = run
        self.stages = {type(stage): stage for stage in (kind() for kind in STAGES) if stage.used(run)}
        self.records: dict[type[Stage], StageRecord] = {}
        for kind in self.stages:
            self.records[kind] = self._record(kind)
        self.callbacks = Callbacks([*callbacks, _Clock(self)], run.config, run.accelerator.is_main_process)
        self._outputs: dict[type[Stage], Any] = {}
        self._owning = False

    def _record(self, kind: type[Stage]) -> StageRecord:
        stage, upstream = self.stages[kind], self.upstream(kind)
        before = fingerprint([self.records[other].fingerprint for other in upstream])
        return StageRecord(
            stage.name,
            self.run.folder / stage.place,
            stage.settings(self.run),
            stage.version_in(self.run),
            before if upstream else source_fingerprint(self.run),
            not upstream,
            stage.by_content,
        )

    def upstream(self, kind: type[Stage]) -> tuple[type[Stage], ...]:
        """The stages of this run that one is made from."""
        return tuple(other for other in self.stages[kind].after_in(self.run) if other in self.stages)

    def __getitem__(self, kind: type[Stage]) -> Any:
        if kind not in self._outputs:
            if kind not in self.stages:  # asked for by itself, as a pool is that other runs will take
                self.stages[kind] = kind()
                self.records[kind] = self._record(kind)
            self._outputs[kind] = self._output(kind)
        return self._outputs[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self.stages

    def __iter__(self) -> Iterator[type[Stage]]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def check_folder(self) -> None:
        """Raises ConfigError, on all processes, for a folder that cannot be made, that one of the processes does not see, or
        that holds a stage of this run with other settings."""
        folder, processes = self.run.folder, self.run.accelerator
        with agreed(processes):
            if processes.is_main_process:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    allowed = f"a folder that can be made and written to ({error.strerror})"
                    raise ConfigError("output_dir", str(folder), allowed, "choose another --output_dir") from error
        check_shared(processes, {"output_dir": folder, "HF_CONDENSE_CACHE": cache_folder()})
        if self.run.config.run.overwrite:
            return
        # synthesis first, because it names the method, on which the others depend
        with agreed(processes):
            for kind in sorted(self.records, key=lambda kind: kind is not Condense):
                self.records[kind].refuse_change()

    @contextmanager
    def owning(self) -> Iterator[None]:
        """Keeps other runs out of the run folder while this one works in it, and begins without leftovers; see `owned`."""
        if self._owning:
            yield
            return
        with owned(self.run.folder, self.run.accelerator):
            self._owning = True
            if self.run.accelerator.is_main_process:
                self._clear()
            try:
                yield
            finally:
                self._owning = False

    def _clear(self) -> None:
        """Deletes what killed runs left unfinished; another run may have its folder in this one."""
        for name in ("", "logs", "pictures"):
            remove_leftovers(self.run.folder / name, deep=False)
        for kind, record in self.records.items():
            remove_leftovers(record.folder)
            self.stages[kind].clear(record.folder)
        remove_unfinished()

    def facts(self) -> dict[str, dict[str, Any]]:
        """Stage -> seconds, peak_bytes and what came from the cache ("reused"), of those that were begun."""
        return {r.name: {**r.facts(), "reused": r.reused()} for r in self.records.values() if r.begun}

    def _output(self, kind: type[Stage]) -> Any:
        stage, record, output = self.stages[kind], self.records[kind], None
        with self.owning():
            if from_main(self.run.accelerator, record.done):
                log.info("%s: already done", stage.name)
            else:
                for other in self.upstream(kind):
                    self[other]  # made, if need be, on all processes and before the time of this stage begins
                output = self._make(stage, record)
            return stage.load(self.run, self, record.folder) if output is None else output

    def _make(self, stage: Stage, record: StageRecord) -> Any:
        """Makes what a stage lacks; measures and records it."""
        self.callbacks.stop_if_asked(self.callbacks.state(stage.name))
        processes, resumed = self.run.accelerator, False
        with agreed(processes):
            if processes.is_main_process:
                resumed = record.begin(self.run.config.run.overwrite)
                # only now: a refused start leaves the old one as it was
                self.run.config.save(self.run.folder / "config.yaml")
        reset_peak(self.run.device)
        finished = False
        with noted_uses() as record.uses, self.callbacks.stage(stage.name, resumed=resumed) as state:
            try:
                output = stage.make(self.run, self, record.folder)
                processes.wait_for_everyone()
                finished = True
            finally:
                if processes.is_main_process:
                    record.note(finished, peak_bytes(self.run.device))
            self.callbacks.emit("on_stage_end", state, facts=record.facts() if processes.is_main_process else {})
        return output


class _Clock(Callback):
    """Notes now and then what the stage at work has taken, which a killed process cannot."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.records = pipeline.records

    def on_step_end(self, config: Any, state: State, control: Control, **kwargs: Any) -> None:
        for record in self.records.values():
            if state.is_main_process and record.name == state.stage:
                record.tick()
