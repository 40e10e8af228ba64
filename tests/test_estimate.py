"""The estimate for devices that are not here: counted work, the table of devices, and what a dry run prints."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.steps import MadeUpImages, Operations, step_of
from hf_condense.cli import main
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.errors import ConfigError
from hf_condense.models.loading import load_model
from hf_condense.run import probe
from hf_condense.run.counted import IMAGES, Counting, Work, count, flops, seconds_on, traffic
from hf_condense.run.devices import BANDWIDTH_REACHED, DEVICES, PRODUCTS_REACHED, device_named
from hf_condense.run.estimate import estimate_for, lines
from hf_condense.run.evaluate import unclamped
from hf_condense.run.network_cost import NetworkCost
from hf_condense.run.relabel import scored_sets
from hf_condense.trainer import CondensationTrainer
from tests.test_resume import TRAJECTORIES

TINY = {
    "dataset": "digits", "classes": "0,1,2", "ipc": 2, "max_per_class": 12, "max_test": 12, "base_model": "convnet_w32",
    "squeeze_epochs": 1, "protocol": "small", "student_epochs": 1, "student_seeds": 1, "students": "convnet_w32",
    "regimes": "hard", "threads": 1,
}  # fmt: skip


def test_work_of_known_layers():
    """A convolution of 3 to 4 channels with 3 x 3 kernels on 8 x 8 pixels, and a linear layer of 256 to 5."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 5))
    one = 2 * (8 * 8 * 4 * 3 * 9 + 256 * 5)
    found = count(net, (3, 8, 8))
    assert flops(found.forward, "fp32") == IMAGES * one
    # back to the images as much again; back to the weights too, but for those of the first layer's input
    assert flops(found.backward, "fp32") == IMAGES * 2 * one
    assert flops(found.training, "fp32") == IMAGES * (3 * one - 2 * 8 * 8 * 4 * 3 * 9)
    assert found.weights == 4 * sum(p.numel() for p in net.parameters())
    assert found.kept == 4 * (3 * 64 + 256)  # the input of each layer
    linear = 4 * (IMAGES * (256 + 5) + 257 * 5)
    assert Work(IMAGES * 2 * 256 * 5, linear) in found.forward


def test_a_network_has_the_operations_that_torch_counts():
    network = load_model("convnet_w32", ImageSpec(10, 16, (0.5,) * 3, (0.5,) * 3), key=Key(0)).eval()
    found = flops(count(network, (3, 16, 16)).forward, "fp32")
    with FlopCounterMode(display=False) as counter:  # on a CPU pooling is a product too
        network.to("meta")(torch.rand(IMAGES, 3, 16, 16, device="meta"))
    assert found == counter.get_total_flops()


def test_memory_of_operations_is_that_of_results_in_use_at_once():
    with Counting() as counting:
        x = torch.empty(1000, device="meta")
        y = x + 1
        y = y * 2  # the sum is in use until the product is there
        z = y[:10].sum()
    assert counting.peak == 3 * 4000 and z.ndim == 0
    with Counting() as counting:
        for _ in range(5):
            y = x + 1
            del y
    assert counting.peak == 4000


SEGMENTS = {name: value for name, value in TRAJECTORIES.items() if name != "regimes"}  # of the method alone
STOOD_IN = {
    "ccfs": {"base_method": "edc", "share": 0.5, "curricula": 1, "rded_candidates": 6, "iterations": 4},
    "datm": SEGMENTS,
    "delt": {"iterations": 4, "rounds": 2, "shard_size": 8, "diversity_weight": 1.0},
    "edc": {"iterations": 4, "shard_size": 8},
    "lgm": {"iterations": 4, "copies": 2, "noise": 0.0},
    "mtt": SEGMENTS,
    "pdd": {"base_method": "dm", "stages": 2, "chains": 1, "chain_epochs": 1, "iterations": 4, "real_batch": 4},
    "tesla": SEGMENTS,
    "wmdd": {"iterations": 4, "shard_size": 8},
}


@pytest.mark.parametrize("name", STOOD_IN)
def test_a_step_that_is_tried_does_what_a_step_does(name):
    """Nothing is trained or measured before it, and the operations are the same."""
    source, meta = MadeUpImages(4, 8, 12), torch.device("meta")
    networks = ("convnet_bn_w32",) if name not in ("mtt", "tesla", "datm", "pdd") else ("convnet_w32",)
    works = [step_of(name, source, networks, meta, ipc=4, tried=tried, **STOOD_IN[name]) for tried in (False, True)]
    seen = []
    for work in works:
        work.step(0)
        with Operations() as operations:
            work.step(1)
        seen.append(operations.total)
    assert seen[0] == pytest.approx(seen[1], rel=0.05)  # chains are read, untrained networks drawn


