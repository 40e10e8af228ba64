"""A board of all families on one dataset: its bank, several sets of each method at sizes of a small machine, and the pages.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.first_board fashion_mnist
    ... --only condense            # sets alone, in one process, while another one scores: --only score

Protocol `compare`. What is done is kept: the same command goes on from there, and with further rows adds them. A row
whose set cannot be made is named with its error, and the others go on.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from benchmarks.sets import known_settings
from benchmarks.studies import CHOSEN, DIGITS_MTT, INNER, MATCHING, WHOLE_VIEWS
from hf_condense import CondensationTrainer, DistilledDataset
from hf_condense.cli import show_messages
from hf_condense.errors import CondensationError
from hf_condense.leaderboard.bank import fill_bank
from hf_condense.leaderboard.keep import BoardSettings, init_board
from hf_condense.leaderboard.site import build_site
from hf_condense.leaderboard.submit import submit
from hf_condense.methods import METHODS, method_class
from hf_condense.run.resolve import load_preset, preset_names

KEEPER, DIGITS = "keeper", "digits"
POOL = ("convnet_bn_w32", "convnet_w32", "convnet_d2_w16")  # trained once for each dataset; all sets look through them
TRAINED = {"squeeze_epochs": 6, "squeeze_schedule": "cosine", "squeeze_batch": 64, "squeeze_lr": 0.05}
SINGLE, SEVERAL, STEPS = {"pool": POOL[:1]}, {"pool": POOL}, {"iterations": 300, "shard_size": 100}
PLAIN = {"pool": POOL[1:2]}  # a network without batch norms
MATCHED = {**PLAIN, "real_batch": 64}
TILED = {**MATCHED, **INNER, "formation_factor": 2}
WATCHED = {**PLAIN, "dynamics_epochs": 11}
EXPERTS = {
    **DIGITS_MTT,
    **PLAIN,
    "experts": 2,
    "expert_epochs": 8,
    "expert_batch": 256,
    "first_epochs": 4,
    "student_steps": 20,
    "lr": 100.0,
}
TRAININGS = {"trainings": 2, "network_epochs": 4}  # published: 20 of 60 epochs
# row: method, and values beside those of its preset; untuned where studies.py does not say where a value was chosen
ROWS: dict[str, tuple[str, dict]] = {
    "random": ("random", {}),
    "forgetting": ("coreset", {**WATCHED, "selection": "forgetting"}),
    "forgetting_easy": ("coreset", {**WATCHED, "selection": "forgetting_easy"}),
    "cad_high": ("coreset", {**WATCHED, "selection": "cad_high"}),
    "cad_low": ("coreset", {**WATCHED, "selection": "cad_low"}),
    "pca_tiles": ("coreset", {**PLAIN, "selection": "pca_tiles", "dynamics_epochs": 3, "el2n_epochs": 3}),
    "bps": ("bps", PLAIN),
    "ca2d": ("ca2d", {**WATCHED, "rded_candidates": 100}),
    "rded": ("rded", SINGLE),
    "cim": ("cim", {**PLAIN, "iterations": 100}),
    "mosaic": ("mosaic", {**SINGLE, "iterations": 200, "lr": 0.01}),  # chosen by the study of its name
    "edc": ("edc", {**SEVERAL, **CHOSEN, **WHOLE_VIEWS}),
    "edc_crops": ("edc", {**SEVERAL, **CHOSEN}),  # the views of its paper
    "edc_medoids": ("edc", {**SINGLE, **CHOSEN, **WHOLE_VIEWS, "init": "medoids"}),
    "edc_tiles": ("edc", {**SINGLE, **CHOSEN, **WHOLE_VIEWS, "init": "easy", "formation_factor": 2}),
    "sre2l": ("sre2l", {**SINGLE, **STEPS}),
    "cda": ("cda", {**SINGLE, **STEPS}),
    "sre2lpp": ("sre2lpp", {**SINGLE, **STEPS}),
    "gvbsm": ("gvbsm", {**SEVERAL, **STEPS}),
    "teddy": ("teddy", {**SINGLE, **STEPS, "pool_kind": "none"}),
    "fadrm": ("fadrm", {**SINGLE, **STEPS}),
    "fadrmplus": ("fadrmplus", {"pool": POOL[:2], **STEPS}),
    "cvdd": ("cvdd", {**SEVERAL, **STEPS, "priors": None}),
    "wmdd": ("wmdd", {**SINGLE, **STEPS}),
    "dwa": ("dwa", {**SINGLE, **STEPS}),
    "delt": ("delt", {**SINGLE, **STEPS, "iterations": 304}),  # a multiple of its rounds
    "ccfs": ("ccfs", {**WATCHED, "base_method": "rded", "base_model": POOL[0], **TRAINED}),  # trains more of that kind
    "dm": ("dm", MATCHED),
    "dc": ("dc", MATCHED),
    "dsa": ("dsa", MATCHED),
    "idc": ("idc", TILED),
    "dream": ("dream", {**TILED, "cluster_candidates": 1000}),
    "mtt": ("mtt", EXPERTS),
    "tesla": ("tesla", EXPERTS),
    "datm": ("datm", {**EXPERTS, "grow_from": None, "iterations": 40}),  # a minute for every ten
    "ncfm": ("ncfm", {**MATCHED, **TRAININGS, "iterations": 300}),
    "pdd_dm": ("pdd", {**MATCHED, "base_method": "dm", "stages": 2, "iterations": 150, "chains": 2, "chain_epochs": 20}),
    "lgm": ("lgm", PLAIN),
}  # fmt: skip


def pool_of(folder: Path, source: str, threads: int, **limits: int) -> dict[str, str]:
    """Network -> folder of its weights, trained once."""
    place = folder / "pool"
    run = CondensationTrainer(
        "edc", source, output_dir=str(place), base_model=",".join(POOL), threads=threads, **TRAINED, **limits
    )
    run.squeeze()
    return {name: str(place / "pool" / "models" / f"{i:02d}-{name}") for i, name in enumerate(POOL)}


def settings_of(row: str, data: str, ipc: int, networks: dict[str, str]) -> dict:
    """The method's own values in its preset for this dataset, and over them those above."""
    method, values = ROWS[row]
    own = load_preset(method, data, ipc, "paper").values if data in preset_names(method) else {}
    own = {k: v for k, v in own.items() if k in method_class(method).Settings.__dataclass_fields__}
    number = {"iterations": MATCHING[method, ipc]} if (method, ipc) in MATCHING else {}
    values = {**own, "pool": POOL[:1], "pool_kind": "none", **number, **values}
    pool = values.pop("pool")
    if "base_model" in values:
        return values
    if not METHODS[method].pool:  # its networks begin untrained
        return {**values, "base_model": ",".join(pool)}
    return {**values, "base_model": ",".join(networks[name] for name in pool), "squeeze_epochs": 0}


