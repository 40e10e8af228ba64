"""What strangers wrote, read with limits: strict JSON, and dataclasses built from it by their types."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
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
_NUMBERS = re.compile(r"-?\d[\d.eE+-]*")
_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
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
    bare = _STRINGS.sub("", text)
    depth = _depth(bare)
    need(depth <= MAX_DEPTH, f"{name}: depth", depth, f"at most {MAX_DEPTH} levels")
    numbers = _NUMBERS.findall(bare)
    need(len(numbers) <= MAX_NUMBERS, f"{name}: numbers", f"over {MAX_NUMBERS}", f"at most {MAX_NUMBERS} numbers")
    for spelled in numbers:
        if len(spelled) > MAX_DIGITS or "e" in spelled or "E" in spelled:
            whole = spelled.lstrip("-").isdigit()
            need(not whole or len(spelled) <= MAX_DIGITS, f"{name}: number", spelled, f"at most {MAX_DIGITS} digits")
            need(not math.isinf(_as_float(spelled)), f"{name}: number", spelled, "a finite number")

    def constant(spelled: str) -> NoReturn:
        refuse(f"{name}: number", spelled, "a finite number (JSON has no NaN and no Infinity)")

    def distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            need(key not in found, f"{name}: key", key, "each key once in an object")
            found[key] = value
        return found

    try:
        return json.loads(text, parse_constant=constant, object_pairs_hook=distinct)
    except (json.JSONDecodeError, RecursionError) as error:
        refuse(f"{name}: JSON", str(error), "one JSON object")


def _depth(bare: str) -> int:
    """Deepest nesting of JSON without its strings, by counting brackets."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", bare):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _as_float(spelled: str) -> float:
    try:
        return float(spelled)
    except ValueError:  # not a number either: the parser says where
        return 0.0


def clean_text(value: str, field: str) -> None:
    """Refuses strings that are long, not in NFC, or hold control, bidirectional or unassigned characters."""
    need(len(value) <= MAX_STRING, field, value, f"at most {MAX_STRING} characters")
    if value.isascii() and value.isprintable():
        return
    for character in value:
        kind = unicodedata.category(character)
        need(
            kind[0] != "C" and kind not in ("Zl", "Zp"),
            field,
            value,
            f"text without control or bidirectional characters (U+{ord(character):04X})",
        )
    need(unicodedata.is_normalized("NFC", value), field, value, "text in Unicode form NFC")


def clean_url(value: str, field: str) -> None:
    """Refuses everything but a plain https address."""
    need(_URL.fullmatch(value) is not None, field, value, "an https:// address")


def build(kind: type[T], value: Any, field: str) -> T:
    """A value of the annotated type `kind` from parsed JSON: dataclasses, tuples, dicts, unions with None, literals.

    Unknown and missing fields are refused, whole numbers are not written as decimals, and every string is clean.

    Args:
        field: where the value stands, for messages.

    Raises:
        ArtefactError: anything else than the type asks for; `field` names the place.
    """
    return _reader(kind)(value, field)


Reader = Callable[[Any, str], Any]


@cache
def _reader(kind: Any) -> Reader:
    """What reads values of a type; found once a type, because a board reads millions of them."""
    if is_dataclass(kind):
        return _dataclass(kind, {name: _reader(hint) for name, hint in get_type_hints(kind).items()})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _literal(inner)
    if origin is tuple:
        return _tuple(inner[0])
    if origin is dict:
        return _dict(inner[1])
    if NoneType in inner:
        read = _reader(next(a for a in inner if a is not NoneType))
        return lambda value, field: None if value is None else read(value, field)
    if kind is Any:
        return _free
    return _scalar(kind)


def _dataclass(kind: type, readers: dict[str, Reader]) -> Reader:
    def read(value: Any, field: str) -> Any:
        need(isinstance(value, dict), field, value, "an object")
        if value.keys() != readers.keys():
            for name in value:
                need(
                    name in readers,
                    f"{field}.{name}" if name.isidentifier() else f"{field} key",
                    name,
                    f"one of {', '.join(sorted(readers))}",
                )
            refuse(f"{field}.{min(readers.keys() - value)}", "missing", "a value for every field")
        built = {name: readers[name](entry, f"{field}.{name}") for name, entry in value.items()}
        try:
            return kind(**built)
        except CondensationError as error:
            refuse(f"{field}.{error.field}", error.value, error.allowed)

    return read


def _literal(allowed: tuple[Any, ...]) -> Reader:
    def read(value: Any, field: str) -> Any:
        known = any(value is a or (type(value) is type(a) and value == a) for a in allowed)
        need(known, field, value, " or ".join(map(repr, allowed)))
        return value

    return read


def _tuple(kind: type) -> Reader:
    entry_of = _reader(kind)

    def read(value: Any, field: str) -> tuple[Any, ...]:
        need(isinstance(value, list), field, value, "a list")
        if kind in (int, float) and set(map(type, value)) <= {kind}:
            return tuple(value)  # the same as below, without a call for each count
        return tuple(entry_of(entry, f"{field}[{i}]") for i, entry in enumerate(value))

    return read


def _dict(kind: type) -> Reader:
    entry_of = _reader(kind)

    def read(value: Any, field: str) -> dict[str, Any]:
        need(isinstance(value, dict), field, value, "an object")
        for key in value:
            clean_text(key, f"{field} key")
        return {key: entry_of(entry, f"{field}.{key}") for key, entry in value.items()}

    return read


def _scalar(kind: type) -> Reader:
    names = {int: "a whole number", str: "a string", bool: "true or false", float: "a number"}
    types = (int, float) if kind is float else (kind,)

    def read(value: Any, field: str) -> Any:
        need(type(value) in types, field, value, names[kind])
        if kind is str:
            clean_text(value, field)
        return float(value) if kind is float else value

    return read


def _free(value: Any, field: str) -> Any:
    """A value of free form: strings are clean, numbers were checked by `parse`."""
    if isinstance(value, str):
        clean_text(value, field)
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            _free(entry, f"{field}[{i}]")
    elif isinstance(value, dict):
        for key, entry in value.items():
            clean_text(key, f"{field} key")
            _free(entry, f"{field}.{key}")
    return value
