"""One runner for all studies: a dataset, rows of images, and the recipe by which students score them.

    HF_CONDENSE_DATA=<folder with fashion_mnist/> python -m benchmarks.study equal --ipc 10

`studies.py` holds the studies by name. A row is random, noise or all real images, or the sets that a method makes, one for
each seed; differences are of several sets by Welch's test over sets, of one set in the prediction form. Sets and scores are kept in `--folder`: the same command again goes on from there.
`--set` and `--recipe` change settings of the runs and of the students, to try a study at a small size.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from benchmarks import record
from benchmarks.sets import Study, as_set, condensed, looks, real_sets, squeezed, trainer
from hf_condense import CondensationTrainer
from hf_condense.config import LabelSettings
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import score
from hf_condense.evaluation.scores import gap, summarise
from hf_condense.files import fingerprint


def scored(study: Study, base: CondensationTrainer, sets: dict[str, list[ImageSet]]) -> list[dict]:
    """Accuracy of every row, student and regime. Rows of one recipe are scored in one table."""
    groups: dict[str, list[str]] = {}
    for name in sets:
        row = study.rows[name]
        groups.setdefault(fingerprint([row.recipe, row.labels, row.regimes]), []).append(name)
    top1: dict[tuple[str, str, str], list[float]] = {}
    by_set: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    weighs = {}
    test = base.splits.test
    for group, names in groups.items():
        row = study.rows[names[0]]
        factor = sets[names[0]][0].formation_factor
        cells = score(
            {name: sets[name] for name in names}, protocol=get_protocol(study.protocol, **{**study.recipe, **row.recipe}),
            students=study.students, regimes=row.regimes or study.regimes, seeds=study.sets * study.each,
            ipc=study.ipc * factor**2, teacher=base.teacher(), test_images=test.decoded(),
            test_labels=torch.from_numpy(test.labels), test_digest=test.fingerprint, spec=base.train.plain_spec,
            flip=base.flip, key=base.key / "students", device=base.device, scores_folder=base.folder / "rows" / group,
            label_settings=LabelSettings(**row.labels), whitening=base.settled.whitening,
        ).cells  # fmt: skip
        for cell in sorted(cells, key=lambda cell: cell["seed"]):
            at = (cell["row"], cell["student"], cell["regime"])
            top1.setdefault(at, []).append(cell["top1"])
            by_set.setdefault(at, {}).setdefault(cell["set"], []).append(cell["top1"])
            store = sets[cell["row"]][0].store if cell["regime"] == "stored" else None
            weighs[at] = {"label_bytes": cell["label_bytes"], "store_bytes": store and store.bytes}
    return [_summary(study, top1, by_set, at) | weighs[at] for at in top1]


def _summary(study: Study, top1: dict, by_set: dict, at: tuple[str, str, str]) -> dict:
    """A row with its mean, and its difference to the row beside it (in the same regime, where it was scored in that)."""
    row, student, regime = at
    beside = study.rows[row].beside or next(iter(study.rows))
    other = [key for key in top1 if key[:2] == (beside, student)]
    other = [key for key in other if key[2] == regime] or other[:1]
    facts = summarise(top1[at])
    found = {"row": row, "student": student, "regime": regime, "mean": facts.mean, "std": facts.std, "top1": top1[at]}
    text = f"{100 * facts.mean:.1f} ± {100 * (facts.std or 0):.1f}"
    if other and row != beside:
        mine, theirs = ([sum(runs) / len(runs) for runs in by_set[key].values()] for key in (at, other[0]))
        if min(len(mine), len(theirs)) > 1:  # students of one set are no further sets: each counts once
            apart = gap(mine, theirs, len(mine), len(theirs))
        else:
            apart = gap(top1[at], top1[other[0]], len(mine), len(theirs))
        found["difference"] = {"to": beside, **{k: getattr(apart, k) for k in ("mean", "low", "high", "test")}}
        low, high = (f"{100 * end:+.1f}" if end is not None else "?" for end in (apart.low, apart.high))
        text += f" ({100 * apart.mean:+.1f} [{low}, {high}] to {beside}, {apart.test})"
    print(f"{row} | {student}, {regime} | {text}", flush=True)
    return found


def conduct(study: Study, folder: Path, forced: dict) -> dict:
    """Makes all sets, scores all rows; what is kept in `folder` is not made again."""
    base = trainer(study, folder, "random", study.labeller, forced)
    labelled = {r for row in study.rows.values() for r in row.regimes or study.regimes} - {"hard"}
    networks = {"labellers": squeezed(base)} if labelled else {}
    judge = None
    if study.unseen:
        judged = {"base_model": study.unseen, "teachers": None}
        judge = trainer(study, folder, "random", judged, forced).squeeze()[0].model.to(base.device).freeze()
    sets, costs = {}, {}
    for name, row in study.rows.items():
        count = row.sets or study.sets
        if row.method in ("random", "noise", "full", "class_means"):
            sets[name] = real_sets(base, row.method, study.ipc, count)
            continue
        run = trainer(study, folder, row.method, row.settings, forced)
        if run.method.info.pool:
            networks[name] = squeezed(run)
        made, spent = condensed(run, study, count)
        sets[name] = [as_set(one, row.part, run.method.formation_factor) for one in made]
        costs[name] = {"sets": spent, "images": looks(made, judge), "settings": run.config.sections()["method"]}
        print(f"{name}: {spent}", flush=True)
    return {"rows": scored(study, base, sets), "costs": costs, "networks": networks}


def parser():
    from benchmarks.studies import STUDIES

    found = record.parser(__doc__)
    found.add_argument("study", choices=sorted(STUDIES))
    found.add_argument("--ipc", type=int, help="images a class; defaults to that of the study")
    found.add_argument("--rows", nargs="+", help="only these")
    found.add_argument("--students", nargs="+", help="student networks")
    found.add_argument("--sets", type=int, help="condensed sets a row")
    found.add_argument("--each", type=int, help="students a set")
    found.add_argument(
        "--held_out", action="store_true", help="use the training images alone, score on a fifth of them"
    )
    found.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of all runs")
    found.add_argument(
        "--recipe", nargs="+", default=[], metavar="NAME=VALUE", help="values of the students' protocol"
    )
    found.add_argument("--folder", type=Path, default=Path("runs/study"), help="where sets and scores are kept")
    return found


def chosen(options) -> tuple[Study, dict]:
    """The study with what the command line changes, and the settings that it forces on all runs."""
    from benchmarks.studies import STUDIES

    study = STUDIES[options.study](*[options.ipc] * bool(options.ipc))
    recipe = {name: yaml.safe_load(value) for name, value in (pair.split("=", 1) for pair in options.recipe)}
    changes = {name: getattr(options, name) for name in ("sets", "each") if getattr(options, name)}
    changes |= {"held_out": True} if options.held_out else {}
    changes |= {"students": tuple(options.students)} if options.students else {}
    rows = {name: row for name, row in study.rows.items() if not options.rows or name in options.rows}
    rows = {name: replace(row, recipe={**row.recipe, **recipe}) for name, row in rows.items()}
    study = replace(study, rows=rows, recipe={**study.recipe, **recipe}, **changes)
    return study, dict(pair.split("=", 1) for pair in options.set)


def main() -> None:
    options = record.options(parser())
    study, forced = chosen(options)
    started = time.perf_counter()
    result = conduct(study, options.folder / options.study, forced)
    result["seconds"] = round(time.perf_counter() - started)
    record.write(f"study_{options.study}_ipc{study.ipc}", options, result, show=False)


if __name__ == "__main__":
    main()
