"""From defaults, preset, YAML file and flags to one resolved configuration, each value knowing where it came from."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from hf_condense.config import (
    SECTIONS,
    DataSettings,
    EvaluationSettings,
    LabelSettings,
    RunSettings,
    SqueezeSettings,
    WeakPoolSettings,
    check,
    check_pool,
    nearest,
    setting_fields,
)
from hf_condense.data.names import KNOWN, canonical_name
from hf_condense.errors import ConfigError
from hf_condense.files import write_text
from hf_condense.methods import FALLBACK_PRESETS, method_class, sections_of

RENAMED = {"patience_top1": "min_top1_over_chance", "prune": "keep_every"}  # settings of earlier versions
QUICK_PRESET, QUICK_CLASSES, QUICK_SIDE = "digits", 10, 16  # the scale of `--quick`
SOURCES = ("published", "official script", "third party", "ours")


@dataclass(frozen=True)
class Preset:
    """Settings for one method on one dataset, from `presets/<method>/<dataset>.yaml`.

    Args:
        name: `<method>/<dataset>`.
        classes, image_size: of the dataset it was made for, so that the nearest can be found for other data.
        aims_at: IPC -> the published row it aims at, in words.
        values: setting -> value.
        sources: setting -> published | official script | third party | ours.
    """

    name: str
    classes: int
    image_size: int
    aims_at: dict[int, str]
    values: dict[str, Any]
    sources: dict[str, str]


@dataclass(frozen=True)
class Config:
    """Every setting of a run, resolved. `came_from` names the origin of each: default, preset, file, flag or quick."""

    run: RunSettings
    data: DataSettings
    squeeze: SqueezeSettings
    weak: WeakPoolSettings
    labels: LabelSettings
    evaluation: EvaluationSettings
    method: Any
    preset: str | None
    came_from: dict[str, str]

    def __post_init__(self) -> None:
        check_pool(self.squeeze, self.weak)

    def sections(self) -> dict[str, dict[str, Any]]:
        """Section -> setting -> value, as plain data."""
        names = ("run", "data", "squeeze", "weak", "labels", "evaluation", "method")
        return {name: asdict(getattr(self, name)) for name in names}

    def save(self, path: Path) -> None:
        """Writes `config.yaml`; `--config` reads it back."""
        flat = {k: list(v) if isinstance(v, tuple) else v for s in self.sections().values() for k, v in s.items()}
        once = ("overwrite", "push_to_hub", "push_models")  # said for one start, never for the next
        for name in once:
            del flat[name]
        head = f"# preset: {self.preset}\n# where values came from: " + ", ".join(
            f"{k} ({v})" for k, v in sorted(self.came_from.items()) if v != "default" and k not in once
        )
        text = head + "\n" + yaml.safe_dump(flat, sort_keys=False)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)

    def change(self, section: str, **values: Any) -> Config:
        """A copy with some settings of a section changed (checked like the first time)."""
        return replace(self, **{section: replace(getattr(self, section), **values)})

    def change_method(self, settings: Any) -> Config:
        """A copy with other settings of the method, each changed one chosen for the network."""
        before = asdict(self.method)
        chosen = {name: "network" for name, value in asdict(settings).items() if value != before[name]}
        return replace(self, method=settings, came_from={**self.came_from, **chosen})


def preset_names(method: str) -> list[str]:
    """Datasets (with `-ipcN` where it differs) for which presets of a method exist."""
    folder = resources.files("hf_condense") / "presets" / method
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir()) if folder.is_dir() else []


def load_preset(method: str, dataset: str, ipc: int, variant: str) -> Preset:
    """Reads a preset; `<dataset>-ipcN.yaml` goes over `<dataset>.yaml`, `official` values over the paper's.

    `extends: <method>/<dataset>` in a file takes data, pool, label and student settings from that preset.

    Raises:
        ConfigError: there is no such preset, or one of its values does not say where it comes from.
    """
    names = preset_names(method)
    check(dataset in names, "preset", f"{method}/{dataset}", ", ".join(names), nearest(dataset, names))
    folder = resources.files("hf_condense") / "presets" / method
    files = [f"{dataset}.yaml"] + [f"{dataset}-ipc{ipc}.yaml"] * (f"{dataset}-ipc{ipc}" in names)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    head: dict[str, Any] = {}
    for file in files:
        content = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
        head = {**content, **head}
        if "extends" in content:  # the data, pool, labels and students of another method's preset, not its method
            other = load_preset(*content["extends"].split("/", 1), ipc, variant)
            shared = set(setting_fields(SECTIONS))
            if "base_model" in content["settings"]:  # roles of the other pool mean nothing in this one
                shared -= {"observers", "teachers"}
            values.update({k: v for k, v in other.values.items() if k in shared})
            sources.update({k: v for k, v in other.sources.items() if k in shared})
            head = {"classes": other.classes, "image_size": other.image_size, **head}
        for name, entry in content["settings"].items():
            source = entry.get("source")
            check(source in SOURCES, f"{file}:{name}", source, ", ".join(SOURCES), "say where the value comes from")
            official = variant == "official" and "official" in entry
            values[name] = entry["official"] if official else entry["value"]
            sources[name] = "official script" if official else source
    return Preset(
        f"{method}/{files[-1].removesuffix('.yaml')}",
        head["classes"],
        head["image_size"],
        {int(k): v for k, v in head.get("aims_at", {}).items()},
        values,
        sources,
    )


def nearest_preset(method: str, classes: int, image_size: int) -> str:
    """The dataset whose preset is nearest by number of classes and resolution (both on a log scale)."""
    from math import log

    def distance(name: str) -> float:
        preset = load_preset(method, name, 0, "paper")
        return 2 * abs(log(preset.image_size / image_size)) + abs(log(preset.classes / classes))

    return min((n for n in preset_names(method) if "-ipc" not in n), key=distance)


def convert(cls: type, name: str, raw: Any) -> Any:
    """A YAML or command-line value as the type of setting `name` of `cls`. Raises ConfigError when it does not fit."""
    hint = get_type_hints(cls)[name]
    options = [o for o in get_args(hint) if o is not type(None)] if type(None) in get_args(hint) else [hint]
    optional = type(None) in get_args(hint)
    if raw is None or (optional and isinstance(raw, str) and raw.lower() == "none"):
        check(optional, name, raw, "a value", "leave it out to get the default")
        return None
    target = options[0]
    origin = get_origin(target)
    try:
        if origin is Literal:
            return next((o for o in get_args(target) if str(o) == str(raw)), raw)
        if origin is tuple:
            parts = (
                next(csv.reader([raw], skipinitialspace=True))
                if isinstance(raw, str)
                else list(raw)
                if isinstance(raw, (list, tuple))
                else [raw]
            )
            of = get_args(target)[0]
            return tuple(_number(of, p.strip() if isinstance(p, str) else p) for p in parts if p != "")
        if target is bool:
            if isinstance(raw, bool):
                return raw
            return {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}[str(raw).lower()]
        value = _number(target, raw)
    except (ValueError, TypeError, KeyError, csv.Error):
        kind = getattr(target, "__name__", str(target))
        step = {
            "bool": f"write --{name} true or --{name} false",
            "tuple": f"write --{name} with commas between its values",
        }.get(kind, f"write --{name} with a {kind}")
        raise ConfigError(name, raw, f"a value of type {kind}", step) from None
    check(target is not float or math.isfinite(value), name, raw, "a finite number")
    return value


def _number(of: type, raw: Any) -> Any:
    """`raw` as `of`. Raises ValueError where a whole number is wanted and this is none."""
    if of is int and isinstance(raw, float) and not raw.is_integer():
        raise ValueError
    return of(raw)


def read_yaml(path: str) -> dict[str, Any]:
    """Settings from a YAML file (flat, or in sections as they are listed in the documentation)."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError("config", path, "a YAML file that exists", "check the path") from None
    except OSError as error:
        raise ConfigError("config", path, f"a file that can be read ({error.strerror})", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("config", path, f"YAML ({error})", "mend the file") from None
    check(isinstance(content, dict), "config", path, "setting: value lines", "mend the file")
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    for name in flat:
        check(isinstance(name, str), "config", path, f"setting: value lines; {name!r} names none", "mend the file")
    return flat


def resolve(flags: dict[str, Any], facts: Callable[[DataSettings], tuple[int, int]]) -> Config:
    """Builds the configuration: defaults < preset < --config file < flags, then what --quick shortens.

    Args:
        flags: what the person set by name; `config` names a YAML file.
        facts: number of classes and image side of a dataset that no preset is named for (asked only then).

    Raises:
        ConfigError: an unknown name, or a value that is not allowed.
    """
    flags = dict(flags)
    file = read_yaml(flags.pop("config")) if flags.get("config") else {}
    flags.pop("config", None)
    said = {**{k: (v, "file") for k, v in file.items()}, **{k: (v, "flag") for k, v in flags.items()}}
    method, base = said.get("method", ("random", ""))[0], said.get("base_method", (None, ""))[0]
    sections = sections_of(method, base)
    known = setting_fields(sections)
    for name in said:
        check(
            name not in RENAMED, name, said[name][0], f"{RENAMED.get(name)}, as it is now called", "use the new name"
        )
        check(name in known, name, said[name][0], f"settings of {method} runs", nearest(name, list(known)))

    def build(values: dict[str, tuple[Any, str]]) -> dict[str, Any]:
        chosen: dict[str, dict[str, Any]] = {section: {} for section in sections}
        for name, (raw, _) in values.items():
            section, f = known[name]
            chosen[section][name] = convert(sections[section], f.name, raw)
        return {section: cls(**chosen[section]) for section, cls in sections.items()}

    def shortened(values: dict[str, tuple[Any, str]], spoken: dict[str, Any]) -> dict[str, tuple[Any, str]]:
        """`values` with what `--quick` makes of settings that were not given: whole numbers only become smaller."""
        found = dict(values)
        for name, (section, f) in known.items():
            if "quick" in f.metadata and name not in spoken:
                value, quick = values[name][0] if name in values else f.default, f.metadata["quick"]
                longer = type(quick) is not int or value is None or convert(sections[section], name, value) > quick
                found |= {name: (quick, "quick")} if longer else {}
        return found

    quick = "quick" in said and convert(RunSettings, "quick", said["quick"][0])
    spoken = flags if "quick" in flags else said  # a file that says quick means what it says beside it
    # what a person gives is checked beside what quick makes of the rest
    first = build(shortened(said, spoken) if quick else said)
    families = method_class(method).preset_families(first["method"], first["run"].ipc)
    preset = choose_preset(families, first["run"], first["data"], facts)
    values = {}
    if preset is not None:
        # a preset of EDC also serves methods that have none of their own: its pool and students fit the dataset
        own = preset.name.split("/")[0] in families
        fits = {k for k in preset.values if k in known and (own or known[k][0] != "method")}
        values = {k: (v, f"preset {preset.sources[k]}") for k, v in preset.values.items() if k in fits}
    if quick:
        values.update(_small_scale(families, preset, first["run"], known, values))
    if "base_model" in said:  # the preset's roles are those of its own pool
        values = {k: v for k, v in values.items() if k not in ("observers", "teachers")}
    values.update(said)
    if quick:
        values = shortened(values, spoken)
    came_from = {name: values[name][1] if name in values else "default" for name in known}
    return Config(**build(values), preset=preset.name if preset else None, came_from=came_from)


def _small_scale(
    families: dict[str, int],
    preset: Preset | None,
    run: RunSettings,
    known: dict[str, tuple[str, Any]],
    values: dict[str, tuple[Any, str]],
) -> dict[str, tuple[Any, str]]:
    """What `--quick` takes in place of a preset's pool, labels and students: those that its method has for digits; of the
    dataset the first classes and small images. Settings of `values` that the small scale does not have are deleted."""
    small = next((f for f in families if QUICK_PRESET in preset_names(f)), FALLBACK_PRESETS)
    shared = ("squeeze", "weak", "labels", "evaluation")
    for name in [name for name in values if known[name][0] in shared]:
        del values[name]
    taken = load_preset(small, QUICK_PRESET, run.ipc, run.variant).values
    found = {name: (value, "quick") for name, value in taken.items() if name in known and known[name][0] in shared}
    if preset is not None and preset.classes > QUICK_CLASSES:
        found["classes"] = (tuple(map(str, range(QUICK_CLASSES))), "quick")
    if preset is not None and preset.image_size > QUICK_SIDE:
        found["image_size"] = (QUICK_SIDE, "quick")
    return found


def choose_preset(families: dict[str, int], run: RunSettings, data: DataSettings, facts: Callable) -> Preset | None:
    """The preset of this dataset in the first family that has it, or else the nearest one without its data settings.

    For images that are no known dataset its protocol, which is as long as a table of a paper asks for, is left to the method,
    and its first student is enough: a run then fits one GPU.

    Args:
        families: folders of presets, the best first, and the IPC that each is asked for.
    """
    families = {f: ipc for f, ipc in families.items() if preset_names(f)} or {FALLBACK_PRESETS: run.ipc}
    dataset = canonical_name(data.dataset)
    family = next((f for f in families if dataset in preset_names(f)), None)
    if family is not None:
        return load_preset(family, dataset, families[family], run.variant)
    family = next(iter(families))
    classes, image_size = facts(data)
    preset = load_preset(family, nearest_preset(family, classes, image_size), families[family], run.variant)
    own, values = set(DataSettings.__dataclass_fields__), dict(preset.values)
    if dataset not in KNOWN:
        own.add("protocol")
        values |= {"students": values["students"][:1]} if "students" in values else {}
    return replace(preset, values={k: v for k, v in values.items() if k not in own})