def condense(folder: Path, source: str, row: str, settings: dict, ipc: int, seed: int) -> str:
    """The run folder of one set. It is scored as little as a run allows, because the board scores it."""
    place = folder / "runs" / f"{row}-ipc{ipc}-seed{seed}"
    if not (place / "dataset" / "condensation.json").exists():
        values = {
            **settings, "ipc": ipc, "seed": seed, "regimes": ("hard",), "student_seeds": 1, "student_epochs": 1,
            "students": ("convnet_d1",), "baselines": ("random",), "store": "none", "protocol": "compare",
            "precision": "fp32", "max_test": 1000,
        }  # fmt: skip
        CondensationTrainer(ROWS[row][0], source, output_dir=str(place), **known_settings(ROWS[row][0], values)).run()
    return str(place)


def distinct(folders: list[str]) -> list[str]:
    """Without sets that are the same as an earlier one, as those of methods without chance are."""
    found = {DistilledDataset.load(folder).content["content_hash"]: folder for folder in reversed(folders)}
    return list(reversed(found.values()))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("data", help=f"{DIGITS}, or the name of a folder of HF_CONDENSE_DATA")
    found.add_argument("--rows", nargs="+", choices=sorted(ROWS), default=list(ROWS))
    found.add_argument("--only", choices=("condense", "score"), help="the sets, or their scores; both by default")
    found.add_argument("--ipc", nargs="+", type=int, default=[10])
    found.add_argument("--regimes", nargs="+", default=["hard", "stored", "online"])
    found.add_argument("--students", nargs="+", default=["convnet_w32"])
    found.add_argument("--steps", type=int, default=500, help="of a student; those of the protocol are 1,000")
    found.add_argument("--sets", type=int, default=5)
    found.add_argument("--draws", type=int, default=10, help="random draws of the bank")
    found.add_argument("--max_per_class", type=int, default=1000, help="training images of a class that are used")
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--folder", type=Path, default=Path("runs/first-board"))
    return found


def main() -> None:
    given = parser().parse_args()
    show_messages()
    source = given.data if given.data == DIGITS else str(Path(os.environ["HF_CONDENSE_DATA"]) / given.data)
    folder, board = given.folder / given.data, given.folder / given.data / "board"
    shared = {"max_per_class": given.max_per_class, "threads": given.threads}
    networks = pool_of(folder, source, **shared)
    if given.only != "condense":
        torch.set_num_threads(given.threads)
        init_board(
            board, given.data,
            BoardSettings(
                sources=(source,), ipc=tuple(given.ipc), students=tuple(given.students), regimes=tuple(given.regimes),
                protocol="compare", steps=given.steps, teacher_model=networks[POOL[0]], teacher_epochs=0,
                max_per_class=given.max_per_class, seeds_min=given.sets, seeds=given.sets, draws=given.draws,
                ladder=(1, 10, 50), ladder_draws=given.sets,
            ),
        )  # fmt: skip
        fill_bank(board, by=KEEPER, work=folder / "work")
    for row in given.rows:
        for ipc in given.ipc:
            settings = {**settings_of(row, given.data, ipc, networks), **shared}
            try:
                made = distinct([condense(folder, source, row, settings, ipc, seed) for seed in range(given.sets)])
                if given.only != "condense":
                    done = submit(made, board, by=KEEPER, work=folder / "work")
                    print(f"{row}, {ipc} images a class\n{done.verdicts}\n{done.where}\n", flush=True)
            except CondensationError as error:
                print(f"{row}, {ipc} images a class: {error}", flush=True)
    if given.only != "condense":
        print(build_site(board, folder / "site") / "index.html")


if __name__ == "__main__":
    main()
