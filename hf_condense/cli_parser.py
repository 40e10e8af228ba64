"""The flags of every command. Only those of the one command that was typed are built, and nothing heavy is imported."""

from __future__ import annotations

import argparse

import hf_condense
from hf_condense.config import check, nearest, setting_fields
from hf_condense.errors import ConfigError
from hf_condense.leaderboard.commands import add_commands
from hf_condense.methods import list_methods, sections_of

STAGES = {
    "run": "all stages: squeeze, condense, relabel, evaluate, write the dataset",
    "squeeze": "train or load the pool of networks",
    "pool": "make weak models from one base model, and keep them for later runs",
    "condense": "up to the synthetic images",
    "relabel": "up to the soft labels",
    "evaluate": "up to the scores",
}
ALONE = ("--help", "-h", "--help_all", "--dry_run")  # flags of those that take no value
COMMAS = "check the path; several values of one setting are written with commas: --regimes hard,stored"


def build_parser(
    command: str | None = None, method: str | None = None, base_method: str | None = None
) -> argparse.ArgumentParser:
    """The parser; the settings of a run (and of one method) only where `command` is one of `STAGES`."""
    parser = argparse.ArgumentParser(
        prog="hf-condense",
        allow_abbrev=False,
        description="Dataset condensation: from an image dataset to a small one that trains almost as well.",
        epilog="Run the same command again to resume. `hf-condense run --method NAME --help` lists a method's settings.",
    )
    parser.add_argument("--version", action="version", version=f"hf-condense {hf_condense.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in STAGES.items():
        sub = commands.add_parser(name, help=help_text, allow_abbrev=False, add_help=False)
        if name == command:
            _add_settings(sub, method, base_method)
    for add in (_add_inspect, _add_push, _add_reproduce, _add_import, _add_export, _add_picture):
        add(commands)
    commands.add_parser("methods", help="list the methods")
    add_commands(commands)
    return parser


def _add_settings(parser: argparse.ArgumentParser, method: str | None, base_method: str | None) -> None:
    """One flag a setting; what is not given stays absent, so that presets and files can fill it."""
    parser.add_argument("run_folder", nargs="?")
    parser.add_argument("--config", default=argparse.SUPPRESS)
    parser.add_argument(*ALONE[:2], action="store_true")
    for flag in ALONE[2:]:
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--device")
    for name, (_, f) in setting_fields(sections_of(method, base_method)).items():
        alone = {"nargs": "?", "const": "true"} if f.type in ("bool", "bool | None") else {}
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, **alone)


def _add_inspect(commands) -> None:
    inspect = commands.add_parser("inspect", help="what a distilled dataset is, where it came from, what it needs")
    inspect.add_argument("dataset", help="folder or Hub id of a distilled dataset, or a run folder")
    inspect.add_argument("--revision", help="branch, tag or commit of a Hub id")
    inspect.add_argument("--json", action="store_true", dest="as_json", help="machine-readable")


def _add_push(commands) -> None:
    push = commands.add_parser("push", help="publish the dataset of a finished run on the Hub", allow_abbrev=False)
    push.add_argument("run_folder", help="run folder, or a folder with a distilled dataset")
    push.add_argument("repo_id", metavar="REPO", help="owner/name of the dataset repository")
    push.add_argument("--private", action="store_true", default=None, help="make it private")
    push.add_argument("--public", action="store_true", help="publish openly, whatever the terms of the source")
    push.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    push.add_argument("--revision", help="branch to push to")
    push.add_argument("--dry_run", action="store_true", help="list what would be uploaded, with its size, and stop")
    push.add_argument("--push_models", action="store_true", help="upload the run's networks too, to <REPO>-<model>")


def _add_reproduce(commands) -> None:
    again = commands.add_parser(
        "reproduce",
        help="run the recorded recipe again and report where the result differs",
        allow_abbrev=False,
        description="The exit code is 1 where the result differs.",
    )
    again.add_argument("dataset", metavar="CONDENSED", help="folder or Hub id of a distilled dataset, or a run folder")
    again.add_argument("--output_dir", help="run folder; defaults to runs/reproduce-<name>")
    again.add_argument("--revision", help="branch, tag or commit of a Hub id")
    for name in ("dataset", "base_model", "students", "pool_folder", "expert_folder"):  # no record names a folder
        text = f"local copy of the recorded {name}, needed if it was a folder"
        again.add_argument(f"--{name}", dest=f"own_{name}", help=text)


def _add_import(commands) -> None:
    take = commands.add_parser("import", help="convert a distilled set that others published", allow_abbrev=False)
    take.add_argument("kind", choices=("folder", "parquet", "tensors"), help="images by class, a table, or torch.save")
    take.add_argument("path", help="file or folder; for parquet also a Hub id")
    take.add_argument("--output_dir", required=True, help="folder of the converted set")
    take.add_argument("--dataset", required=True, help="what it was made from: short name, Hub id or folder")
    take.add_argument("--method", choices=list_methods(), help="method it was made with, for the card")
    take.add_argument("--soft_labels", help="official folder epoch_*/batch_*.tar with labels of these images")
    take.add_argument("--class_names", help="file with the dataset's class names, one a line; it is then not opened")
    held = "what tensors hold: pixels normalised with the dataset's mean and std, or in [0, 1]"
    take.add_argument("--pixels", choices=("normalised", "unit"), default="normalised", help=held)
    take.add_argument("--revision", help="branch, tag or commit of a Hub id")


def _add_export(commands) -> None:
    give = commands.add_parser("export", help="write a set for programs that read no Parquet", allow_abbrev=False)
    give.add_argument("place", metavar="DATASET", help="folder or Hub id of a distilled dataset, or a run folder")
    give.add_argument("--to", required=True, choices=("imagefolder", "webdataset", "torch", "numpy"), help="the form")
    give.add_argument("--output_dir", required=True, help="folder that is not there yet")
    give.add_argument("--soft_labels", action="store_true", help="also the soft label of each image")
    give.add_argument("--revision", help="branch, tag or commit of a Hub id")


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


def _add_picture(commands) -> None:
    draw = commands.add_parser("picture", help="draw a set: images, accuracy for bytes, curves", allow_abbrev=False)
    draw.add_argument("place", metavar="DATASET", help="folder or Hub id of a distilled dataset, or a run folder")
    draw.add_argument("--output_dir", help="folder of the pictures; defaults to pictures, in a run folder its own")
    draw.add_argument("--dataset", help="where the source is, for the rows of real images")
    draw.add_argument("--revision", help="branch, tag or commit of a Hub id")
