"""Tracking: losses, scores, costs and pictures of a run for Accelerate's trackers (tensorboard, wandb, trackio ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from hf_condense.callbacks import Callback, Control, State

if TYPE_CHECKING:
    from torch import Tensor


class TrackerCallback(Callback):
    """Names are `stage/work/value`. Trackers start with the first event, so that a run that is refused leaves nothing.

    Args:
        accelerator: made with `log_with`.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.started = False

    def on_log(
        self, config: Any, state: State, control: Control, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        self._log(config, {f"{state.stage}/{state.work}/{name}": value for name, value in (logs or {}).items()}, state)

    def on_stage_end(
        self, config: Any, state: State, control: Control, facts: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        self._log(config, {f"{state.stage}/{name}": value for name, value in (facts or {}).items()}, state)

    def on_run_end(self, config: Any, state: State, control: Control, table: Any = None, **kwargs: Any) -> None:
        lines = table.summary() if table is not None else []
        means = {f"scores/{line['row']}/{line['student']}/{line['regime']}": line["top1"]["mean"] for line in lines}
        self._log(config, means, state)

    def on_images(
        self,
        config: Any,
        state: State,
        control: Control,
        images: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
        name: str = "",
        **kwargs: Any,
    ) -> None:
        for tracker in self._trackers(config, state):
            show = getattr(tracker, "log_images", None)  # Accelerate's trackio has none
            for row, found in (images or {}).items():
                values = {f"pictures/{name}/{row}": found.cpu().permute(0, 2, 3, 1).numpy()}
                if show and tracker.name == "tensorboard":
                    show(values, step=state.step, dataformats="NHWC")
                elif show:
                    show(values)

    def _log(self, config: Any, values: dict[str, float], state: State) -> None:
        for tracker in self._trackers(config, state) if values else ():
            if tracker.name == "tensorboard":
                tracker.log(values, step=state.step)
            else:  # wandb drops a step below an earlier one, and every network begins at 0
                place = "/".join(part for part in (state.stage, state.work) if part)
                tracker.log({**values, **({f"{place}/step": state.step} if place else {})})

    def _trackers(self, config: Any, state: State) -> Sequence[Any]:
        if not self.started:
            self.started = True  # on all processes: Accelerate itself keeps to the main one
            settings = {k: str(v) for section in config.sections().values() for k, v in section.items()}
            self.accelerator.init_trackers("hf-condense", settings)
        return self.accelerator.trackers if state.is_main_process else ()
