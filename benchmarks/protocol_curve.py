"""Does a student protocol tell sets apart: all real images beside random ones, over the steps of a training.

    HF_CONDENSE_DATA=<folder with fashion_mnist/, cifar10/> python -m benchmarks.protocol_curve fashion_mnist

Students are scored on a held-out fifth of the training images, which no network of this script was trained on (but the
ResNet-20 that labels CIFAR-10: `models/` holds networks trained on all training images). A curve is that of one training,
looked at on the way; a training that ends there has a lower rate at its end. All real images are trained on with the same
labels as random ones. The regime `stored` is for protocols with a label an image (`--recipe label_per=image`). A finished
curve is a file in `--folder`, and is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

from benchmarks import record
from benchmarks.sets import Study, real_sets, squeezed, trained_on_cifar10, trainer
from hf_condense.evaluation.batches import Pixels
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.students import fit_student, training_plan
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.files import fingerprint, read_json, write_json
from hf_condense.models.loading import load_untrained
from hf_condense.models.training import evaluate_top1

SQUEEZE = {"squeeze_epochs": 2, "squeeze_schedule": "cosine", "squeeze_batch": 64, "squeeze_lr": 0.05}


def labeller(data: str) -> dict:
    """Settings of the network that labels."""
    if data != "cifar10":
        return {"base_model": "convnet_bn_w32", **SQUEEZE}
    return {"base_model": trained_on_cifar10(20), "squeeze_epochs": 0}


def sets_of(base, ipcs: list[int], seed: int) -> dict[str, ImageSet]:
    """A random draw at each number of images a class, and all real images, trained on as long as ten a class."""
    found = {f"random {ipc}": real_sets(base, "random", ipc, seed + 1)[seed] for ipc in ipcs}
    everything = real_sets(base, "full", 0, 1)[0]
    everything.train_as_if_images = 10 * base.train.num_classes
    return {**found, "all real": everything}


def curve(base, student: str, images: ImageSet, regime: str, protocol: Protocol, every: int, state: Path) -> list:
    """[[steps, top-1 of the scored weights], ...] of one student, about every `every` steps and at its end."""
    train, test = base.train, base.splits.test
    teacher = base.teacher() if regime != "hard" else None
    soft = teacher.soft_labels(images.images, base.device) if regime == "stored" else None  # a label an image
    shown = TrainingSet(
        images.images, images.labels, regime, teacher, soft=soft, train_as_if_images=images.train_as_if_images
    )
    as_if = shown.trained_as
    protocol, recipe = training_plan(protocol.resolve(student, as_if // train.num_classes), as_if)
    total, found = protocol.steps, []
    key, size = base.key / "curve" / student / state.name[-1], train.image_size
    model = load_untrained("students", student, train.spec, key=key / "init")
    due = max(1, round(recipe.epochs * every / total))

    def look(epoch: int, online, averaged, row: dict) -> None:
        if (epoch + 1) % due == 0 or epoch + 1 == recipe.epochs:
            network = online if averaged is None else averaged
            top1 = evaluate_top1(network, test.decoded(), torch.from_numpy(test.labels), base.device, size=size)
            found.append([round((epoch + 1) * total / recipe.epochs), round(top1, 4)])

    fit_student(
        model, shown, protocol, recipe, size=size, key=key, device=base.device,
        pixels=Pixels(train.mean, train.std, base.flip), on_epoch=look,
    )  # fmt: skip
    return found


def curves(options, base, protocol: Protocol) -> Iterator[dict]:
    for seed in range(options.sets):
        rows = sets_of(base, options.ipc, seed)
        for student in options.students:
            for regime in options.regimes:
                for name, images in rows.items():
                    facts = [options.data, student, regime, name, asdict(protocol), options.every, options.max_test]
                    path = options.folder / "curves" / f"{fingerprint(facts)}-{seed}.json"
                    if not path.exists():
                        points = curve(base, student, images, regime, protocol, options.every, path.with_suffix(""))
                        write_json(path, points)
                    found = {"student": student, "regime": regime, "row": name, "seed": seed, "curve": read_json(path)}
                    text = ", ".join(f"{steps}: {100 * top1:.1f}" for steps, top1 in found["curve"])
                    print(f"{student} | {regime} | {name} | {text}", flush=True)
                    yield found


def conduct(options) -> dict:
    forced = dict(pair.split("=", 1) for pair in options.set)
    recipe = {name: yaml.safe_load(value) for name, value in (pair.split("=", 1) for pair in options.recipe)}
    shared = {"max_test": options.max_test, **labeller(options.data)}
    study = Study(
        options.data, {}, shared, students=tuple(options.students), regimes=tuple(options.regimes), held_out=True
    )
    base = trainer(study, options.folder, "random", {}, forced)
    networks = squeezed(base) if set(options.regimes) - {"hard"} else {}
    protocol = get_protocol(options.protocol, **{**recipe, "steps": options.steps, "best_every": 0})
    return {"rows": list(curves(options, base, protocol)), "networks": networks, "recipe": recipe}


def parser() -> argparse.ArgumentParser:
    found = record.parser(__doc__)
    found.add_argument("data", help="name of a folder of HF_CONDENSE_DATA, or digits")
    found.add_argument("--protocol", default="small", help="where the values not in --recipe come from")
    found.add_argument("--steps", type=int, default=2000)
    found.add_argument("--every", type=int, default=500, help="steps from look to look")
    found.add_argument("--ipc", nargs="+", type=int, default=[10])
    found.add_argument("--regimes", nargs="+", default=["hard", "online"])
    found.add_argument("--students", nargs="+", default=["convnet_w32"])
    found.add_argument("--sets", type=int, default=1, help="draws, one student seed each")
    found.add_argument("--max_test", type=int, default=2000, help="held-out images that are scored")
    found.add_argument("--recipe", nargs="+", default=[], metavar="NAME=VALUE", help="values of the protocol")
    found.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of all runs")
    found.add_argument("--folder", type=Path, default=Path("runs/protocol-curve"))
    return found


def main() -> None:
    options = record.options(parser())
    record.write(f"protocol_curve_{options.data}", options, conduct(options), show=False)


if __name__ == "__main__":
    main()
