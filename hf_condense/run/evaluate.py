"""Evaluate: students from scratch on the condensed set and on the sets beside which that means something."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_condense.data.crops import centre
from hf_condense.evaluation.grid import LOOKS
from hf_condense.evaluation.image_set import ImageSet
from hf_condense.evaluation.looks import CURVE_IMAGES
from hf_condense.evaluation.probe import centroid_rows, features, shows_whole_images
from hf_condense.evaluation.protocol import Protocol
from hf_condense.evaluation.report import ScoreTable
from hf_condense.evaluation.run import score
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import backbone_of, is_probe, short_name
from hf_condense.run.base import Run
from hf_condense.run.condense import Condense
from hf_condense.run.probe import Probe
from hf_condense.run.relabel import Relabel, condensed_set, scored_sets, training_facts
from hf_condense.run.squeeze import Squeeze
from hf_condense.run.stage import Cost, Outputs, Stage
from hf_condense.selection.real import random_real


class Evaluate(Stage[ScoreTable]):
    """Students from scratch on every row, label regime and seed."""

    name, place, after, by_content = "evaluate", "scores", (Condense, Relabel), True
    version = 3  # 2: fused Adam and AdamW; 3: fused blocks of ConvNets

    def settings(self, run: Run) -> dict[str, Any]:
        return {**asdict(run.config.evaluation), "protocol": asdict(run.protocol)}

    def make(self, run: Run, done: Outputs, folder: Path) -> ScoreTable:
        return self.load(run, done, folder)

    def load(self, run: Run, done: Outputs, folder: Path) -> ScoreTable:
        """Every student is a file; those that are there are not trained."""
        evaluation, train = run.config.evaluation, run.train
        return score(
            scored_rows(run, done),
            protocol=run.protocol,
            students=evaluation.students,
            regimes=evaluation.regimes,
            seeds=evaluation.student_seeds,
            ipc=run.training_ipc,
            teacher=done[Squeeze].teacher if run.labelled else None,
            test_images=run.test.decoded(),
            test_labels=torch.from_numpy(run.test.labels),
            test_digest=run.test.fingerprint,
            spec=train.plain_spec,
            flip=run.flip,
            key=run.key / "students",
            device=run.device,
            label_settings=run.config.labels,
            scores_folder=folder,
            accelerator=run.accelerator,
            whitening=run.whitening,
            backbones=trained_networks(run, done),
            best_seen=evaluation.best_seen,
        )

    def cost(self, run: Run, probe: Probe) -> Cost:
        evaluation, images = run.config.evaluation, run.training_images
        virtual = run.labelled and Relabel().settings(run)["store"] == "virtual"
        # seconds to label an image: where a teacher is asked while students are trained
        epochs = run.student_protocol.duration(images)[0]
        asked = virtual or "online" in evaluation.regimes
        labels = probe.label_epoch(images, epochs) / images if asked else 0.0
        seconds, disk = 0.0, 0.0
        if run.labelled:  # the labels of other rows are made here, and the teacher is scored
            seconds += len(run.test) * sum(probe.network(name).forward for name in probe.teacher_names)
            if "stored" in evaluation.regimes:
                store = Relabel().cost(run, probe)
                seconds += (scored_sets(run) - 1) * store.seconds * probe.processes
                disk += (scored_sets(run) - 1) * store.disk
        for student in evaluation.students:
            protocol = run.protocol.resolve(student, run.training_ipc)
            epochs, limit = protocol.duration(images)
            seen = epochs * (min(limit * protocol.batch_size(images), images) if limit else images)
            features = is_probe(student) and shows_whole_images(protocol)
            network = probe.network(student)
            # the accuracy over the test set, and in part for the curve of the first seed
            looked = len(run.test) * (1 + _looks(protocol, epochs)) if evaluation.best_seen else len(run.test)
            looked += LOOKS * min(CURVE_IMAGES, len(run.test)) / evaluation.student_seeds
            once = network.making + looked * network.forward
            if features:
                once += images * network.forward
            else:
                training = probe.student(student, images, epochs)
                once += training.once + seen / images * training.epoch
            online = seen * labels * (("online" in evaluation.regimes) + virtual)
            full = once if "full" in evaluation.baselines else 0.0
            rows = scored_sets(run) * (once * len(evaluation.regimes) + online)
            if unclamped(run):
                free = {*evaluation.regimes} - {"stored"}
                rows += once * len(free) + seen * labels * ("online" in free)
            seconds += evaluation.student_seeds * (rows + full)
        return Cost(seconds / probe.processes, disk=disk)


def unclamped(run: Run) -> bool:
    """Whether images leave [0, 1]: these are scored as they are too."""
    return any(run.method.recipe(shard, run.spec).clamp_every == 0 for shard in run.plan.optimised[:1])


def _looks(protocol: Protocol, epochs: int) -> int:
    """Times that the accuracy over the test set is taken on the way."""
    every = protocol.best_every
    return sum(protocol.best_from * epochs < done < epochs for done in range(every, epochs, every)) if every else 0


def scored_rows(run: Run, done: Outputs) -> dict[str, ImageSet | list[ImageSet]]:
    """What is scored beside the condensed set: all real images, random ones (a draw a seed), the first images."""
    evaluation, synthetic, train = run.config.evaluation, done[Condense].synthetic, run.train
    name, facts, rows = run.config.run.method, training_facts(run, synthetic), {}
    if "full" in evaluation.baselines:
        full = centre(train.decoded(), train.image_size)
        rows["full"] = ImageSet(full, torch.from_numpy(train.labels), digest=train.fingerprint)
    if "class_means" in evaluation.baselines:
        rows["class means"] = ImageSet(
            centre(train.decoded(), train.image_size),
            torch.from_numpy(train.labels),
            digest=train.fingerprint,
            as_class_means=True,
            note="no images: the nearest class mean of all real images, in the features of the probed network",
        )
    if "centroids" in evaluation.baselines:
        rows["centroids"] = nearest_to_centroids(run, done, synthetic.labels)
    if "random" in evaluation.baselines and name != "random":
        labels = tuple(synthetic.labels.tolist())
        draws = (
            random_real(train, labels, train.image_size, run.key / "baseline" / i)[0]
            for i in range(evaluation.student_seeds)
        )
        # in the same stages, so that students take as many steps
        rows["random"] = [ImageSet(images, synthetic.labels, stages=synthetic.stages) for images in draws]
    if "initial" in evaluation.baselines and not torch.equal(synthetic.initial, synthetic.images):
        rows["initial"] = ImageSet(synthetic.initial, synthetic.labels, **facts)
    rows[name] = condensed_set(run, done)
    if synthetic.pixels is not None:  # what 8 bits and [0, 1] cost
        free = tuple(r for r in evaluation.regimes if r != "stored")
        rows[f"{name} (float)"] = ImageSet(synthetic.pixels, synthetic.labels, regimes=free, **facts)
    return rows


def nearest_to_centroids(run: Run, done: Outputs, labels: Tensor) -> ImageSet:
    """The real images nearest to the k-means centroids of their class, in the features of the first probed network."""
    train, student = run.train, next(filter(is_probe, run.config.evaluation.students))
    images = centre(train.decoded(), train.image_size)
    backbone = backbone_of(student, train.plain_spec, trained_networks(run, done))
    known = features(backbone, images, train.image_size, run.device)
    rows = centroid_rows(
        known, train.labels, train.num_classes, run.config.run.ipc, run.key / "baseline" / "centroids"
    )
    note = f"the real images nearest to the centroids of their class in the features of {short_name(student)}"
    return ImageSet(images[torch.from_numpy(rows)], labels, note=note)


def trained_networks(run: Run, done: Outputs) -> dict[str, ImageModel]:
    """The networks of the pool by name; none where there is no pool."""
    return {member.name: member.model for member in done[Squeeze].pool} if run.needs_pool else {}
