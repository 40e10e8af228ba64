"""A whole run: all stages from the first to the published folder, and the callbacks that every run has."""

from __future__ import annotations

from pathlib import Path

from hf_condense.callbacks import Callback
from hf_condense.hub.push import push
from hf_condense.processes import Processes
from hf_condense.progress import ProgressCallback
from hf_condense.run import estimate, report
from hf_condense.run.base import Run
from hf_condense.run.evaluate import Evaluate
from hf_condense.run.history import HistoryCallback
from hf_condense.run.launch import agreed
from hf_condense.run.pictures import PictureCallback
from hf_condense.run.pipeline import Pipeline
from hf_condense.run.publish import publish, ready_to_push
from hf_condense.run.tracking import TrackerCallback


def own_callbacks(run: Run) -> list[Callback]:
    """What shows progress, keeps the history, draws pictures, and feeds trackers where there are any."""
    own = [ProgressCallback(), HistoryCallback(run.folder, Processes(run.accelerator)), PictureCallback(run.folder)]
    return [*own, TrackerCallback(run.accelerator)] if run.config.run.trackers else own


def run_whole(pipeline: Pipeline) -> Path:
    """The folder of the published set; see `CondensationTrainer.run`."""
    run, asked, callbacks = pipeline.run, pipeline.run.config.run, pipeline.callbacks
    if asked.push_to_hub:
        with agreed(run.accelerator):
            ready_to_push(run)
    with pipeline.owning():
        estimate.announce(pipeline)
        callbacks.emit("on_run_begin", callbacks.state())
        folder = publish(pipeline)
        if run.accelerator.is_main_process:
            report.finish(pipeline, folder)
        callbacks.emit("on_run_end", callbacks.state(), folder=folder, table=pipeline[Evaluate])
        if run.accelerator.is_main_process and asked.push_to_hub:
            print(push(run.folder, asked.push_to_hub, push_models=asked.push_models).text())
        run.accelerator.wait_for_everyone()
    run.accelerator.end_training()
    return folder
