"""Presets of the matching family and of coresets hold the numbers of the papers and their scripts, written here once more."""

from __future__ import annotations

import pytest
import yaml

from hf_condense.data.siamese import SiamesePolicy
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.methods import method_class
from hf_condense.methods.matching_family import CLASSIC
from hf_condense.plan import SetSpec
from hf_condense.run.resolve import load_preset, preset_names, resolve
from hf_condense.run.settle import keeps_class

FAMILY = ("dm", "dc", "dsa", "idc", "dream", "coreset")
FILES = [f"{method}/{name}" for method in FAMILY for name in preset_names(method) if name != "digits"]
CIFAR = {"distance": "mse", "lr": 5e-3, "lr_side": 32, "network_images": 2000}
CLUSTERED = {"sampler": "centres", "cluster_every": 10}
DSA_FAMILIES = ("color", "crop", "cutout", "flip", "scale", "rotate")

# the same for all datasets
SHARED = {
    "dm": {"iterations": 20000, "lr": 1.0, "real_batch": 256, "init": "real", "families": DSA_FAMILIES},
    "dc": {"iterations": 1000, "lr": 0.1, "real_batch": 256, "init": "noise", "families": (), "distance": "rows",
        "network_lr": 0.01, "train_batch": 256},
    "dsa": {"iterations": 1000, "lr": 0.1, "real_batch": 256, "init": "real", "families": DSA_FAMILIES, "distance": "rows",
        "network_lr": 0.01, "train_batch": 256},
    "idc": {"real_batch": 64, "sampler": "random", "init": "real"},
    "dream": {"real_batch": 128, "init": "centres", **CLUSTERED},
    "coreset": {"normalise_features": False},
}  # fmt: skip
# of IDC and DREAM, by dataset
FORMED = {
    "iterations": 2000, "inner_steps": 100, "fix_iter": 1, "network_lr": 0.01, "syn_batch": 128, "formation": "single",
    "formation_factor": 2, "families": ("color", "crop", "cutout"), "network_cutmix": 0.5, "pretrain_epochs": 0,
}  # fmt: skip
BY_DATASET = {
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "svhn": CIFAR | {"network_images": 500},
    "mnist": {"distance": "l1", "lr": 1e-4, "lr_side": 28, "network_images": 500, "families": ("color", "crop"),
        "network_cutmix": 0.0},
    "fashion_mnist": {"distance": "l1", "lr": 1e-4, "lr_side": 32, "network_images": 500},
    "tiny-imagenet": CIFAR | {"network_images": 1000, "real_batch": 64},
    "imagenet-10": {"distance": "l1", "lr": 3e-3, "lr_side": 224, "network_images": 500, "iterations": 500,
        "formation_factor": 3, "network_cutmix": 1.0, "pretrain_epochs": 10},
}  # fmt: skip
# where the number of images changes something
AT_IPC = {
    **{f"dm/cifar10-ipc{ipc}": {"lr": 10.0} for ipc in (100, 200, 500, 1000, 1250)},
    **{f"{m}/fashion_mnist-ipc50": {"formation_factor": 1} for m in ("idc", "dream")},
    **{f"{m}/tiny-imagenet-ipc50": {"lr": 1e-6} for m in ("idc", "dream")},
    **{f"{m}/imagenet-10-ipc20": {"formation": "bound"} for m in ("idc", "dream")},
}
PROTOCOLS = {"dm": "dsa", "dsa": "dsa", "dc": "dc", "coreset": "dc", "idc": "idc", "dream": "idc"}
ON_MNIST = {"dc": "dc-mnist", "idc": "idc-mnist", "dream": "idc-mnist"}
NETWORKS = {"tiny-imagenet": "convnet_d4", "imagenet-10": "resnet_ap10"}


def no_facts(data):
    raise AssertionError("a known dataset needs no look at the data")


def resolved(method, dataset, ipc=10, **flags):
    config = resolve({"method": method, "dataset": dataset, "ipc": ipc, **flags}, no_facts)
    return config, method_class(method)(config.method)


def wanted(file):
    """What method settings of a preset must be, from the tables above."""
    method, name = file.split("/")
    formed = FORMED if method in ("idc", "dream") else {}
    of_dataset = BY_DATASET[name.split("-ipc")[0]] if formed else {}
    return formed | SHARED[method] | of_dataset | AT_IPC.get(file, {})


@pytest.mark.parametrize("file", FILES)
def test_a_preset_holds_the_numbers_of_its_paper_or_script(file):
    method, name = file.split("/")
    dataset, _, ipc = name.partition("-ipc")
    config, built = resolved(method, dataset, int(ipc or 10))
    assert config.preset == file
    values = wanted(file)
    assert {k: getattr(built.settings, k) for k in values} == values
    network = (NETWORKS.get(dataset, "convnet_w128"),)
    protocol = ON_MNIST.get(method, PROTOCOLS[method]) if dataset == "mnist" else PROTOCOLS[method]
    assert (config.squeeze.base_model, config.evaluation.students) == (network, network)
    assert config.evaluation.protocol == protocol == built.protocol(dataset)
    assert get_protocol(protocol).name == protocol
    assert method_class(method)(built.settings).protocol("somebody/photos") == "small"
    assert (config.labels.store, config.evaluation.regimes) == ("none", ("hard",))


