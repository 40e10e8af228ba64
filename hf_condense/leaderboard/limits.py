"""What strangers wrote, held against limits before it is parsed: strict JSON, and the refusal that names a field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from types import NoneType
from typing import Any, NoReturn

from hf_condense.errors import ArtefactError

MAX_BYTES = 256_000
MAX_DEPTH = 8
MAX_NUMBERS = 2_000
MAX_STRING = 300
MAX_DIGITS = 15  # of a whole number: exact in every reader of JSON
_NUMBERS = re.compile(r"-?\d[\d.eE+-]*")
_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


class Misfit(ArtefactError, ValueError):
    """An ArtefactError that is a ValueError too: pydantic then says where in a file it was raised."""


def refuse(field: str, value: Any, allowed: str, next_step: str = "correct the file and submit it again") -> NoReturn:
    """Raises `Misfit`; a long value is cut, so that a message stays one line."""
    shown = value if isinstance(value, (int, float, NoneType)) else ascii(value)[:80]
    raise Misfit(field, shown, allowed, next_step)


def need(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Refuses unless `condition` holds."""
    if not condition:
        refuse(field, value, allowed)


def check_json(data: bytes, name: str) -> None:
    """Refuses what is no strict JSON. Size and depth are checked before anything is parsed.

    Args:
        name: of the file, for messages.

    Raises:
        ArtefactError: above the limits of size, depth, numbers or digits; not UTF-8; NaN, Infinity, duplicate keys or
            lone surrogates.
    """
    check_size(data, name)
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
        value = json.loads(text, parse_constant=constant, object_pairs_hook=distinct)
        json.dumps(value, ensure_ascii=False).encode()
    except (json.JSONDecodeError, RecursionError) as error:
        refuse(f"{name}: JSON", str(error), "one JSON object")
    except UnicodeEncodeError as error:
        refuse(f"{name}: text", f"U+{ord(error.object[error.start]):04X}", "text without lone surrogates")


def check_size(data: bytes, name: str) -> None:
    """Refuses more than `MAX_BYTES`."""
    need(len(data) <= MAX_BYTES, f"{name}: size", f"over {MAX_BYTES} bytes", f"at most {MAX_BYTES} bytes")


def may_hold_many(data: bytes) -> bool:
    """False where JSON of these bytes cannot hold more than `MAX_NUMBERS` values: each follows a comma or a bracket."""
    return data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_NUMBERS


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