def test_an_operation_takes_the_longer_of_products_and_traffic():
    device = DEVICES["a100"]
    products, moved = Work(1e12, 1.0), Work(1.0, 1e12)
    bf16 = seconds_on(device)([products, moved], "bf16")
    assert bf16 == pytest.approx(1 / (PRODUCTS_REACHED * 312) + 0.5e3 / (BANDWIDTH_REACHED * 2039))
    fp32 = seconds_on(device)([products], "fp32")
    assert fp32 == pytest.approx(1 / (PRODUCTS_REACHED * 19.5))  # not TF32
    assert seconds_on(DEVICES["t4"])([moved], "bf16") == seconds_on(DEVICES["t4"])([moved], "fp32")  # it has no bf16
    assert traffic([moved], "bf16") == 0.5e12


def test_devices_are_plausible_and_named():
    for name, device in DEVICES.items():
        assert device_named(name) is device and device.source
        assert device.bf16 is None or device.bf16 > device.tf32 >= device.fp32 or name == "4090"
    assert device_named("cpu") is None
    with pytest.raises(ConfigError, match="device='v100'.*h100"):
        device_named("v100")


def test_a_long_run_is_told_how_it_could_be_shorter():
    found = {"squeeze": 3000.0, "evaluate": 10_000.0, "memory": 1e9, "disk": 0.0}
    long, short = (" ".join(lines({**found, "evaluate": seconds})) for seconds in (10_000.0, 300.0))
    assert "together about 3.6 h" in long and all(word in long for word in ("--quick", "--dry_run", "smaller network"))
    assert "together about 55 min" in short and "--quick" not in short


def test_stages_grow_with_their_work(tmp_path):
    """Twice the steps are twice the operations of the synthesis, and leave those of the others."""

    def made(name, iterations):
        pipeline = CondensationTrainer(
            "edc", output_dir=str(tmp_path / name), shard_size=6, iterations=iterations, **TINY
        ).pipeline
        return estimate_for(pipeline, DEVICES["h100"], "bf16")

    once, twice = made("once", 10), made("twice", 20)
    assert twice.flops["condense"] == 2 * once.flops["condense"] > 0
    assert twice.seconds["condense"] == pytest.approx(2 * once.seconds["condense"])
    assert {k: v for k, v in twice.flops.items() if k != "condense"} == {
        k: v for k, v in once.flops.items() if k != "condense"
    }
    assert once.memory > 0.6e9


def test_a_dry_run_speaks_of_a_device_and_says_that_it_does(tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    given = [f"--{k}={v}" for k, v in TINY.items()] + ["--method", "dm", "--output_dir", str(tmp_path / "run")]
    assert main(["run", "--dry_run", "--device", "l4", *given]) == 0
    assert "estimated, not measured: NVIDIA L4" in caplog.text and "FLOP" in caplog.text
    assert not list(tmp_path.iterdir())
    assert main(["run", "--dry_run", "--device", "v100", *given]) == 2
    assert main(["run", "--device", "l4", *given]) == 2
    assert "--dry_run" in capsys.readouterr().err


def test_rows_that_students_are_trained_on_are_counted(tmp_path):
    def run(method, **settings):
        return CondensationTrainer(method, output_dir=str(tmp_path / method), **TINY | settings).settled

    assert scored_sets(run("random")) == 1  # neither beside itself nor beside first images, which it is
    assert scored_sets(run("dm")) == 3
    assert scored_sets(run("coreset", selection="herding")) == 2
    assert not unclamped(run("edc")) and unclamped(run("mtt", **TRAJECTORIES))


def test_an_epoch_is_tried_on_a_few_images_and_grows_with_their_number(tmp_path, monkeypatch):
    """With the clock of a machine on which an image that is trained on takes one second, and a training seven more."""
    trained = []
    settled = CondensationTrainer("random", output_dir=str(tmp_path), **TINY).settled
    found = probe.Probe(settled)
    found.measured["convnet_w32"] = NetworkCost(0.0, 0.0, 1e-6, 1, 1)
    monkeypatch.setattr(found, "_seconds", lambda work: (work(), 7.0 + sum(trained[-1]))[1])

    def train(count, epochs):
        trained.append([count] * epochs)

    assert found._training("convnet_w32", 1000, 10, 50, train) == pytest.approx((1000, 7))
    assert max(len(count) for count in trained) == 4 and {one[0] for one in trained} == {40}
    found.measured["convnet_w32"] = NetworkCost(0.0, 0.0, 5.0, 1, 1)
    assert (
        found._training("convnet_w32", 1000, 10, 50, train) == (5000, 0) and len(trained) == 3
    )  # too long to be tried
    assert (
        found._training("convnet_w32", 1000, 1, 2, train).epoch == 5000 and len(trained) == 3
    )  # as much work as to try
