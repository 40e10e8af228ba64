"""Errors that a person can correct. Each names the field, its value, what is allowed and the next step."""

from __future__ import annotations

from typing import Any

from hf_condense.text import printable, shortened, shown

LONGEST_PART = 2000  # characters: thirty names to choose from fit


class CondensationError(Exception):
    """Base of every error this library raises on purpose.

    Args:
        field: the setting, column or file that is wrong, as it was given.
        value: the value that was given.
        allowed: the values that are accepted, in words.
        next_step: what to do about it.

    `everywhere` says that all processes of a run raise it, so that one of them prints it for all.
    """

    everywhere = False

    def __init__(self, field: str, value: Any, allowed: str, next_step: str) -> None:
        self.field, self.value, self.allowed, self.next_step = field, value, allowed, next_step
        allowed, next_step = shortened(str(allowed), LONGEST_PART), shortened(str(next_step), LONGEST_PART)
        said = (
            f"invalid {shortened(str(field))}={shown(value)}: expected {allowed.rstrip('.')}. {_sentence(next_step)}"
        )
        super().__init__(printable(said))

    def __reduce__(self) -> tuple[Any, ...]:  # keeps its fields when it is pickled between processes
        return type(self), (self.field, self.value, self.allowed, self.next_step)


def _sentence(text: str) -> str:
    """The text with a capital, unless it begins with an option, a column or code, and an end."""
    first = text.split(maxsplit=1)[0].rstrip(",:;") if text.strip() else ""
    start = text[:1].upper() if first.replace("-", "").isalpha() else text[:1]
    return start + text[1:] + ("" if text.endswith((".", "?")) else ".")


class ConfigError(CondensationError):
    """A setting is outside what is allowed, or two settings contradict each other."""


class DataError(CondensationError):
    """The source dataset cannot be read with these settings."""


class ModelError(CondensationError):
    """A model cannot be loaded, or does not fit the dataset."""


class ArtefactError(CondensationError):
    """A file that this library wrote (or should have written) is missing, damaged or of another run."""


class HubError(CondensationError):
    """The Hub refused a push, or could not be reached. No repository is left partly changed."""
