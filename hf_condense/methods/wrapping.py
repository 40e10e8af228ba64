"""Methods that work over another one: its settings stand beside their own."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from hf_condense.config import check
from hf_condense.methods import method_class
from hf_condense.methods.registry import METHODS

if TYPE_CHECKING:
    from hf_condense.methods.base import Method


def check_base(name: str) -> None:
    """Raises ConfigError where `name` is no method, or itself works over another one."""
    known = sorted(name for name, info in METHODS.items() if not info.wraps)
    check(name in known, "base_method", name, ", ".join(known))


@cache
def settings_beside(own: type, base_method: str) -> type:
    """The settings of class `own` and, beside them, those of a base method."""
    check_base(base_method)
    base = method_class(base_method).Settings

    @dataclass(frozen=True)
    class Settings(own, base):
        def __post_init__(self) -> None:
            if hasattr(base, "__post_init__"):
                base.__post_init__(self)
            own.__post_init__(self)

    Settings.__name__ = f"{own.__name__} over {base.__name__}"
    return Settings


def with_settings_of(settings: Any, base: Any) -> Any:
    """Settings that `settings_beside` has made, with those of the base method as they are in `base`."""
    return replace(settings, **{f.name: getattr(base, f.name) for f in fields(base)})


def base_of(settings: Any) -> Method:
    """The base method of settings that `settings_beside` has made."""
    cls = method_class(settings.base_method)
    return cls(cls.Settings(**{f.name: getattr(settings, f.name) for f in fields(cls.Settings)}))
