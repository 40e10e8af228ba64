"""A small leaderboard of the embedded digits: its bank, four methods at two IPC, and its pages. Run again, it resumes.

python recipes/leaderboard.py --output_dir runs/leaderboard
python recipes/leaderboard.py --output_dir /tmp/tiny --tiny        # the whole path with a few steps, to see it work
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from hf_condense.cli import show_messages
from hf_condense.leaderboard.bank import Bank, fill_bank
from hf_condense.leaderboard.keep import BoardSettings, init_board
from hf_condense.leaderboard.place import Place, open_place
from hf_condense.leaderboard.result import Result
from hf_condense.leaderboard.scoring import BoardScorer
from hf_condense.leaderboard.site import build_site
from hf_condense.leaderboard.submit import submit

METHODS = ("random", "rded", "edc", "dm", "mtt")
TINY_METHODS = ("random", "rded")
KEEPER = "keeper"
SETTINGS = BoardSettings(
    sources=("digits",), ipc=(1, 10), students=("convnet_d2_w16", "convnet_d1"), seeds_min=5, seeds=5,
    ladder=(1, 2, 5, 10, 20, 50, 100), ladder_draws=10,
)  # fmt: skip
TINY = BoardSettings(
    sources=("digits",), ipc=(1, 2), students=("convnet_d2_w16",), steps=3, teacher_epochs=2, seeds_min=2, seeds=2,
    draws=3, ladder=(1, 2, 5), ladder_draws=2,
)  # fmt: skip
PROBE = 1  # draw that is scored to measure a student; the bank finds it done


def runs_of(settings: BoardSettings, methods: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """(method, IPC, seed) of every set that is condensed."""
    return [(m, ipc, seed) for m in methods for ipc in settings.ipc for seed in range(settings.seeds)]


def condense(folder: Path, method: str, ipc: int, seed: int, **shortened: int) -> Path:
    """The run folder of one set; scored as little as a run allows, because the board scores it."""
    from hf_condense.trainer import CondensationTrainer

    place = folder / "runs" / f"{method}-ipc{ipc}-seed{seed}"
    if not (place / "dataset" / "condensation.json").exists():
        CondensationTrainer(
            method, "digits", ipc=ipc, seed=seed, output_dir=str(place), regimes=("hard",), student_seeds=1,
            student_epochs=1, baselines=("random",), store="none", **shortened,
        ).run()  # fmt: skip
    return place


def expected_minutes(place: Place, scorer: BoardScorer, settings: BoardSettings, methods: tuple[str, ...]) -> float:
    """Minutes of all students that are not scored yet, from one that is measured now; synthesis is not in it."""
    bank = Bank(place, scorer, KEEPER)
    started, ipc = time.monotonic(), settings.ipc[-1]
    measured = scorer.score_each([scorer.draw(ipc, PROBE)], ipc, [PROBE], f"random-{ipc}-{PROBE}")
    each = max(sum(run.seconds for run in measured), time.monotonic() - started) / len(measured)
    columns = len(settings.regimes) * len(settings.students)
    submitted = sum(r.content.kind == "submission" for r in place.entries(Result))
    waiting = (len(methods) * len(settings.ipc) - submitted) * settings.seeds * columns
    return (sum(map(bank.students, bank.missing())) + waiting) * each / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/leaderboard"))
    parser.add_argument("--methods", help="methods that are submitted, with commas")
    parser.add_argument("--tiny", action="store_true", help="a few steps, and the methods that optimise no pixels")
    given = parser.parse_args()
    show_messages()
    settings, shortened = (TINY, {"squeeze_epochs": 1}) if given.tiny else (SETTINGS, {})
    methods = tuple(given.methods.split(",")) if given.methods else TINY_METHODS if given.tiny else METHODS
    folder, began = given.output_dir, time.monotonic()
    board, work = folder / "board", folder / "work"
    init_board(board, "digits", settings)
    place = open_place(board)
    minutes = expected_minutes(place, BoardScorer(place, "digits", work), settings, methods)
    sets = len(runs_of(settings, methods))
    print(f"about {minutes:.0f} minutes of students on this machine, and {sets} syntheses; the same command resumes")
    fill_bank(board, by=KEEPER, work=work)
    for method in methods:
        for ipc in settings.ipc:
            made = [condense(folder, *run, **shortened) for run in runs_of(settings, (method,)) if run[1] == ipc]
            done = submit([str(run) for run in made], board, by=KEEPER, work=work)
            print(f"{done.verdicts}\n{done.where}\n")
    site = build_site(board, folder / "site")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes; open {site / 'index.html'}")
    print(f"or serve it: hf-condense leaderboard serve {site}")


if __name__ == "__main__":
    main()
