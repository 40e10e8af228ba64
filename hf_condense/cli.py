"""The command line. Nothing heavy is imported before a command is known."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from hf_condense.config import SECTIONS, choices, setting_fields
from hf_condense.errors import CondensationError
from hf_condense.methods import METHODS, list_methods, method_class

STAGES = {
    "run": "all stages: squeeze, condense, relabel, evaluate, write the dataset",
    "squeeze": "train or load the pool of networks",
    "pool": "make weak models from one base model, and keep them for later runs",
    "condense": "up to the synthetic images",
    "relabel": "up to the soft labels",
    "evaluate": "up to the scores",
}


def build_parser(command: str | None = None, method: str | None = None) -> argparse.ArgumentParser:
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
            add_settings(sub, method)
            if name == "pool":
                sub.epilog = "--kind and --size are short for --pool_kind and --pool_size."
    inspect = commands.add_parser("inspect", help="what a distilled dataset is, where it came from, what it needs")
    inspect.add_argument("dataset", help="folder or Hub id of a distilled dataset, or a run folder")
    inspect.add_argument("--json", action="store_true", help="machine-readable")
    commands.add_parser("methods", help="list the methods")
    return parser


def add_settings(parser: argparse.ArgumentParser, method: str | None) -> None:
    """One flag a setting; what is not given stays absent, so that presets and files can speak."""
    parser.add_argument("run_folder", nargs="?", help="go on with this run folder and its config.yaml")
    parser.add_argument("--config", help="YAML file with settings; flags go over it", default=argparse.SUPPRESS)
    sections = {**SECTIONS, **({"method": method_class(method).Settings} if method else {})}
    groups = {
        s: parser.add_argument_group(f"{s} settings" if s != "method" else f"{method} settings") for s in sections
    }
    for name, (section, f) in setting_fields(sections).items():
        allowed = choices(sections[section], name)
        help_text = f.metadata.get("help", "")
        if allowed:
            help_text += f" ({' | '.join(str(a) for a in allowed if a is not None)})"
        optional_value = {"nargs": "?", "const": "true"} if f.type in ("bool", "bool | None") else {}
        groups[section].add_argument(
            f"--{name}",
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=help_text.replace("%", "%%"),
            **optional_value,
        )


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


def named_method(arguments: Sequence[str]) -> str | None:
    """The method that the arguments name, found before they are parsed, because it adds flags of its own."""
    for i, argument in enumerate(arguments):
        if argument == "--method" and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith("--method="):
            return argument.split("=", 1)[1]
    return None


def method_in_files(arguments: Sequence[str]) -> str | None:
    """The method that a --config file or a run folder names."""
    from hf_condense.resolve import read_yaml

    for i, argument in enumerate(arguments):
        if argument == "--config" and i + 1 < len(arguments):
            return read_yaml(arguments[i + 1]).get("method")
        if argument.startswith("--config="):
            return read_yaml(argument.split("=", 1)[1]).get("method")
    if len(arguments) > 1 and os.path.isfile(os.path.join(arguments[1], "config.yaml")):
        return read_yaml(os.path.join(arguments[1], "config.yaml")).get("method")
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 something a person can put right (message on stderr), 130 stopped."""
    arguments = [
        "--" + a[2:].split("=", 1)[0].replace("-", "_") + a[len(a.split("=", 1)[0]) :] if a.startswith("--") else a
        for a in (sys.argv[1:] if arguments is None else arguments)
    ]
    command = next((a for a in arguments if not a.startswith("-")), None)
    if command == "pool":
        arguments = short_names(arguments)
    try:
        method = (named_method(arguments) or method_in_files(arguments)) if command in STAGES else None
        given = vars(build_parser(command, method).parse_args(arguments))
        command = given.pop("command")
        if command == "methods":
            for name in list_methods():
                print(f"{name:<12} {METHODS[name].title}  {METHODS[name].paper}")
            return 0
        if command == "inspect":
            return inspect(given["dataset"], given["json"])
        return run(command, given)
    except CondensationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped. Run the same command again to resume: what is done is kept.", file=sys.stderr)
        return 130


def run(command: str, given: dict) -> int:
    """Runs the stages up to `command`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "datasets", "huggingface_hub", "timm", "matplotlib", "PIL", "accelerate", "absl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from hf_condense.trainer import CondensationTrainer

    folder = given.pop("run_folder", None)
    if folder is not None:
        given = {"config": os.path.join(folder, "config.yaml"), "output_dir": folder, **given}
    if command == "pool":
        given = pool_run(given)
    trainer = CondensationTrainer(**given)
    getattr(trainer, command)()
    return 0


def inspect(dataset: str, as_json: bool) -> int:
    from hf_condense.hub.inspection import inspect_folder, report

    facts = inspect_folder(dataset)
    print(json.dumps(facts, indent=2) if as_json else report(facts))
    return 0


def recipe(method: str) -> None:
    """What `recipes/<method>.py` runs: all stages of one method with the flags of the command line."""
    sys.exit(main(["run", "--method", method, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
