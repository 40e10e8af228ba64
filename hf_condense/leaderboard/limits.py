"""What strangers wrote, read with limits: strict JSON, and dataclasses built from it by their types."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from hf_condense.errors import ArtefactError, CondensationError

T = TypeVar("T")

MAX_BYTES = 256_000
MAX_DEPTH = 8
MAX_NUMBERS = 2_000
MAX_STRING = 300
MAX_DIGITS = 15  # of a whole number: exact in every reader of JSON
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_URL = re.compile(r"https://[a-z0-9.-]+(?::\d+)?(?:/[\w\-./~%?#&=+,;:@!()]*)?", re.IGNORECASE | re.ASCII)


def refuse(field: str, value: Any, allowed: str, next_step: str = "correct the file and submit it again") -> NoReturn:
    """Raises ArtefactError; a long value is cut, so that a message stays one line."""
    shown = value if isinstance(value, (int, float, NoneType)) else ascii(value)[:80]
    raise ArtefactError(field, shown, allowed, next_step)


def need(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Refuses unless `condition` holds."""
    if not condition:
        refuse(field, value, allowed)


def read_limited(path: Path, limit: int = MAX_BYTES) -> Any:
    """The JSON of a file, of which no more than `limit` bytes are read. See `parse`.

    Raises:
        ArtefactError: the file is missing, too large, or JSON of a kind that is not allowed.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        refuse(str(path), error.strerror or str(error), "a file that can be read", "check the path")
    return parse(data, str(path), limit)


def parse(data: bytes, name: str, limit: int = MAX_BYTES) -> Any:
    """Strict JSON. Size and depth are checked before anything is parsed.

    Args:
        name: of the file, for messages.

    Raises:
        ArtefactError: above the limits of size, depth, numbers or digits; not UTF-8; NaN, Infinity or duplicate keys.
    """
    need(len(data) <= limit, f"{name}: size", f"over {limit} bytes", f"at most {limit} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(f"{name}: encoding", str(error), "UTF-8")
    depth = _depth(text)
    need(depth <= MAX_DEPTH, f"{name}: depth", depth, f"at most {MAX_DEPTH} levels")
    numbers = 0

    def number(spelled: str) -> int | float:
        nonlocal numbers
        numbers += 1
        need(numbers <= MAX_NUMBERS, f"{name}: numbers", f"over {MAX_NUMBERS}", f"at most {MAX_NUMBERS} numbers")
        whole = spelled.lstrip("-").isdigit()
        need(not whole or len(spelled) <= MAX_DIGITS, f"{name}: number", spelled, f"at most {MAX_DIGITS} digits")
        value = int(spelled) if whole else float(spelled)
        need(math.isfinite(value), f"{name}: number", spelled, "a finite number")
        return value

    def constant(spelled: str) -> NoReturn:
        refuse(f"{name}: number", spelled, "a finite number (JSON has no NaN and no Infinity)")

    def distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            need(key not in found, f"{name}: key", key, "each key once in an object")
            found[key] = value
        return found

    try:
        return json.loads(
            text, parse_int=number, parse_float=number, parse_constant=constant, object_pairs_hook=distinct
        )
    except (json.JSONDecodeError, RecursionError) as error:
        refuse(f"{name}: JSON", str(error), "one JSON object")


def _depth(text: str) -> int:
    """Deepest nesting, by counting brackets outside of strings."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", _STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def clean_text(value: str, field: str) -> None:
    """Refuses strings that are long, not in NFC, or hold control, bidirectional or unassigned characters."""
    need(len(value) <= MAX_STRING, field, value, f"at most {MAX_STRING} characters")
    for character in value:
        kind = unicodedata.category(character)
        need(
            kind[0] != "C" and kind not in ("Zl", "Zp"), field, value,
            f"text without control or bidirectional characters (U+{ord(character):04X})",
        )  # fmt: skip
    need(unicodedata.is_normalized("NFC", value), field, value, "text in Unicode form NFC")


def clean_url(value: str, field: str) -> None:
    """Refuses everything but a plain https address."""
    need(_URL.fullmatch(value) is not None, field, value, "an https:// address")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def build(kind: type[T], value: Any, field: str) -> T:
    """A value of the annotated type `kind` from parsed JSON: dataclasses, tuples, dicts, unions with None, literals.

    Unknown and missing fields are refused, whole numbers are not written as decimals, and every string is clean.

    Args:
        field: where the value stands, for messages.

    Raises:
        ArtefactError: anything else than the type asks for; `field` names the place.
    """
    if is_dataclass(kind):
        return _build_dataclass(kind, value, field)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        need(any(value is a or (type(value) is type(a) and value == a) for a in inner), field, value,
             " or ".join(map(repr, inner)))  # fmt: skip
        return value
    if origin is tuple:
        need(isinstance(value, list), field, value, "a list")
        return tuple(build(inner[0], entry, f"{field}[{i}]") for i, entry in enumerate(value))
    if origin is dict:
        need(isinstance(value, dict), field, value, "an object")
        for key in value:
            clean_text(key, f"{field} key")
        return {key: build(inner[1], entry, f"{field}.{key}") for key, entry in value.items()}
    if NoneType in inner:
        return None if value is None else build(next(a for a in inner if a is not NoneType), value, field)
    if kind is Any:
        return _build_free(value, field)
    if kind is float:
        need(type(value) in (int, float), field, value, "a number")
        return float(value)
    names = {int: "a whole number", str: "a string", bool: "true or false"}
    need(type(value) is kind, field, value, names[kind])
    if kind is str:
        clean_text(value, field)
    return value


def _build_dataclass(kind: type[T], value: Any, field: str) -> T:
    need(isinstance(value, dict), field, value, "an object")
    known = {f.name for f in fields(kind)}
    for name in value:
        need(name in known, f"{field}.{name}" if name.isidentifier() else f"{field} key", name,
             f"one of {', '.join(sorted(known))}")  # fmt: skip
    for name in sorted(known - value.keys()):
        refuse(f"{field}.{name}", "missing", "a value for every field")
    built = {name: build(_hints(kind)[name], value[name], f"{field}.{name}") for name in value}
    try:
        return kind(**built)
    except CondensationError as error:
        refuse(f"{field}.{error.field}", error.value, error.allowed)


def _build_free(value: Any, field: str) -> Any:
    """A value of free form: strings are clean, numbers were checked by `parse`."""
    if isinstance(value, str):
        clean_text(value, field)
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            _build_free(entry, f"{field}[{i}]")
    elif isinstance(value, dict):
        for key, entry in value.items():
            clean_text(key, f"{field} key")
            _build_free(entry, f"{field}.{key}")
    return value
