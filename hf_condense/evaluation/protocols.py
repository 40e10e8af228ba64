"""Protocols: named, immutable student recipes. The published ones are in `published.py`, ours here.

A score means something only beside others of the same protocol: batch size or schedule alone move accuracy by more
than most methods do.
"""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from hf_condense.config import check, nearest
from hf_condense.errors import ConfigError
from hf_condense.evaluation.protocol import COMPARE, SMALL, Protocol

if TYPE_CHECKING:
    pass


PROBE = Protocol(
    name="probe",
    citation="https://arxiv.org/abs/2511.16674",
    note="for students `probe:<network>`; the source lowers the rate in proportion for sets of fewer than 100 images",
    epochs=1000,
    batch=100,
    optimizer="adam",
    lr=1e-3 * 100 / 256,
    weight_decay=0.0,
    regime="hard",
    loss="soft_ce",
    temperature=1.0,
    mix="none",
    best_every=0,
)
PROBE_FAST = replace(
    PROBE,
    name="probe-fast",
    citation="",
    note="ours: whole images, so that features are computed once; 1,000 steps on all of them, or on 1,024 a step",
    epochs=None,
    steps=1000,
    batch=1024,
    lr=1e-2,
    crop=None,
    flip=0.0,
    label_per="image",
)


def _protocols() -> dict[str, Protocol]:
    from hf_condense.evaluation.published import PUBLISHED
    from hf_condense.evaluation.residual import RESIDUAL

    return {p.name: p for p in (SMALL, COMPARE, PROBE, PROBE_FAST, *PUBLISHED, *RESIDUAL)}


def list_protocols() -> list[str]:
    """Names of all protocols."""
    return list(_protocols())


def get_protocol(name: str, **changes: Any) -> Protocol:
    """The protocol of that name, with values changed; the change is then part of its name.

    A change holds for every student and IPC. `epochs` replaces `steps` and the other way round; epochs of stages change
    with them in proportion.

    Raises:
        ConfigError: unknown protocol, or a value that it does not have.
    """
    known = _protocols()
    if name not in known:
        like = difflib.get_close_matches(name, known, n=8, cutoff=0.0)
        allowed = f"one of {len(known)} protocols, such as {', '.join(like)}"
        raise ConfigError("protocol", name, allowed, nearest(name, list(known)))
    protocol = known[name]
    allowed = {f.name for f in fields(Protocol)} - {"name", "cases"}
    for change in changes:
        check(change in allowed, "protocol value", change, "a value of a protocol", nearest(change, sorted(allowed)))
    if not changes:
        return protocol
    spelled = ", ".join(f"{k}={v}" for k, v in sorted(changes.items()))
    if changes.get("epochs") is not None:
        changes.setdefault("steps", None)
        if protocol.stage_epochs and protocol.epochs:
            share = changes["epochs"] / protocol.epochs
            changes.setdefault("stage_epochs", max(1, round(share * protocol.stage_epochs)))
    if changes.get("steps") is not None:
        changes |= {"epochs": None, "stage_epochs": None} | changes
    cases = (replace(c, changes={k: v for k, v in c.changes.items() if k not in changes}) for c in protocol.cases)
    return replace(protocol, **changes, name=f"{name} ({spelled})", cases=tuple(c for c in cases if c.changes))
