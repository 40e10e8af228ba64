"""Kills at random moments: what comes out at the end is what an unbroken run makes, and nothing unfinished is left.

    python -m benchmarks.kills --points 1000 [--minutes 60]

A point is one SIGKILL. Tiny runs of every method, from an empty cache folder (cold) and from one that holds the networks
(warm), are killed and started again until they end; then published content and leftovers are looked at. Points are
appended to benchmarks/results/kills.jsonl, from which the same command goes on; the result is benchmarks/results/kills.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, product
from pathlib import Path

from benchmarks.record import RESULTS, write
from tests import forked
from tests.test_resume import content, left_over, run

JOURNAL = RESULTS / "kills.jsonl"
STARTS = ("cold", "warm")


class Unbroken(dict):
    """Method -> root, content and seconds of a run that is left alone, from an empty cache folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, method: str) -> tuple[Path, str, float]:
        root, began = self.root / method, time.monotonic()
        if forked.run(lambda: run(method, root / "run", root / "cache"), timeout=600):
            raise SystemExit(f"{method}: a run that is left alone fails")
        self[method] = (root, content(root / "run"), time.monotonic() - began)
        return self[method]


def killed_until_done(method: str, start: str, unbroken: Unbroken, folder: Path, number: int) -> Iterator[dict]:
    """Kills a run at random moments until it ends by itself; one dict a kill, and a last one with what came out."""
    from hf_condense.data.randomness import Key

    whole, expected, seconds = unbroken[method]
    if start == "warm":
        shutil.copytree(whole / "cache", folder / "cache")
    place = {"method": method, "start": start, "run": number}
    code, attempt = -signal.SIGKILL, 0
    while code == -signal.SIGKILL:
        pid = forked.fork(lambda: run(method, folder / "run", folder / "cache"))
        after = float((Key(number, "kill", method, start) / attempt).uniform(1, high=seconds)[0])
        code, attempt = ended(pid, after), attempt + 1
        if code == -signal.SIGKILL:
            yield {**place, "killed_after": round(after, 3)}
    equal = code == 0 and content(folder / "run") == expected
    left = len({*left_over(folder / "run"), *(folder / "cache").rglob(".*.part")})
    yield {**place, "exit_code": code, "equal": equal, "leftovers": left}


def ended(pid: int, after: float) -> int:
    """The exit code of a child that ends within `after` seconds, or is killed then."""
    limit = time.monotonic() + after
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def journal() -> list[dict]:
    return [json.loads(line) for line in JOURNAL.read_text().splitlines()] if JOURNAL.exists() else []


def summary(points: list[dict]) -> dict:
    kills, runs = [p for p in points if "killed_after" in p], [p for p in points if "equal" in p]
    by_method: dict[str, int] = {}
    for kill in kills:
        by_method[kill["method"]] = by_method.get(kill["method"], 0) + 1
    return {
        "kills": len(kills), "kills_by_start": {s: sum(k["start"] == s for k in kills) for s in STARTS},
        "kills_by_method": by_method, "finished_runs": len(runs), "equal_runs": sum(r["equal"] for r in runs),
        "leftovers": sum(r["leftovers"] for r in runs), "failed": [r for r in runs if not r["equal"] or r["leftovers"]],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1000, help="kills, those of earlier calls included")
    parser.add_argument("--minutes", type=float, default=60.0, help="no run is begun after that time")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes

    import torch

    import hf_condense.trainer  # noqa: F401  # in the parent, so that children start warm
    from hf_condense.methods import list_methods

    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    points = journal()
    done = {(p["method"], p["start"], p["run"]) for p in points if "equal" in p}
    with tempfile.TemporaryDirectory() as root, JOURNAL.open("a") as file:
        unbroken = Unbroken(Path(root) / "unbroken")
        for turn, (method, start) in enumerate(cycle(product(list_methods(), STARTS))):
            number = turn // (len(list_methods()) * len(STARTS))
            if summary(points)["kills"] >= given.points or time.monotonic() > end:
                break
            if (method, start, number) in done:
                continue
            folder = Path(root) / f"{method}-{start}-{number}"
            folder.mkdir()
            # what an earlier call did not finish is begun again, and counts once
            points = [p for p in points if (p["method"], p["start"], p["run"]) != (method, start, number)]
            found = list(killed_until_done(method, start, unbroken, folder, number))
            file.writelines(json.dumps(point) + "\n" for point in found)
            file.flush()
            points += found
            print(method, start, f"{len(found) - 1} kills", found[-1], flush=True)
            shutil.rmtree(folder)
    result = summary(points)
    write("kills", f"python -m benchmarks.kills --points {given.points}", torch.device("cpu"), result)
    print(json.dumps(result, indent=1))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
