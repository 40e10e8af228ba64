"""Advice that is printed can be followed: every flag in a message exists, and values are as the command line takes them."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from hf_condense import cli
from hf_condense.cli import build_parser, refuse_rest
from hf_condense.config import choices, setting_fields
from hf_condense.errors import ConfigError
from hf_condense.methods import list_methods, sections_of
from hf_condense.trainer import CondensationTrainer

PACKAGE = Path(cli.__file__).parent
OF_OTHERS = {
    "local-dir",
    "error-unmatch",
    "porcelain",
    "help",
    "version",
    "show-toplevel",
    "nproc_per_node",
    "num_processes",
}  # of `hf`, git, argparse and launchers
ADVISED = re.compile(r"--[a-z_]+(?: [\w./-]+(?:,[\w./-]+)*)+")  # a flag and the values after it


@cache
def settings() -> dict[str, tuple]:
    """Every setting of a run, whatever the method: name -> (section, field, dataclass)."""
    found = {}
    for method in list_methods():
        for base in (None, "dm", "idc", "mtt"):
            sections = sections_of(method, base)
            found |= {n: (s, f, sections[s]) for n, (s, f) in setting_fields(sections).items()}
    return found


@cache
def other_flags() -> set[str]:
    """Flags of the commands that run no stage."""
    found, (commands,) = set(), (a for a in build_parser("run")._actions if isinstance(a, argparse._SubParsersAction))
    parsers = list(commands.choices.values())
    for parser in parsers:  # and those of commands that have commands of their own
        parsers += [
            p for a in parser._actions if isinstance(a, argparse._SubParsersAction) for p in a.choices.values()
        ]
        found |= {option.removeprefix("--") for action in parser._actions for option in action.option_strings}
    return found | {"kind", "size", "config"}


def texts(path: Path) -> Iterator[str]:
    """The strings of a file that are no docstrings; what an f-string fills in is `{}`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def mentions() -> list[tuple[str, str, str]]:
    """(file, flag without dashes, the text after it) of every flag in every message."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for text in texts(path):
            for match in re.finditer(r"(?<![\w-])--([a-z][\w-]*)", text):
                found.append((str(path.relative_to(PACKAGE)), match[1], text[match.end() :]))
    return found


def takes(name: str, word: str) -> bool:
    """Whether `word` alone is a value of this setting and no word of the sentence."""
    section, field, cls = settings()[name]
    allowed = choices(cls, name)
    if allowed:
        return word in [str(value) for value in allowed]
    if name == "regimes":
        return word in ("hard", "stored", "online")
    kind = str(field.type)
    if kind.startswith("bool"):
        return word in ("true", "false")
    return bool(re.fullmatch(r"-?[\d.]+(e-?\d+)?", word)) and ("int" in kind or "float" in kind)


def test_every_flag_in_a_message_is_one_of_the_command_line():
    found = mentions()
    unknown = {(p, f) for p, f, _ in found if f not in {*settings(), *other_flags(), *OF_OTHERS}}
    assert not unknown and len(found) > 80


def test_values_in_messages_are_written_as_the_command_line_takes_them():
    """Several values of one setting have commas between them; a value that a sentence ends with is an allowed one."""
    wrong, seen = [], 0
    for place, flag, rest in mentions():
        if flag not in settings():
            continue
        words = re.match(r"((?: |=)[\w./,-]*[\w./])*", rest)[0].replace("=", " ").split()
        values = [w for w in words[:2] if all(takes(flag, part) for part in w.split(","))]
        seen += bool(words and values[:1] == words[:1])
        if len(values) == 2 and words[:2] == values:
            wrong.append(f"{place}: --{flag} {' '.join(values)}")
        section, _, cls = settings()[flag]
        ends = len(words) == 1 and re.match(rf" {re.escape(words[0])}([,;.:)]|$)", rest)
        if ends and choices(cls, flag) and not takes(flag, words[0]):
            wrong.append(f"{place}: --{flag} {words[0]}")
    assert not wrong and seen >= 8


TINY = {
    "dataset": "digits", "classes": "0,1,2,3", "max_per_class": 12, "max_test": 40, "base_model": "convnet_d1",
    "protocol": "small", "student_seeds": 1, "students": "convnet_d1", "threads": 1, "precision": "fp32", "ipc": 2,
}  # fmt: skip


def alternatives(step: str) -> list[list[str]]:
    """The flags with values of a next step, a list for each way that it names."""
    found = []
    for part in re.split(r",? or |, ", step):
        words = [word for phrase in ADVISED.findall(part) for word in phrase.split()]
        found += [words] if words else []
    return found


NO_SETTINGS = ("command", "run_folder", "method", "help", "help_all", "dry_run", "device")


def read(method: str, arguments: list[str]) -> dict:
    """What the command line makes of flags, where it does not refuse them."""
    found, rest = build_parser("run", method).parse_known_args(["run", "--method", method, *arguments])
    refuse_rest(rest, method, None)
    given = {name: value for name, value in vars(found).items() if name not in NO_SETTINGS}
    assert found.run_folder is None, f"a value that the command line takes for a folder: {found.run_folder}"
    return given


@pytest.mark.parametrize(
    "method, wrong, ways",
    [
        ("pdd", {"base_method": "dm", "stages": 2, "regimes": "stored,hard"}, [["--regimes", "hard,online"]]),
        ("dm", {"regimes": "stored", "protocol": "dsa"}, [["--regimes", "hard"]]),
        ("dm", {"regimes": "hard,stored", "store": "none"}, [["--store", "full"], ["--regimes", "hard"]]),
        ("pdd", {"base_method": "dm", "stages": 2, "ipc": 3}, [["--ipc", "4"]]),
        ("sre2l", {"curriculum": "cosine", "crop_min": "none"}, [["--curriculum", "none"]]),
        ("random", {"quick": "maybe"}, [["--quick", "true"], ["--quick", "false"]]),
    ],
)  # fmt: skip
def test_what_a_refusal_advises_is_taken(method, wrong, ways, tmp_path):
    with pytest.raises(ConfigError) as refused:
        CondensationTrainer(method, output_dir=str(tmp_path / "run"), **{**TINY, **wrong})
    assert alternatives(refused.value.next_step) == ways, refused.value
    for number, arguments in enumerate(ways):
        settings = {**TINY, **wrong, **read(method, arguments)}
        CondensationTrainer(method, output_dir=str(tmp_path / str(number)), **settings)
