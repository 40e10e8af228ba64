"""What a run is refused for before any work, and what it goes without."""

from __future__ import annotations

import logging

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from hf_condense.config import SqueezeSettings, check, nearest
from hf_condense.data.images import ImageSource
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.evaluation.protocol import Protocol
from hf_condense.methods import method_class
from hf_condense.methods.base import Method
from hf_condense.methods.registry import METHODS
from hf_condense.models.image_model import ImageModel
from hf_condense.models.linear_probe import PREFIX, is_probe, load_student
from hf_condense.models.loading import load_untrained
from hf_condense.models.networks import means_weights, weight_tag, without_tag
from hf_condense.plan import Plan
from hf_condense.run.resolve import Config

log = logging.getLogger(__name__)


def check_known(method: Method) -> None:
    """Raises ConfigError for a class that is not in the table: its name would record and resume another one."""
    cls, known = type(method), METHODS.get(method.name)
    check(
        known is not None and cls is method_class(method.name),
        "method",
        f"{cls.__module__}:{cls.__qualname__}",
        f"classes of hf_condense.methods.METHODS, where {method.name!r} is {known.where if known else 'not known'}",
        "give the class a name of its own and an entry there, as docs/add_a_method.md shows",
    )


def check_trackers(names: tuple[str, ...]) -> None:
    """Raises ConfigError for a tracker that Accelerate does not know, or whose package is not installed."""
    if not names:
        return
    known, here = ["all", *LOGGER_TYPE_TO_CLASS], [str(name) for name in get_available_trackers()]
    for name in names:
        check(name in known, "trackers", name, ", ".join(known), nearest(name, known))
        check(
            name == "all" or name in here,
            "trackers",
            name,
            "trackers whose package is installed",
            f"install {name}, or leave --trackers out",
        )


def scorable(config: Config, method: Method, plan: Plan, protocol: Protocol, train: ImageSource) -> Config:
    """The settings without label regimes that the protocol cannot train with and a random row that the data cannot fill.

    Raises:
        ConfigError: one of them was asked for by name, no regime is left, or a student is no architecture.
        ModelError: a student that is not known, or that does not take such images.
    """
    trained = config.squeeze.base_model if method.info.pool or {*config.evaluation.regimes} - {"hard"} else ()
    for student in config.evaluation.students:
        _check_student(student, train, trained)
    evaluation, kept = config.evaluation, {"regimes": [], "baselines": []}

    def check_possible(setting: str, name: str) -> None:
        if setting == "regimes":
            protocol.check_regime(name, plan.staged)
            kept_labels = protocol.label_per == "image" or config.labels.store != "none"
            allowed = "hard or online with --store none: no labels are kept"
            check(name != "stored" or kept_labels, "regimes", name, allowed, "--store full, or --regimes hard")
            allowed = f"hard: images of {config.run.method} are for linear probes, which have class numbers alone"
            check(name == "hard" or not method.probed, "regimes", name, allowed, "--regimes hard")
        elif name in ("centroids", "class_means"):
            probes = any(is_probe(student) for student in evaluation.students)
            check(probes, "baselines", name, "rows of probes here", "name one: --students probe:<network>")
            _check_enough(train, config.run.ipc if name == "centroids" else 1, name)
        elif name == "random" and config.run.method != "random":
            _check_enough(train, config.run.ipc, name)

    for setting, names in kept.items():
        for name in getattr(evaluation, setting):
            try:
                check_possible(setting, name)
                names.append(name)
            except ConfigError as error:
                if config.came_from[setting] in ("flag", "file"):
                    raise
                log.warning("without %s of the %s: %s", name, setting, error)
    check(len(kept["regimes"]) > 0, "regimes", evaluation.regimes, f"one that protocol {protocol.name} trains with")
    return config.change("evaluation", **{setting: tuple(names) for setting, names in kept.items()})


def check_networks(squeeze: SqueezeSettings, method: Method, train: ImageSource) -> ImageModel | None:
    """The first base model, untrained; None where it would have to be fetched.

    Of trained weights with a tag in their name the architecture is looked at, of others nothing.

    Raises:
        ModelError, ConfigError: a base model is not known, or the method cannot work through it.
    """
    first = None
    for name in squeeze.base_model:
        allowed = f"1 or more for {name}, which begins from scratch"
        taken = squeeze.squeeze_epochs > 0 or squeeze.pretrained or means_weights(name)
        check(
            taken,
            "squeeze_epochs",
            0,
            allowed,
            "name published weights (resnet18.tv_in1k), or train with --squeeze_epochs",
        )
    for number, name in enumerate(squeeze.base_model):
        if not means_weights(plain := without_tag(name)):
            network = load_untrained("base_model", plain, train.plain_spec, key=Key(0))
            if method.info.pool or number == 0:  # others only make labels
                method.check_network(network, train.image_size)
            first = network if number == 0 else first
    return first


def _check_student(name: str, train: ImageSource, trained: tuple[str, ...]) -> None:
    """Raises ConfigError for a name that means trained weights where none are wanted, ModelError for one that makes no
    network; a probe of those that are to be `trained` waits for them."""
    if is_probe(name):
        if name.removeprefix(PREFIX) not in trained:
            load_student("students", name, train.plain_spec, key=Key(0))
        return
    step = "drop its weight tag" if weight_tag(name) else "give a network of timm or torchvision by name"
    check(not means_weights(name), "students", name, "architectures: a student begins untrained", step)
    load_untrained("students", name, train.plain_spec, key=Key(0))


def _check_enough(train: ImageSource, ipc: int, row: str) -> None:
    """Raises ConfigError where a class has fewer images than a row of real ones takes."""
    counts = np.bincount(train.labels, minlength=train.num_classes)
    few = f"{ipc} or more images of each class; {train.class_names[counts.argmin()]} has {counts.min()}"
    check(counts.min() >= ipc, "baselines", row, few, "leave that row out, or choose a smaller --ipc")
