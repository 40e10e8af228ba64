"""The table of methods: what each is called, where it comes from, what it needs. Imports only the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from hf_condense.config import nearest
from hf_condense.errors import ConfigError

if TYPE_CHECKING:
    from hf_condense.methods.base import Method


@dataclass(frozen=True)
class MethodInfo:
    """What a person should know of a method before running it.

    Args:
        name: what it is called on the command line.
        title: its name in full.
        where: `module:Class` of the implementation, imported when it is asked for.
        paper: link to the paper, or "" for a baseline.
        citation: BibTeX, or "".
        access: how it reads the real images: in one pass, a reservoir per class, or any row at any time.
        pool: whether synthesis needs a pool of trained networks.
        real_pixels: whether published images contain real pixels (said on the card).
        summary: one paragraph for the card.
    """

    name: str
    title: str
    where: str
    paper: str
    citation: str
    access: Literal["one_pass", "per_class_reservoir", "random_access"]
    pool: bool
    real_pixels: bool
    summary: str


METHODS: dict[str, MethodInfo] = {
    info.name: info
    for info in (
        MethodInfo(
            name="random",
            title="Random real images",
            where="hf_condense.methods.random:Random",
            paper="",
            citation="",
            access="random_access",
            pool=False,
            real_pixels=True,
            summary="Real training images drawn at random, the same number for every class, without replacement. "
            "The baseline that every condensation method has to beat.",
        ),
        MethodInfo(
            name="edc",
            title="EDC (Elucidating the Design Space of Dataset Condensation)",
            where="hf_condense.methods.edc:EDC",
            paper="https://arxiv.org/abs/2404.13733",
            citation="@inproceedings{shao2024edc,\n"
            "  title = {Elucidating the Design Space of Dataset Condensation},\n"
            "  author = {Shao, Shitong and Zhou, Zikai and Chen, Huanran and Shen, Zhiqiang},\n"
            "  booktitle = {Advances in Neural Information Processing Systems},\n"
            "  year = {2024}\n}",
            access="random_access",
            pool=True,
            real_pixels=False,
            summary="Images start as real crops and are optimised so that a pool of frozen observers classifies them and "
            "sees, in every convolution and normalisation layer, the statistics of the real data and of their class. "
            "The mean logits of the pool are the soft labels.",
        ),
    )
}


def list_methods() -> list[str]:
    """Names of all methods."""
    return sorted(METHODS)


def method_info(name: str) -> MethodInfo:
    """Raises ConfigError for an unknown name, with the near ones."""
    if name not in METHODS:
        raise ConfigError("method", name, ", ".join(list_methods()), nearest(name, list_methods()))
    return METHODS[name]


def method_class(name: str) -> type[Method]:
    """The class of a method; imports its module."""
    module, cls = method_info(name).where.split(":")
    return getattr(import_module(module), cls)


def create_method(name: str, **config: Any) -> Method:
    """A method with its settings: `create_method("edc", iterations=500)`.

    Raises:
        ConfigError: unknown method, unknown setting, or a value that is not allowed.
    """
    cls = method_class(name)
    known = cls.Settings.__dataclass_fields__
    for key in config:
        if key not in known:
            raise ConfigError(key, config[key], f"settings of {name}: {', '.join(known)}", nearest(key, list(known)))
    return cls(cls.Settings(**config))
