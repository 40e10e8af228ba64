"""What a result says of the sets' method and of their cost, as the sets' own records have it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from hf_condense.files import canonical_json
from hf_condense.hub.provenance import device_name, portable
from hf_condense.leaderboard.limits import MAX_STRING
from hf_condense.leaderboard.result import SETTINGS_BYTES, Cost, MethodFacts, settings_digest
from hf_condense.leaderboard.sets import CondensedSet

_ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def method_facts(found: CondensedSet) -> MethodFacts:
    about, config = found.data.content["method"], found.data.content["config"]
    settings = _short({k: config[k] for k in ("method", "squeeze", "run") if config.get(k)})
    settings.get("run", {}).pop("seed", None)
    if len(canonical_json(settings).encode()) > SETTINGS_BYTES:
        settings = {"left_out": "larger than a result file may hold: see condensation.json of the set"}
    paper = _ARXIV.search(str(about.get("paper") or ""))
    name = re.sub(r"[^\w.-]", "-", about["name"])[:64]
    return MethodFacts(
        name=name,
        title=about["title"][:MAX_STRING],
        paper=paper and f"https://arxiv.org/abs/{paper[1]}",
        code=None,
        settings=settings,
        settings_sha256=settings_digest(settings),
    )


def _short(value):
    """Settings as a result file takes them: portable, strings cut."""
    value = portable(value)
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return value[:MAX_STRING] if isinstance(value, str) else value


def cost_of(sets: Sequence[CondensedSet], device: torch.device, tuned_on: str, trials: int | None) -> Cost:
    """Seconds and memory as the sets' records have them."""

    def stages(found: CondensedSet) -> dict[str, dict]:
        kept = found.data.record.get("stages")
        return {s["name"]: s for s in kept if isinstance(s, dict) and "name" in s} if isinstance(kept, list) else {}

    def number(stage: dict, name: str) -> float:
        value = stage.get(name, 0)
        return value if isinstance(value, (int, float)) and 0 <= value < 1e15 else 0

    all_stages = [stages(found) for found in sets]
    synthesis = [number(s.get("condense", {}), "seconds") for s in all_stages]
    pool = [number(s.get("squeeze", {}), "seconds") + number(s.get("statistics", {}), "seconds") for s in all_stages]
    peak = max((number(stage, "peak_bytes") for s in all_stages for stage in s.values()), default=0)
    name = str(sets[0].data.record.get("device") or device_name(device))[:MAX_STRING]
    threads = sets[0].data.record.get("threads")
    return Cost(
        synthesis_seconds=tuple(round(float(s), 2) for s in synthesis),
        pool_seconds=round(float(max(pool)), 2),
        peak_memory=int(peak),
        device=name,
        threads=threads if type(threads) is int else torch.get_num_threads(),
        tuning_trials=trials,
        tuned_on=tuned_on,
    )
