"""The command line. Nothing heavy is imported before a command is known."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hf_condense.config import check, choices, nearest, setting_fields
from hf_condense.errors import CondensationError, ConfigError
from hf_condense.leaderboard import commands as leaderboards
from hf_condense.methods import METHODS, list_methods, sections_of

STAGES = {
    "run": "all stages: squeeze, condense, relabel, evaluate, write the dataset",
    "squeeze": "train or load the pool of networks",
    "pool": "make weak models from one base model, and keep them for later runs",
    "condense": "up to the synthetic images",
    "relabel": "up to the soft labels",
    "evaluate": "up to the scores",
}


LONGEST_DEFAULT = 24  # characters; a longer one says less than it takes away
COMMAS = "check the path; several values of one setting are written with commas: --regimes hard,stored"


def build_parser(
    command: str | None = None, method: str | None = None, base_method: str | None = None
) -> argparse.ArgumentParser:
    """The parser; flags of one command (and of one method) only when they are asked for."""
    parser = argparse.ArgumentParser(
        prog="hf-condense", allow_abbrev=False,
        description="Dataset condensation: from an image dataset to a small one that trains almost as well.",
        epilog="Run the same command again to resume. `hf-condense run --method NAME --help` lists a method's settings.",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in STAGES.items():
        sub = commands.add_parser(name, help=help_text, allow_abbrev=False, description=help_text)
        if name == command:
            add_settings(sub, method, base_method)
            sub.epilog = "A preset of the dataset goes over defaults."
            if name == "pool":
                sub.epilog += " --kind and --size are short for --pool_kind and --pool_size."
    inspect = commands.add_parser("inspect", help="what a distilled dataset is, where it came from, what it needs")
    inspect.add_argument("dataset", help="folder or Hub id of a distilled dataset, or a run folder")
    inspect.add_argument("--revision", help="branch, tag or commit of a Hub id")
    inspect.add_argument("--json", action="store_true", dest="as_json", help="machine-readable")
    push = commands.add_parser("push", help="publish the dataset of a finished run on the Hub", allow_abbrev=False)
    push.add_argument("run_folder", help="run folder, or a folder with a distilled dataset")
    push.add_argument("repo_id", metavar="REPO", help="owner/name of the dataset repository")
    push.add_argument("--private", action="store_true", default=None, help="make it private")
    push.add_argument("--public", action="store_true", help="publish openly, whatever the terms of the source")
    push.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    push.add_argument("--revision", help="branch to push to")
    push.add_argument("--dry_run", action="store_true", help="only say what would go up, and its size")
    push.add_argument("--push_models", action="store_true", help="send the run's networks too, to <REPO>-<model>")
    again = commands.add_parser(
        "reproduce", help="run the recorded recipe again and say where the result differs", allow_abbrev=False,
        description="Exit code 1 says that something differs.",
    )  # fmt: skip
    again.add_argument("dataset", help="folder or Hub id of a distilled dataset, or a run folder")
    again.add_argument("--output_dir", help="run folder; runs/reproduce-<name> where not said")
    again.add_argument("--revision", help="branch, tag or commit of a Hub id")
    for name in ("dataset", "base_model", "students", "pool_folder", "expert_folder"):  # no record names a folder
        again.add_argument(
            f"--{name}", dest=f"own_{name}", help=f"where the recorded {name} lies here, if it was a folder"
        )
    take = commands.add_parser("import", help="take over a distilled set that others published", allow_abbrev=False)
    take.add_argument("kind", choices=("folder", "parquet", "tensors"), help="images by class, a table, or torch.save")
    take.add_argument("path", help="file or folder; for parquet also a Hub id")
    take.add_argument("--output_dir", required=True, help="the folder that it becomes")
    take.add_argument("--dataset", required=True, help="what it was made from: short name, Hub id or folder")
    take.add_argument("--method", choices=list_methods(), help="method it was made with, for the card")
    take.add_argument("--soft_labels", help="official folder epoch_*/batch_*.tar with labels of these images")
    take.add_argument("--class_names", help="file with the dataset's class names, one a line; it is then not opened")
    take.add_argument(
        "--pixels", choices=("normalised", "unit"), default="normalised",
        help="what tensors hold: pixels normalised with the dataset's mean and std, or in [0, 1]",
    )  # fmt: skip
    take.add_argument("--revision", help="branch, tag or commit of a Hub id")
    commands.add_parser("methods", help="list the methods")
    leaderboards.add_commands(commands)
    return parser


def add_settings(parser: argparse.ArgumentParser, method: str | None, base_method: str | None) -> None:
    """One flag a setting; what is not given stays absent, so that presets and files can speak."""
    parser.add_argument("run_folder", nargs="?", help="go on with this run folder and its config.yaml")
    parser.add_argument("--config", help="YAML file with settings; flags go over it", default=argparse.SUPPRESS)
    sections = sections_of(method, base_method)
    groups = {
        s: parser.add_argument_group(f"{s} settings" if s != "method" else f"{method} settings") for s in sections
    }
    for name, (section, f) in setting_fields(sections).items():
        allowed = choices(sections[section], name)
        help_text = f.metadata.get("help", "")
        if allowed:
            help_text += f" ({' | '.join(str(a) for a in allowed if a is not None)})"
        default = ",".join(map(str, f.default)) if isinstance(f.default, tuple) else str(f.default)
        if f.default is not None and 0 < len(default) <= LONGEST_DEFAULT:
            help_text += f" (default {default.lower() if isinstance(f.default, bool) else default})"
        optional_value = {"nargs": "?", "const": "true"} if f.type in ("bool", "bool | None") else {}
        groups[section].add_argument(
            f"--{name}",
            default=argparse.SUPPRESS,
            metavar="true|false" if optional_value else "a,b,c" if f.type.startswith("tuple") else "VALUE",
            help=help_text.replace("%", "%%"),
            **optional_value,
        )


def refuse_rest(rest: list[str], method: str | None, base_method: str | None) -> None:
    """Raises ConfigError for arguments that the parser does not know, with the one that was probably meant."""
    if not rest:
        return
    flag = next((a.partition("=")[0] for a in rest if a.startswith("--")), None)
    check(flag is not None, "arguments", rest[0], "one run folder", COMMAS)
    name = flag.removeprefix("--")
    own = [m for m in list_methods() if name in setting_fields(sections_of(m, None))] if method is None else []
    step = f"it is a setting of a method ({', '.join(own)}): say --method"
    check(not own, "arguments", flag, "settings of a run", step)
    known = list(setting_fields(sections_of(method, base_method)))
    raise ConfigError("arguments", flag, f"settings of {method or 'a run'}", nearest(name, known))


def short_names(arguments: list[str]) -> list[str]:
    """The arguments of `pool` with its settings' short names, --kind and --size, written out."""
    full = {"--kind": "--pool_kind", "--size": "--pool_size"}
    return [full.get(name, name) + equals + value for name, equals, value in (a.partition("=") for a in arguments)]


