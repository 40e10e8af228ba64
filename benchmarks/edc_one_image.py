"""Why EDC at one image a class falls below random images with strong networks: observers and labels, one changed at a time.

    HF_CONDENSE_DATA=<folder with cifar10/, models/ beside it> python -m benchmarks.edc_one_image

Rows: random images, and EDC's with the observers of a weak pool (small ConvNets after one epoch's number of steps) or of a
strong one (ResNet-20 and -32 of `models/`, 92 %). Labels: hard, of the weak pool, of ResNet-20, and of ResNet-20
with logits divided until they are as large as the weak ones'. Protocol edc-cifar10; nothing is chosen here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import record
from benchmarks.sets import Study, as_set, condensed, real_sets, squeezed, trained_on_cifar10, trainer
from hf_condense.data.pixels import unit_pixels
from hf_condense.evaluation.batches import student_batches
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.run import score
from hf_condense.evaluation.scores import gap, summarise
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels.teacher import Ensemble

WEAK = {"base_model": "convnet_w32,convnet_bn_w32", "squeeze_epochs": 2}
SHARED = {
    "max_per_class": 2500, "max_test": 1000, "squeeze_batch": 64, "squeeze_lr": 0.05, "squeeze_schedule": "constant",
    "squeeze_weight_decay": 0.0, "squeeze_pad": 4, "observers": None, "teachers": None,
}  # fmt: skip


class Softer(Ensemble):
    """An ensemble whose logits are divided by a number."""

    divisor = 1.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) / self.divisor


def scale(teacher: Ensemble, images: torch.Tensor, device: torch.device) -> float:
    """Root mean square of the logits of an image around their mean, over real images."""
    logits = teacher.logits(unit_pixels(images, device))
    return float((logits - logits.mean(1, keepdim=True)).square().mean().sqrt())


def pools(study: Study, folder: Path, forced: dict) -> dict:
    """The run of each pool; a network of `models/` needs no training."""
    strong = {"base_model": trained_on_cifar10(20, 32), "teachers": trained_on_cifar10(20), "squeeze_epochs": 0}
    strong["max_per_class"] = 250  # enough for statistics, which are all that this pool takes from real images
    return {name: trainer(study, folder, "edc", own, forced) for name, own in (("weak", WEAK), ("strong", strong))}


def labellers(runs: dict) -> dict[str, Ensemble]:
    """The teachers by name; `strong, softer` has logits as large as those of `weak` on 1,000 training images."""
    weak, strong = (runs[name].teacher() for name in ("weak", "strong"))
    softer = Softer(list(strong.models))
    images, device = runs["weak"].train.decoded()[::25][:1000], runs["weak"].device
    softer.divisor = scale(strong, images, device) / scale(weak, images, device)
    return {"weak": weak, "strong": strong, "strong, softer": softer}


def conduct(options) -> dict:
    forced = dict(pair.split("=", 1) for pair in options.set)
    study = Study(
        "cifar10",
        {},
        SHARED,
        options.ipc,
        "edc-cifar10",
        presets=True,
        students=tuple(options.students),
        regimes=("online",),
    )
    runs = pools(study, options.folder, forced)
    networks = {name: squeezed(run) for name, run in runs.items()}
    base = runs["weak"]
    sets = {"random": real_sets(base, "random", options.ipc, options.sets)}
    for name, run in runs.items():
        made, _ = condensed(run, study, options.sets)
        sets[f"EDC, {name} observers"] = [as_set(one, "images", 1) for one in made]
    teachers = {name: t for name, t in labellers(runs).items() if not options.labels or name in options.labels}
    found, test = [], base.splits.test
    # shorter, with its drops at the same shares of the training, and scored at the end alone
    drops = {"milestones": (0.8, 0.9, 0.95), "factor": 0.5}
    protocol = get_protocol("edc-cifar10", epochs=options.epochs, schedule_params=drops, best_every=0)
    for label, teacher in {"hard": None, **teachers}.items():
        if label == "hard" and options.labels and "hard" not in options.labels:
            continue
        regime = "hard" if teacher is None else "online"
        cells = score(
            sets, protocol=protocol, students=study.students, regimes=(regime,), seeds=options.sets, ipc=options.ipc,
            teacher=teacher, test_images=test.decoded(), test_labels=torch.from_numpy(test.labels),
            test_digest=test.fingerprint, spec=base.train.plain_spec, flip=base.flip, key=base.key / "students",
            device=base.device, scores_folder=options.folder / "rows" / f"ipc{options.ipc}-{options.epochs}" / label.replace(", ", "-"),
        ).cells  # fmt: skip
        found += table(cells, label)
    facts = {
        f"{label} | {row}": label_facts(base, found_sets[0], teacher, protocol)
        for label, teacher in teachers.items()
        for row, found_sets in sets.items()
    }
    print(facts, flush=True)
    return {
        "labels": facts,
        "rows": found,
        "networks": networks,
        "divisor": getattr(teachers.get("strong, softer"), "divisor", None),
    }


@torch.no_grad()
def label_facts(base, images: ImageSet, teacher: Ensemble, protocol) -> dict[str, float]:
    """What students see as labels over 20 epochs: size of the logits, entropy of their softmax (nats), and how alike
    they are over the views of an image: the share of their variance that lies between images."""
    resolved = protocol.resolve("", 1)
    batches = student_batches(
        TrainingSet(images.images, images.labels, "online", teacher), resolved, resolved.policy(32, base.flip),
        base.key / "facts", base.device,
    )  # fmt: skip
    found = [batch for epoch in range(20) for batch in batches(epoch)]
    soft, own = (torch.cat([getattr(batch, name) for batch in found]) for name in ("soft", "labels"))
    log = soft.log_softmax(1)
    within = torch.stack([soft[own == c].var(0, unbiased=False).mean() for c in own.unique()]).mean()
    return {
        "rms": float((soft - soft.mean(1, keepdim=True)).square().mean().sqrt()),
        "entropy": float(-(log.exp() * log).sum(1).mean()), "own_class": float((soft.argmax(1) == own).float().mean()),
        "between": float(1 - within / soft.var(0, unbiased=False).mean()),
    }  # fmt: skip


def table(cells: list[dict], label: str) -> list[dict]:
    """Mean and spread of each row, and its difference to random images with the same labels (Welch, 95 %)."""
    top1: dict[tuple[str, str], list[float]] = {}
    for cell in sorted(cells, key=lambda cell: cell["seed"]):
        top1.setdefault((cell["student"], cell["row"]), []).append(cell["top1"])
    found = []
    for (student, row), values in top1.items():
        facts = summarise(values)
        text = f"{student} | {label} | {row} | {100 * facts.mean:.1f} ± {100 * (facts.std or 0):.1f}"
        found.append({"student": student, "labels": label, "row": row, "top1": values})
        if row != "random":
            apart = gap(values, top1[student, "random"], len(values), len(values))
            found[-1]["difference"] = {"mean": apart.mean, "low": apart.low, "high": apart.high}
            ends = (f"{100 * end:+.1f}" if end is not None else "?" for end in (apart.low, apart.high))
            text += f" ({100 * apart.mean:+.1f} [{', '.join(ends)}])"
        print(text, flush=True)
    return found


def parser() -> argparse.ArgumentParser:
    found = record.parser(__doc__)
    found.add_argument("--ipc", type=int, default=1)
    found.add_argument("--epochs", type=int, default=1000, help="of a student; 1000 are published")
    found.add_argument("--sets", type=int, default=3, help="sets or draws, one student seed each")
    found.add_argument("--students", nargs="+", default=["convnet_bn_w32"])
    found.add_argument("--labels", nargs="+", help="only these of hard, weak, strong and 'strong, softer'")
    found.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of all runs")
    found.add_argument("--folder", type=Path, default=Path("runs/edc-one-image"))
    return found


def main() -> None:
    options = record.options(parser())
    record.write(f"edc_one_image_ipc{options.ipc}", options, conduct(options), show=False)


if __name__ == "__main__":
    main()
