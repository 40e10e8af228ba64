"""Dataclasses read from JSON by their types: nothing is converted, nothing unknown is taken, the first misfit is named."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hf_condense.errors import CondensationError
from hf_condense.leaderboard.fields import PATTERNS
from hf_condense.leaderboard.limits import refuse

T = TypeVar("T")
_KINDS = {  # of pydantic's errors -> what is allowed, in words
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "a string",
    "bool_type": "true or false",
    "float_type": "a number",
    "finite_number": "a finite number",
    "tuple_type": "a list",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "missing": "a value for every field",
    "unexpected_keyword_argument": "no other fields than those of this version",
}


@cache
def schema(kind: type[T]) -> TypeAdapter[T]:
    """Reads and spells a dataclass; those inside it are read as strictly."""
    kind.__pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return TypeAdapter(kind)


def build(kind: type[T], data: bytes | dict[str, Any], name: str) -> T:
    """A dataclass from a file's JSON, or from plain values.

    Args:
        name: where the values stand, for messages.

    Raises:
        ArtefactError: anything else than the types ask for; the field names the place of the first misfit.
    """
    try:
        return schema(kind).validate_json(data if isinstance(data, bytes) else json.dumps(data))
    except ValidationError as error:
        _refuse(error, name)
    except CondensationError as error:
        refuse(f"{name}.{error.field}", error.value, error.allowed)


def _refuse(error: ValidationError, name: str) -> None:
    first = error.errors(include_url=False)[0]
    kind, place = first["type"], _place(name, first["loc"])
    context = first.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, CondensationError):
        inside = cause.field if cause.field.startswith((" ", "[", ":")) or not cause.field else f".{cause.field}"
        refuse(f"{place}{inside}", cause.value, cause.allowed)
    if kind == "json_invalid":
        refuse(f"{name}: JSON", context.get("error"), "one JSON object")
    value = "missing" if kind == "missing" else first["input"]
    allowed = _KINDS.get(kind) or PATTERNS.get(context.get("pattern")) or first["msg"].removeprefix("Input should be ")
    refuse(place, value, allowed)


def _place(name: str, steps: tuple[int | str, ...]) -> str:
    """`file.content.columns[0].correct`; of a stranger's key only what looks like a name."""
    for step in steps:
        name += f"[{step}]" if isinstance(step, int) else f".{step}" if step.isidentifier() else " key"
    return name
