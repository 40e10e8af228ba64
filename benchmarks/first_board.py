"""A board of all methods on one dataset: its bank, sets of each method at sizes of a small machine, and the pages.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.first_board fashion_mnist --methods dm edc

Protocol `compare`. What is done is kept: the same command goes on from there, and with further methods adds them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.sets import known_settings
from benchmarks.studies import CHOSEN, INNER, MATCHING, POST, SEVERAL, SINGLE, SQUEEZE, STEPS
from hf_condense import CondensationTrainer
from hf_condense.cli import show_messages
from hf_condense.leaderboard.bank import fill_bank
from hf_condense.leaderboard.keep import BoardSettings, init_board
from hf_condense.leaderboard.site import build_site
from hf_condense.leaderboard.submit import submit
from hf_condense.methods import method_class
from hf_condense.run.resolve import load_preset

KEEPER = "keeper"
MATCHED = {"base_model": "convnet_w32", "real_batch": 64}
TILED = {**MATCHED, **INNER, "formation_factor": 2}
# beside those of the preset; untuned where studies.py does not say where a value was chosen
SETTINGS = {
    "rded": SINGLE, "sre2l": SINGLE | STEPS, "cda": SINGLE | STEPS, "sre2lpp": SINGLE | STEPS, "gvbsm": SEVERAL | STEPS,
    "edc": SEVERAL | CHOSEN, "teddy": POST | STEPS, "dm": MATCHED, "dc": MATCHED, "dsa": MATCHED, "idc": TILED,
    "dream": {**TILED, "cluster_candidates": 1000},
}  # fmt: skip


def settings_of(method: str, data: str, ipc: int) -> dict:
    """The method's own values in its preset for this dataset, and over them those above."""
    own = load_preset(method, data, ipc, "paper").values
    own = {k: v for k, v in own.items() if k in method_class(method).Settings.__dataclass_fields__}
    number = {"iterations": MATCHING[method, ipc]} if (method, ipc) in MATCHING else {}
    return {**own, **SQUEEZE, **SETTINGS[method], **number}


def condense(folder: Path, source: str, data: str, method: str, ipc: int, seed: int, threads: int) -> str:
    """The run folder of one set. It is scored as little as a run allows, because the board scores it."""
    place = folder / "runs" / f"{method}-ipc{ipc}-seed{seed}"
    if not (place / "dataset" / "condensation.json").exists():
        values = {
            **settings_of(method, data, ipc), "ipc": ipc, "seed": seed, "regimes": ("hard",), "student_seeds": 1,
            "student_epochs": 1, "students": ("convnet_w32",), "baselines": ("random",), "store": "none",
            "protocol": "compare", "threads": threads, "precision": "fp32", "max_test": 1000,
        }  # fmt: skip
        CondensationTrainer(method, source, output_dir=str(place), **known_settings(method, values)).run()
    return str(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="name of a folder of HF_CONDENSE_DATA")
    parser.add_argument("--methods", nargs="+", choices=sorted(SETTINGS), default=sorted(SETTINGS))
    parser.add_argument("--ipc", nargs="+", type=int, default=[10])
    parser.add_argument("--regimes", nargs="+", default=["hard", "online"])
    parser.add_argument("--students", nargs="+", default=["convnet_w32"])
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--draws", type=int, default=5, help="random draws of the bank")
    parser.add_argument("--teacher", default="convnet_bn_w32", help="network that labels for all rows")
    parser.add_argument("--teacher_epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/first-board"))
    given = parser.parse_args()
    show_messages()
    source = str(Path(os.environ["HF_CONDENSE_DATA"]) / given.data)
    folder = given.folder / given.data
    board, work = folder / "board", folder / "work"
    init_board(
        board, given.data,
        BoardSettings(
            sources=(source,), ipc=tuple(given.ipc), students=tuple(given.students), regimes=tuple(given.regimes),
            protocol="compare", teacher_model=given.teacher, teacher_epochs=given.teacher_epochs, seeds_min=given.sets,
            seeds=given.sets, draws=given.draws, ladder=(1, 10, 50), ladder_draws=given.sets,
        ),
    )  # fmt: skip
    fill_bank(board, by=KEEPER, work=work)
    for method in given.methods:
        for ipc in given.ipc:
            made = [condense(folder, source, given.data, method, ipc, s, given.threads) for s in range(given.sets)]
            done = submit(made, board, by=KEEPER, work=work)
            print(f"{method}, {ipc} images a class\n{done.verdicts}\n{done.where}\n", flush=True)
    print(build_site(board, folder / "site") / "index.html")


if __name__ == "__main__":
    main()
