"""What `hf-condense COMMAND --help` shows: a screen of settings, with the values that a dataset's preset gives them."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import Field
from inspect import get_annotations
from typing import Any

import yaml

from hf_condense.cli_parser import STAGES
from hf_condense.config import choices, setting_fields
from hf_condense.errors import CondensationError
from hf_condense.methods import list_methods, sections_of

EVERYDAY = (
    "dataset",
    "ipc",
    "image_size",
    "base_model",
    "variant",
    "protocol",
    "students",
    "store",
    "seed",
    "output_dir",
    "overwrite",
    "quick",
    "push_to_hub",
)
SECTION = {"pool": "weak", "squeeze": "squeeze", "relabel": "labels", "evaluate": "evaluation"}  # shown beside those
LINES = 40  # of the short page
LONGEST = 18  # characters of a value, or of a list of choices
KINDS = {"int": "N", "float": "X", "bool": "true|false"}
PLACES = {"dataset": "NAME|FOLDER", "output_dir": "FOLDER", "push_to_hub": "OWNER/NAME"}
COMMON = {
    "config FILE": "YAML file with settings; flags take precedence over it",
    "dry_run": "print the resolved settings and the expected cost, and stop",
    "device NAME": "with --dry_run: the expected cost on h100, a100, 4090, l4, t4 or cpu",
    "help_all": "every setting, with its full description",
}


def help_page(
    command: str, method: str | None, base_method: str | None, given: dict[str, Any], everything: bool = False
) -> str:
    """The help of one of `STAGES`: at most `LINES` lines, or every setting.

    Args:
        given: the settings on the command line; with a dataset, a file or a run folder among them, and a method, the
            page shows what they resolve to.
    """
    sections = sections_of(method, base_method)
    known, resolved = setting_fields(sections), _Resolved(method, given)
    width = max(80, min(shutil.get_terminal_size((110, LINES)).columns, 119))
    chosen = SECTION.get(command, "method" if method else "")
    everyday = [name for name in EVERYDAY if known[name][0] != chosen]
    own = [name for name, (section, _) in known.items() if section == chosen]
    flag = f" --method {method}" if method else " --method NAME" if command not in ("pool", "squeeze") else ""
    lines = [f"usage: hf-condense {command}{flag} [--SETTING VALUE ...] [RUN_FOLDER]", f"  {STAGES[command]}"]
    lines += [f"  {resolved.note}"] * bool(resolved.note)
    if everything:
        groups = {f"{method} settings" if s == "method" else f"{s} settings": s for s in sections}
        groups = {title: [n for n, (at, _) in known.items() if at == section] for title, section in groups.items()}
        end = []
    else:
        end = [f"methods: {', '.join(list_methods())}"] if method is None else []
        room = LINES - len(lines) - len(COMMON) - len(everyday) - len(end) - 3  # titles of the groups
        own = sorted(own, key=lambda name: _distance(sections[chosen], name))
        shown = own[:room]
        title = f"{method if chosen == 'method' else chosen} settings"
        title += f" ({len(shown)} of {len(own)})" if len(shown) < len(own) else ""
        groups = {"everyday settings": everyday, title: shown}
    rows = {
        title: [_row(name, known[name][1], sections[known[name][0]], resolved) for name in names]
        for title, names in groups.items()
        if names
    }
    columns = [max(len(row[i]) for group in rows.values() for row in group) for i in (0, 1)]
    columns[0] = max(columns[0], *(len(name) + 4 for name in COMMON))
    for title, group in rows.items():
        lines += [f"{title}:"]
        for row in group:
            lines += _laid_out(row, columns, width, everything)
    lines += ["always:"]
    for name, text in COMMON.items():
        lines += _laid_out((f"--{name}", "", text), columns, width, everything)
    return "\n".join([*lines, *end])


def resolved_text(config) -> str:
    """Every setting with its value, as YAML that `--config` reads, and where the value comes from as a comment."""
    lines = [f"# preset: {config.preset}"]
    for section, values in config.sections().items():
        lines += [f"{section}:"] if values else []
        for name, value in values.items():
            value = list(value) if isinstance(value, tuple) else value
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
            origin = config.came_from[name]
            lines.append(
                f"  {name}: {text}" + (f"  # {_origin(origin, config.preset)}" if origin != "default" else "")
            )
    return "\n".join(lines)


def _origin(came_from: str, preset: str | None) -> str:
    """`preset edc/cifar10, published` for what `Config.came_from` calls `preset published`."""
    kind, _, source = came_from.partition(" ")
    return f"preset {preset}, {source}" if kind == "preset" else came_from


class _Resolved:
    """What the command line resolves to without opening a dataset, as far as that is known."""

    def __init__(self, method: str | None, given: dict[str, Any]) -> None:
        self.config, self.note = None, ""
        if method is None or not {"dataset", "config"} & set(given):
            return
        from hf_condense.run.resolve import resolve

        try:
            self.config = resolve({**given, "method": method}, self._facts)
        except _UnreadError:
            self.note = f"no preset is made for {given.get('dataset')!r}; --dry_run reads it and takes the nearest one"
            return
        except CondensationError as error:
            self.note = f"defaults are shown, because of an error: {error}"
            return
        self.note = f"values in brackets: their source in preset {self.config.preset}, or how they were given"

    def _facts(self, data) -> tuple[int, int]:
        raise _UnreadError

    def value(self, name: str, f: Field) -> str:
        """The value of a setting, with its source in brackets where it is no default."""
        if self.config is None:
            return _short(f.default) if name != "method" else ""
        origin = self.config.came_from[name].removeprefix("preset ")
        values = {k: v for section in self.config.sections().values() for k, v in section.items()}
        if origin == "default":
            return _short(values[name])
        return f"{_short(values[name]) or 'none'} [{origin}]"


class _UnreadError(Exception):
    """The dataset would have to be read."""


def _distance(settings: type, name: str) -> int:
    """How far up the classes that `settings` extends a field is declared; what is a method's own comes first."""
    return next(i for i, cls in enumerate(settings.__mro__) if name in get_annotations(cls))


