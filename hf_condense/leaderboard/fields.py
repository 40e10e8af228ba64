"""Types of the fields of result files: what a string or a number there may be, checked as the file is read."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from hf_condense.leaderboard.limits import MAX_DEPTH, MAX_DIGITS, MAX_STRING, need

SETTINGS_DEPTH = MAX_DEPTH - 4  # below file, content, method and settings
USER = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}$"
PATTERNS: dict[str, str] = {}  # pattern -> what it allows, in words
_URL = re.compile(r"https://[a-z0-9.-]+(?::\d+)?(?:/[\w\-./~%?#&=+,;:@!()]*)?", re.IGNORECASE | re.ASCII)


def clean_text(value: str) -> str:
    """Refuses strings that are long, not in NFC, or hold control, bidirectional or unassigned characters."""
    if value.isascii() and value.isprintable() and len(value) <= MAX_STRING:
        return value
    need(len(value) <= MAX_STRING, "", value, f"at most {MAX_STRING} characters")
    for character in value:
        kind = unicodedata.category(character)
        allowed = f"text without control or bidirectional characters (U+{ord(character):04X})"
        need(kind[0] != "C" and kind not in ("Zl", "Zp"), "", value, allowed)
    need(unicodedata.is_normalized("NFC", value), "", value, "text in Unicode form NFC")
    return value


def clean_url(value: str) -> str:
    """Refuses everything but a plain https address."""
    need(len(value) <= MAX_STRING and _URL.fullmatch(value) is not None, "", value, "an https:// address")
    return value


def clean(value: Any, place: str = "", depth: int = SETTINGS_DEPTH) -> Any:
    """Refuses values of free form with strings that are not clean, numbers out of range, or too many levels.

    Args:
        place: of the value, for messages.
        depth: levels of lists and objects that may follow.
    """
    if isinstance(value, str):
        _clean_at(value, place)
    elif isinstance(value, float):
        need(math.isfinite(value), place, value, "a finite number")
    elif isinstance(value, int):
        need(abs(value) < 10**MAX_DIGITS, place, "a long number", f"at most {MAX_DIGITS} digits")
    elif isinstance(value, (list, dict)):
        need(depth > 0, f"{place}: depth", "deeper", f"at most {MAX_DEPTH} levels in a file")
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in inner:
            if isinstance(key, str):
                _clean_at(key, f"{place} key".strip())
            clean(entry, f"{place}.{key}".strip(".") if isinstance(key, str) else f"{place}[{key}]", depth - 1)
    return value


def _clean_at(value: str, place: str) -> None:
    try:
        clean_text(value)
    except ValueError as error:
        need(False, place, error.value, error.allowed)


def _matching(pattern: str, allowed: str) -> Any:
    PATTERNS[pattern] = allowed
    return Annotated[str, Field(pattern=pattern)]


Text = Annotated[str, AfterValidator(clean_text)]
Url = Annotated[str, AfterValidator(clean_url)]
Settings = Annotated[dict[str, Any], AfterValidator(clean)]
Name = _matching(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", "letters, digits, '-', '_' and '.'")
User = _matching(USER, "the name of a Hub user")
Date = _matching(r"^20[0-9][0-9]-[01][0-9]-[0-3][0-9]$", "a date such as 2026-01-31")
Id = _matching(r"^[0-9a-f]{20}$", "the id of a result")
Commit = _matching(r"^[0-9a-f]{40}$", "40 hex digits of a commit")
Sha256 = _matching(r"^[0-9a-f]{64}$", "64 hex digits")
Digest = _matching(r"^[0-9a-f]{16,64}$", "16 to 64 hex digits")
Count = Annotated[int, Field(ge=0, lt=10**MAX_DIGITS)]
Positive = Annotated[int, Field(ge=1, lt=10**MAX_DIGITS)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=0)]
