"""Methods by name: their classes, their settings, and how to make one. Imports no method before it is asked for."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_condense.config import SECTIONS, nearest
from hf_condense.errors import ConfigError
from hf_condense.methods.registry import METHODS, MethodInfo, list_methods, method_info, register

if TYPE_CHECKING:
    from hf_condense.methods.base import Method

__all__ = [
    "FALLBACK_PRESETS",
    "METHODS",
    "MethodInfo",
    "create_method",
    "list_methods",
    "method_class",
    "method_info",
    "register",
    "sections_of",
]
FALLBACK_PRESETS = "edc"  # whose pool and students serve methods without presets of their own


def method_class(name: str) -> type[Method]:
    """The class of a method; imports its module."""
    module, cls = method_info(name).where.split(":")
    return getattr(import_module(module), cls)


def sections_of(name: str | None, base_method: str | None) -> dict[str, type]:
    """All sections of settings; with those of a method where one is named."""
    return {**SECTIONS, **({"method": method_class(name).settings_class(base_method)} if name is not None else {})}


def create_method(name: str, **config: Any) -> Method:
    """A method with its settings: `create_method("edc", iterations=500)`.

    Raises:
        ConfigError: unknown method, unknown setting, or a value that is not allowed.
    """
    cls = method_class(name)
    settings = cls.settings_class(config.get("base_method"))
    known = [f.name for f in fields(settings)]
    for key in config:
        if key not in known:
            raise ConfigError(key, config[key], f"settings of {name}: {', '.join(known)}", nearest(key, known))
    return cls(settings(**config))
