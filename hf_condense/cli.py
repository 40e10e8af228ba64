"""The command line. Nothing heavy is imported before a command is known."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

from hf_condense.cli_parser import ALONE, COMMAS, STAGES, build_parser, refuse_rest, short_names
from hf_condense.config import check
from hf_condense.errors import CondensationError
from hf_condense.leaderboard import commands as leaderboards
from hf_condense.methods import list_methods
from hf_condense.methods.registry import METHODS


def pool_run(given: dict) -> dict:
    """The settings of `pool`, which defaults to pruned weak models and a run folder named after their kind."""
    from hf_condense.run.resolve import read_yaml

    said = {**(read_yaml(given["config"]) if "config" in given else {}), **given}
    kind, dataset = said.get("pool_kind", "none"), said.get("dataset", "digits")
    kind = "post" if kind == "none" else kind
    folder = said.get("output_dir") or os.path.join(
        "runs", f"pool-{kind}-{os.path.basename(os.path.normpath(dataset))}"
    )
    return {**given, "pool_kind": kind, "output_dir": folder}


def named(setting: str, arguments: Sequence[str]) -> str | None:
    """The value of a setting that adds flags of its own, from the arguments, a --config file or a run folder."""
    from hf_condense.run.resolve import read_yaml

    arguments = [a for a in arguments if a not in ALONE]
    said = {"method": None, "base_method": None, "config": None}
    for argument, following in zip(arguments, [*arguments[1:], None]):
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in said:
            said[name] = value if equals else following
    if said[setting] is not None:
        return said[setting]
    if said["config"] is not None:
        return read_yaml(said["config"]).get(setting)
    folders = (
        following
        for argument, following in pairwise(arguments)
        if not following.startswith("-") and ("=" in argument or not argument.startswith("--"))  # else a flag's value
    )
    kept = os.path.join(next(folders, ""), "config.yaml")
    return read_yaml(kept).get(setting) if os.path.isfile(kept) else None


def main(arguments: Sequence[str] | None = None, only: str | None = None) -> int:
    """Entry point. Returns the exit code. `only` names the one method that may be run.

    0: done; 1: reproduced with differences, or inspected and not as it was published; 2: something a person can put
    right (message on stderr); 130: stopped by Ctrl-C; 143: stopped by SIGTERM, as a batch system or a container sends it.
    """
    with sigterm_as_ctrl_c():
        return _main(sys.argv[1:] if arguments is None else arguments, only)


def _main(arguments: Sequence[str], only: str | None) -> int:
    arguments = [
        "--" + a[2:].split("=", 1)[0].replace("-", "_") + a[len(a.split("=", 1)[0]) :] if a.startswith("--") else a
        for a in arguments
    ]
    command = next((a for a in arguments if not a.startswith("-")), None)
    if command == "pool":
        arguments = short_names(arguments)
    try:
        method, base = (named(s, arguments) if command in STAGES else None for s in ("method", "base_method"))
        if only is not None:
            step = "leave --method out, or use `hf-condense run`"
            check(method in (None, only), "method", method, f"{only}, which this recipe runs", step)
            method, arguments = only, [*arguments, "--method", only]
        parser = build_parser(command, method, base)
        if command in STAGES:
            found, rest = parser.parse_known_args(arguments)
            refuse_rest(rest, method, base)
            return run(found.command, method, base, vars(found))
        given = vars(parser.parse_args(arguments))
        if given["command"] in leaderboards.COMMANDS:
            show_messages()
            return leaderboards.run(given.pop("command"), given, run_again)
        others = {
            "methods": methods,
            "inspect": inspect,
            "push": push,
            "reproduce": reproduce,
            "import": import_set,
            "export": export_set,
            "picture": draw,
        }
        return others[given.pop("command")](**given)
    except CondensationError as error:
        if main_process() or not error.everywhere:
            print(f"error: {error}", file=sys.stderr, flush=True)
        if error.everywhere:  # a launcher stops all others when one has ended, and the main process has the word
            from accelerate import PartialState

            PartialState().wait_for_everyone()
        return 2
    except KeyboardInterrupt as stop:
        if main_process():
            print("stopped. Run the same command again to resume: what is done is kept.", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whatever tidies up after Ctrl-C does so here too."""


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated`; not in a thread, where Python takes no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends what hangs on the way out
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main_process() -> bool:
    """Whether this is the process of a run that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def run(command: str, method: str | None, base_method: str | None, arguments: dict[str, Any]) -> int:
    """Runs the stages up to `command`, or prints their help, or their settings and what they are expected to cost."""
    apart = ("command", "run_folder", "help", "help_all", "dry_run", "device")
    folder, short, everything, dry, device = (arguments[name] for name in apart[1:])
    given = {name: value for name, value in arguments.items() if name not in apart}
    if folder is not None:
        kept = os.path.join(folder, "config.yaml")
        there = "config" in given or os.path.isfile(kept)
        check(there, "run folder", folder, "a folder with the config.yaml of a run that was started", COMMAS)
        given = {"config": kept, "output_dir": folder, **given}
    if short or everything:
        from hf_condense.cli_help import help_page

        print(help_page(command, method, base_method, given, everything))
        return 0
    named = method is not None or command in ("pool", "squeeze")  # those train networks, for any method
    check(named, "method", method, ", ".join(list_methods()), "say which one: --method NAME")
    check(
        dry or device is None, "device", device, "given with --dry_run alone", "a run takes the device that it finds"
    )
    show_messages()
    if command == "pool":
        given = pool_run(given)
    if dry:
        return show_plan(given, device)
    from hf_condense.trainer import CondensationTrainer

    getattr(CondensationTrainer(**given), command)()
    return 0


def show_plan(given: dict, device: str | None = None) -> int:
    """Prints the resolved settings and the expected cost, here or on a named device; leaves no run folder behind."""
    from hf_condense.cli_help import resolved_text
    from hf_condense.run import estimate
    from hf_condense.run.devices import device_named
    from hf_condense.trainer import CondensationTrainer

    if device is not None:
        device_named(device)

    before = os.path.isdir(given.get("output_dir") or "")
    trainer = CondensationTrainer(**given)
    if trainer.accelerator.is_main_process:
        print(resolved_text(trainer.config), flush=True)
    estimate.announce(trainer.pipeline, device)
    if not before:
        with suppress(OSError):  # the folder of a run that was started is not empty, and stays
            trainer.folder.rmdir()
    return 0


def show_messages() -> None:
    """Prints the log messages of this library, and only warnings of others."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "datasets", "huggingface_hub", "timm", "matplotlib", "PIL", "accelerate", "absl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def methods() -> int:
    from hf_condense.methods.measured import boards, described

    for name in list_methods():
        print(f"{name:<10}  {described(name):<34}  {METHODS[name].title}  {METHODS[name].paper}")
    print(
        f"\n▲ above random real images, = no different, ▼ below: columns of this library's boards ({', '.join(boards())}; "
        "small\nnetworks). `hf-condense run --method NAME --help` lists settings; the guide is in recipes/README.md."
    )
    return 0


def inspect(dataset: str, revision: str | None, as_json: bool) -> int:
    from hf_condense.hub.inspection import inspect_folder, report

    facts = inspect_folder(dataset, revision)
    print(json.dumps(facts, indent=2) if as_json else report(facts))
    return 0 if facts["holds"] else 1


def push(run_folder: str, repo_id: str, **options) -> int:
    show_messages()
    from hf_condense.hub.push import push

    print(push(run_folder, repo_id, **options).text())
    return 0


def reproduce(dataset: str, output_dir: str | None, revision: str | None, **own: str | None) -> int:
    show_messages()
    from hf_condense.reproduction import reproduce

    places = {name.removeprefix("own_"): place for name, place in own.items() if place is not None}
    found = reproduce(dataset, output_dir, revision, **places)
    print(found.text())
    return 0 if found.holds else 1


def run_again(dataset: str | os.PathLike) -> Any:
    """Runs the recorded recipe of a set's folder again; what it found."""
    from hf_condense.reproduction import reproduce

    return reproduce(dataset)


def import_set(**given: str | None) -> int:
    from hf_condense.hub.importing import import_set

    print(f"written to {import_set(**given)}; `hf-condense inspect` shows it")
    return 0


def export_set(**given: Any) -> int:
    from hf_condense.hub.export import export

    print(f"written to {export(**given)}; origin.json in it says what it is")
    return 0


def draw(**given: Any) -> int:
    show_messages()
    from hf_condense.pictures import picture

    for path in picture(**given):
        print(f"drawn: {path} and {path.with_suffix('.pdf').name}")
    return 0


def recipe(method: str) -> None:
    """What `recipes/<method>.py` runs: all stages of one method with the flags of the command line."""
    sys.exit(main(["run", *sys.argv[1:]], only=method))


if __name__ == "__main__":
    sys.exit(main())