def test_no_preset_is_missing_and_every_override_is_known():
    for method in FAMILY:
        datasets = BY_DATASET if method in ("idc", "dream") else CLASSIC
        assert {n for n in preset_names(method) if "-ipc" not in n} == {*datasets, "digits"}, method
    assert {file for file in FILES if "-ipc" in file} == set(AT_IPC)


@pytest.mark.parametrize("method", ["idc", "dream"])
@pytest.mark.parametrize(
    "dataset, rates",  # dream.md section 4: the rate used at each number of images, before momentum is counted in
    [
        ("fashion_mnist", {1: 7.66e-6, 10: 7.66e-5, 50: 3.83e-4}),
        ("mnist", {1: 1e-5, 10: 1e-4, 50: 5e-4}),
        ("cifar10", {1: 5e-4, 2: 1e-3, 10: 5e-3, 50: 2.5e-2}),
        ("tiny-imagenet", {1: 2e-3, 10: 2e-2, 50: 2e-5}),
        ("imagenet-10", {10: 3e-3, 20: 6e-3}),
    ],
)
def test_the_rate_follows_from_dataset_and_number_of_images(method, dataset, rates):
    for ipc, rate in rates.items():
        config, built = resolved(method, dataset, ipc)
        classes, momentum = load_preset(method, dataset, ipc, "paper").classes, built.settings.momentum
        lasting = (1 - momentum**classes) / (1 - momentum)
        assert built.recipe(None, SetSpec(classes, ipc, config.data.image_size)).lr / lasting == pytest.approx(
            rate, rel=1e-3
        ), ipc


def test_dm_takes_ten_times_the_rate_for_many_images_of_cifar10_only():
    rates = {
        ipc: resolved("dm", "cifar10", ipc)[1].recipe(None, SetSpec(10, ipc, 32)).lr for ipc in (1, 10, 50, 100, 1250)
    }
    assert rates == {1: 1.0, 10: 1.0, 50: 1.0, 100: 10.0, 1250: 10.0}
    assert resolved("dm", "cifar100", 100)[1].recipe(None, SetSpec(100, 100, 32)).lr == 1.0


def test_digits_are_not_mirrored_and_clothes_are():
    for method in ("dm", "dsa", "idc"):
        for dataset, flip in (("mnist", False), ("svhn", False), ("fashion_mnist", True)):
            config, _ = resolved(method, dataset)
            assert keeps_class(config) is flip
            students = get_protocol(config.evaluation.protocol).siamese_policy(flip)
            assert isinstance(students, SiamesePolicy) and ("flip" in students.families) is flip


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize(
    "dataset, hub_id",
    [
        ("mnist", "ylecun/mnist"), ("svhn", "ufldl-stanford/svhn"), ("cifar10", "uoft-cs/cifar10"), ("cifar100", "CIFAR-100"),
        ("fashion_mnist", "zalando-datasets/Fashion_MNIST"), ("tiny-imagenet", "zh-plus/tiny-imagenet"),
    ],
)  # fmt: skip
def test_a_hub_id_gets_the_preset_and_the_flips_of_its_short_name(method, dataset, hub_id):
    short, said = (resolved(method, name)[0] for name in (dataset, hub_id))
    assert said.preset == f"{method}/{dataset}" and said.method == short.method
    assert keeps_class(said) is (dataset not in ("mnist", "svhn"))
    assert said.change("data", dataset=dataset).sections() == short.sections(), "all else is as by its short name"


def test_rows_are_called_by_their_source():
    """Nothing from memory passes as read, and no number as the readme's that only a later paper has."""

    def quoted(method, dataset, ipc):
        return load_preset(method, dataset, ipc, "paper").aims_at.get(ipc, "")

    for ipc in (1, 10, 50):
        for method, dataset in [("dm", "mnist"), *((m, d) for m in ("dream", "coreset") for d in CLASSIC)]:
            row = quoted(method, dataset, ipc)
            read = (method, dataset) == ("coreset", "cifar10") or not row  # DREAM has no Tiny-ImageNet at IPC 10
            assert read or "recalled, not read again" in row, (method, dataset, ipc)
    for method in ("dc", "dsa"):
        for dataset in CLASSIC:
            for ipc, row in load_preset(method, dataset, 1, "paper").aims_at.items():
                mean = row.removeprefix("official readme").split(" (FTD, Table 1: +- ")[0]
                assert "+-" not in mean or row.startswith("FTD"), (method, dataset, ipc)
    assert quoted("dsa", "cifar100", 50).startswith("FTD, Table 1, ")  # no readme has it
    assert not quoted("dm", "fashion_mnist", 10) and not quoted("dm", "svhn", 10)


@pytest.mark.parametrize(
    "file, name, value", [("dm/cifar10", "lr", 10.0), ("idc/mnist", "protocol", "idc"), ("dream/svhn", "lr_side", 28)]
)
def test_a_wrong_value_is_found(monkeypatch, file, name, value):
    """The gate: a number or name that is changed in its file fails the test of that file."""
    read = yaml.safe_load

    def changed(text):
        content = read(text)
        content["settings"][name] = {"value": value, "source": "ours"}
        return content

    monkeypatch.setattr(yaml, "safe_load", changed)
    with pytest.raises(AssertionError, match=str(value)):
        test_a_preset_holds_the_numbers_of_its_paper_or_script(file)