def pool_run(given: dict) -> dict:
    """What `pool` takes where nobody said it: pruned weak models, and a run folder that says so."""
    from hf_condense.resolve import read_yaml

    said = {**(read_yaml(given["config"]) if "config" in given else {}), **given}
    kind, dataset = said.get("pool_kind", "none"), said.get("dataset", "digits")
    kind = "post" if kind == "none" else kind
    folder = said.get("output_dir") or os.path.join(
        "runs", f"pool-{kind}-{os.path.basename(os.path.normpath(dataset))}"
    )
    return {**given, "pool_kind": kind, "output_dir": folder}


def named(setting: str, arguments: Sequence[str]) -> str | None:
    """What the arguments, a --config file or a run folder say of a setting that adds flags of its own."""
    from hf_condense.resolve import read_yaml

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
    right (message on stderr); 130: stopped.
    """
    arguments = [
        "--" + a[2:].split("=", 1)[0].replace("-", "_") + a[len(a.split("=", 1)[0]) :] if a.startswith("--") else a
        for a in (sys.argv[1:] if arguments is None else arguments)
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
            given = vars(found)
        else:
            given = vars(parser.parse_args(arguments))
        command = given.pop("command")
        if command in leaderboards.COMMANDS:
            show_messages()
            return leaderboards.run(command, given, run_again)
        others = {"methods": methods, "inspect": inspect, "push": push, "reproduce": reproduce, "import": import_set}
        return others[command](**given) if command in others else run(command, given)
    except CondensationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped. Run the same command again to resume: what is done is kept.", file=sys.stderr)
        return 130


def run(command: str, given: dict) -> int:
    """Runs the stages up to `command`."""
    show_messages()
    from hf_condense.trainer import CondensationTrainer

    folder = given.pop("run_folder", None)
    if folder is not None:
        kept = os.path.join(folder, "config.yaml")
        there = "config" in given or os.path.isfile(kept)
        check(there, "run folder", folder, "a folder with the config.yaml of a run that was started", COMMAS)
        given = {"config": kept, "output_dir": folder, **given}
    if command == "pool":
        given = pool_run(given)
    trainer = CondensationTrainer(**given)
    getattr(trainer, command)()
    return 0


def show_messages() -> None:
    """What this library tells goes to the terminal; what others tell only where it is a warning."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "datasets", "huggingface_hub", "timm", "matplotlib", "PIL", "accelerate", "absl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def methods() -> int:
    for name in list_methods():
        print(f"{name:<12} {METHODS[name].title}  {METHODS[name].paper}")
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


def recipe(method: str) -> None:
    """What `recipes/<method>.py` runs: all stages of one method with the flags of the command line."""
    sys.exit(main(["run", *sys.argv[1:]], only=method))


if __name__ == "__main__":
    sys.exit(main())
