"""What all records share: strict types without unknown keys, one way to read a file, one way to refuse it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from hf_condense.errors import ArtefactError, CondensationError
from hf_condense.files import canonical_json, read_json, redo, write_text
from hf_condense.text import shortened

T = TypeVar("T")
LARGEST = 64 << 20  # bytes of a record; that of ImageNet with a thousand scored students has 1 MB
DEEPEST = 16  # lists and objects in each other

Text = Annotated[str, StringConstraints(max_length=4096)]
LongText = Annotated[str, StringConstraints(max_length=1_000_000)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Positive = Annotated[int, Field(ge=1, lt=2**53)]
Side = Annotated[int, Field(ge=1, le=65_536)]  # pixels
Channels = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(ge=0, le=1)]
ClassName = Annotated[str, StringConstraints(max_length=100_000)]
ClassNames = Annotated[list[ClassName], Field(min_length=1, max_length=1_000_000)]


def plain(value: Any, depth: int = DEEPEST) -> Any:
    """JSON values as they are. Raises ValueError for numbers that are not finite, or lists in lists without end."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        raise ValueError("a number of 64 bits")
    inner: Iterable[Any] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, (list, tuple)):
        inner = value
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError("a JSON value")
    for part in inner:
        if depth == 0:
            raise ValueError(f"at most {DEEPEST} lists and objects in each other")
        plain(part, depth - 1)
    return value


Plain = Annotated[Any, AfterValidator(plain)]
Object = dict[Text, Plain]


class Record(BaseModel):
    """Base of every schema: nothing is converted, nothing unknown is taken, numbers are finite."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Sealed(Record):
    """A record that carries the sha256 of its content, so that a change of any value is detected.

    The checksum is no signature: anyone can write a record with another one. Records of earlier versions have none.
    """

    checksum: Sha256 | None = None


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """A record with its checksum."""
    said = {name: part for name, part in value.items() if name != "checksum"}
    return {**said, "checksum": hashlib.sha256(canonical_json(said).encode()).hexdigest()}


def checked(kind: type[Record], value: Any, place: Path | str, next_step: str) -> dict[str, Any]:
    """`value`, the plain data of a file, which is as the schema says.

    Raises:
        ArtefactError: naming file and field, it is not; or a sealed record was changed after it was written.
    """
    try:
        kind.model_validate(value)
    except ValidationError as error:
        raise _refusal(error, place, next_step) from None
    if value.get("checksum") is not None and sealed(value) != value:
        raise ArtefactError(str(place), "changed", "the record as it was written, by its checksum", next_step)
    return value


def made(kind: type[T], value: dict[str, Any], place: Path | str, next_step: str) -> T:
    """A dataclass of this library from the plain data of a file: its own types and checks are the schema.

    Raises:
        ArtefactError: naming file and field, a value that is not what the class takes.
    """
    try:
        _adapter(kind).validate_json(json.dumps(value))  # in JSON a list stands for a tuple
        return kind(**value)
    except ValidationError as error:
        raise _refusal(error, place, next_step) from None
    except CondensationError as error:
        raise ArtefactError(f"{error.field} of {place}", error.value, error.allowed, next_step) from None


@cache
def _adapter(kind: type) -> TypeAdapter:
    strict = {"__pydantic_config__": ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)}
    return TypeAdapter(type(kind.__name__, (kind,), strict))


def read_record(path: Path | str, kind: type[Record], next_step: str | None = None) -> dict[str, Any]:
    """The plain data of a JSON file that is as the schema says.

    Raises:
        ArtefactError: the file is missing, no regular file, too large or no JSON; or a field is wrong (named).
    """
    step = next_step or redo(path)
    return checked(kind, read_json(path, LARGEST, step), path, step)


def write_record(path: Path | str, kind: type[Record], value: Any) -> None:
    """Writes `value` as JSON, held against the schema that readers hold it against.

    Raises:
        ArtefactError: it is not as the schema says; nothing is written.
    """
    write_text(path, record_text(kind, value, path))


def record_text(kind: type[Record], value: Any, place: Path | str) -> str:
    """What `write_record` writes."""
    value = json.loads(canonical_json(value))
    if issubclass(kind, Sealed):
        value = sealed(value)
    checked(kind, value, place, "report this: hf-condense made it")
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _refusal(error: ValidationError, place: Path | str, next_step: str) -> ArtefactError:
    """The first field that is wrong, as a person reads it: what is there is not repeated, for it may be of any length."""
    found = error.errors(include_url=False, include_context=False)
    first = found[0]
    field = shortened(".".join(map(str, first["loc"])) or "all of it", 120)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    problem = {"extra_forbidden": "an unknown key", "missing": "missing"}.get(first["type"], "of another form")
    allowed = first["msg"].removeprefix("Value error, ")
    allowed = {"extra_forbidden": "the keys of this version", "missing": "a value there"}.get(first["type"], allowed)
    return ArtefactError(f"{field} of {place}", problem + more, allowed, next_step)
