"""Over every registered method: a setting that cannot be is refused by name, before anything else happens."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from hf_condense.errors import ConfigError
from hf_condense.methods import list_methods, method_class
from hf_condense.run.resolve import resolve

BASE = {"pdd": {"base_method": "dm"}, "ccfs": {"base_method": "rded"}}
NUMBERS = {int: ("-2", "1.5"), float: ("nan", "inf")}


def no_facts(data):
    raise AssertionError("a known dataset needs no look at the data")


def settings_of(method: str) -> dict[str, type]:
    """Name and type of each setting of the method's own, without None."""
    cls = method_class(method).settings_class(BASE.get(method, {}).get("base_method"))
    hints = get_type_hints(cls)
    return {f.name: next((o for o in get_args(hints[f.name]) if o in NUMBERS), hints[f.name]) for f in fields(cls)}


def refusal(method: str, **settings) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve({"method": method, "dataset": "digits", **BASE.get(method, {}), **settings}, no_facts)
    return str(caught.value)


@pytest.mark.parametrize("method", list_methods())
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_setting(method):
    tried = 0
    for name, kind in settings_of(method).items():
        if name in BASE.get(method, {}):
            continue
        bad = NUMBERS.get(kind, ("maybe",) if kind is bool or get_origin(kind) is Literal else ())
        for value in bad:
            told = refusal(method, **{name: value})
            assert re.fullmatch(rf"invalid {name}=.+: expected .+[^.]\. .+[.?]", told), told
            tried += 1
    assert tried or method == "random"


@pytest.mark.parametrize("method", list_methods())
def test_a_setting_that_does_not_exist_no_images_and_an_unknown_regime_are_refused(method):
    assert "iteratons" in refusal(method, iteratons=3)
    assert refusal(method, ipc=0).startswith("invalid ipc=")
    assert refusal(method, regimes="soft").startswith("invalid regimes=")


def test_what_is_not_finite_would_have_passed_the_checks_of_a_method():
    """The refusal of infinity is the reader's: methods' own checks ("above 0") let it pass."""
    assert math.isinf(method_class("dm").settings_class()(lr=math.inf).lr)