def _short(value: Any) -> str:
    """A value as it is typed; nothing for None, the first entries of a long list."""
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        text = ",".join(map(str, value))
        return text if len(text) <= LONGEST else f"{value[0]},..."
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row(name: str, f: Field, section: type, resolved: _Resolved) -> tuple[str, str, str]:
    """Flag with what it takes, value, description."""
    kind = f.type.removesuffix(" | None")
    allowed = [str(a) for a in choices(section, name) or () if a is not None]
    help_text = f.metadata.get("help", "")
    if allowed and len("|".join(allowed)) <= LONGEST:
        takes = "|".join(allowed)
    elif allowed:
        takes, help_text = "CHOICE", f"{help_text} ({', '.join(allowed)})"
    elif kind.startswith("tuple"):
        of = KINDS.get(kind.removeprefix("tuple[").partition(",")[0], "NAME")
        takes = f"{of},..."
    else:
        takes = PLACES.get(name) or ("FOLDER" if name.endswith("_folder") else KINDS.get(kind, "NAME"))
    return f"--{name} {takes}", resolved.value(name, f), help_text


def _laid_out(row: tuple[str, str, str], columns: list[int], width: int, whole: bool) -> list[str]:
    """A row as lines; where not `whole` as one line that ends with the width."""
    head = f"  {row[0]:<{columns[0]}}  {row[1]:<{columns[1]}}  "
    room = max(20, width - len(head))
    text = textwrap.wrap(row[2], room, break_on_hyphens=False) or [""]
    if not whole:  # the first part of a sentence says the most
        text = [textwrap.shorten(row[2] if len(text) == 1 else row[2].split("; ")[0], room, placeholder=" ...")]
    return [(head + text[0]).rstrip(), *(" " * len(head) + line for line in text[1:])]
