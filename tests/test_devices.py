"""Steps on a stand-in for a GPU: on `torch.device("meta")` nothing mixes devices, and nothing can be read back.

Tensors there have no numbers, so whatever makes the host wait for them raises: `.item()`, `bool()`, boolean masks, copies
to the host. Copies from the host that it would wait for are found by their arguments.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.steps import MEAN, STD, MadeUpImages, Operations, step_of
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.data.upload import to_device
from hf_condense.evaluation.batches import Pixels, student_batches
from hf_condense.evaluation.losses import protocol_loss
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.evaluation.students import training_plan
from hf_condense.evaluation.training_set import TrainingSet
from hf_condense.labels.teacher import Ensemble
from hf_condense.labels.views import view_batches
from hf_condense.methods import list_methods
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.models.fresh import FreshNetworks
from hf_condense.models.loading import load_model
from hf_condense.models.training import build_optimizer
from hf_condense.precision import settle_arithmetic
from tests.test_resume import OWN

GPU = torch.cuda.is_available()
META, CPU = torch.device("meta"), torch.device("cpu")
METHOD_SETTINGS = {  # small enough that experts and chains are trained in a second
    name: {k: v for k, v in given.items() if k not in ("base_model", "regimes", "pool_size", "finetune_epochs", "recalibration_images", "top1_floor")}
    for name, given in OWN.items()
}  # fmt: skip
METHOD_SETTINGS["tesla"] |= {"zca": False}
METHOD_SETTINGS["cvdd"] |= {"priors": (60.0, 70.0)}
METHOD_SETTINGS["fadrm"] |= {"small_side": 1.0}  # the network takes one side
for name in ("dc", "dsa"):
    METHOD_SETTINGS[name] |= {"outer_loop": 2, "inner_loop": 1}
FURTHER = {  # paths that defaults do not take
    "edc": {"class_matching": "per_class", "drop_rate": 0.5},
    "dm": {"sampler": "random", "families": ()},
    "teddy": {"models_per_step": 2},
    "gvbsm": {"crop_min": None, "densification_weight": 0.0},
}


@pytest.fixture(scope="module")
def source() -> MadeUpImages:
    return MadeUpImages(num_classes=4, image_size=8, per_class=12)


def step_on_meta(name, source, ipc=2, **settings) -> Operations:
    networks = ("convnet_bn_w32", "convnet_bn_w32") if name in POOLED else ("convnet_w32",)
    work = step_of(name, source, networks, META, ipc=ipc, **settings)
    if work is None:
        pytest.skip("the method only selects: it has no step")
    work.step(0)
    with Operations() as seen:
        work.step(1)
    assert not seen.waits
    assert work.z.device == META
    return seen


POOLED = (
    "edc",
    "gvbsm",
    "sre2l",
    "cda",
    "delt",
    "dwa",
    "sre2lpp",
    "teddy",
    "fadrm",
    "fadrmplus",
    "cvdd",
    "wmdd",
    "lgm",
)


@pytest.mark.parametrize("name", list_methods())
def test_a_step_waits_for_nothing(name, source):
    assert step_on_meta(name, source, **METHOD_SETTINGS.get(name, {})).total > 0


def test_the_check_can_fail(source):
    """A read, and a copy that the host waits for."""
    work = step_of("edc", source, ("convnet_bn_w32",), META, iterations=2)
    terms = work.objective.terms

    def reading(images, labels, step, key):
        for term in terms(images, labels, step, key):
            float(term.loss.detach())
            yield term

    work.objective.terms = reading
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        work.step(0)
    with Operations() as seen:
        torch.ones(3).to(META)
        torch.ones(3).to(META, non_blocking=True)
        torch.empty(3, device=META).copy_(torch.ones(3))
    assert len(seen.waits) == 2


@pytest.mark.parametrize("name", FURTHER)
def test_nor_does_one_with_other_settings(name, source):
    step_on_meta(name, source, **METHOD_SETTINGS[name] | FURTHER[name])


def test_nor_does_one_of_several_terms(source, monkeypatch):
    monkeypatch.setattr("hf_condense.objectives.distribution_matching.TERM", 3)
    step_on_meta("dm", source, **METHOD_SETTINGS["dm"])


def set_on_meta(protocol, count=8, classes=4):
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)
    return to_device(images, META), to_device(torch.arange(count) % classes, META)


def network(name="convnet_bn_w32"):
    return load_model(name, ImageSpec(4, 8, MEAN, STD), key=Key(0)).to(META)


@pytest.mark.parametrize("bn", ["running", "batch"])
def test_the_label_pass_waits_for_nothing(bn):
    """Up to the logits of a batch; these then go to the host, where they are stored."""
    teacher = Ensemble([network(), network()], bn=bn)
    policy = ViewPolicy(8, crop=(0.08, 1.0), rand_augment=(2, 10), mix="cutmix")
    images, labels = set_on_meta(policy)
    with Operations() as seen:
        for rows, _, batch in view_batches(images, labels, policy, Key(0), 0, 4):
            assert teacher.logits(batch.images, [len(rows)]).device == META
    assert not seen.waits


@pytest.mark.parametrize(("protocol", "regime"), [("small", "hard"), ("small", "online"), ("dsa", "hard")])
def test_a_student_step_waits_for_nothing(protocol, regime):
    plan, recipe = training_plan(get_protocol(protocol).resolve("convnet_bn_w32", 2), 8)
    images, labels = set_on_meta(plan)
    teacher = Ensemble([network()]) if regime == "online" else None
    found = TrainingSet(images, labels, regime, teacher)
    batches = student_batches(found, plan, plan.policy(8, True), Key(0), META, Pixels(MEAN, STD))
    student = network()
    optimiser, loss = build_optimizer(student, recipe), protocol_loss(plan, regime)
    with Operations() as seen:
        for batch in batches(0):
            loss(student(batch.images), batch).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    assert not seen.waits


def test_weights_are_drawn_on_the_cpu_and_sent_in_one_copy():
    fresh = FreshNetworks("convnet_w32", ImageSpec(4, 8, MEAN, STD), device=META)
    first = fresh(Key(1))
    fresh(Key(2))  # compares a drawn network with a built one
    with Operations() as seen:
        assert fresh(Key(3)) is first
    assert seen.launches == {"aten._to_copy.default": 1, "aten._foreach_copy_.default": 1} and not seen.waits
    assert all(t.device == META for t in first.state_dict().values())
    assert all(t.device == CPU for t in fresh._drawn.state_dict().values())


def test_snapshots_stay_on_the_device_within_their_bound(tmp_path, monkeypatch):
    class Counted(ExpertBuffer):
        def snapshot(self, expert, epoch):
            reads.append((expert, epoch))
            return torch.zeros(4)

    reads, manifest = [], {"recipe": {"epochs": 3}, "table": [["w", [4]]], "experts": [{"bytes": 1}]}
    experts = Counted(tmp_path, manifest, 1)
    monkeypatch.setattr("hf_condense.models.expert_buffer.DEVICE_BYTES", 2 * 16)
    for epoch in (0, 1, 2, 0, 1, 2):
        assert experts.placed(0, epoch, META).device == META
    assert reads == [(0, 0), (0, 1), (0, 2), (0, 2)]  # two snapshots of 16 bytes fit


def test_float32_means_float32_on_a_gpu(monkeypatch):
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.benchmark
    try:
        matmul.fp32_precision = conv.fp32_precision = "tf32"
        settle_arithmetic(CPU)
        assert conv.fp32_precision == "tf32"
        settle_arithmetic(torch.device("cuda"))
        assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee") and torch.backends.cudnn.benchmark
    finally:
        matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.benchmark = before


@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("name", list_methods())
def test_a_step_on_a_gpu_waits_for_nothing_and_equals_that_on_the_cpu(name, source):
    device, settings = torch.device("cuda"), METHOD_SETTINGS.get(name, {})
    settle_arithmetic(device)
    networks = ("convnet_bn_w32", "convnet_bn_w32") if name in POOLED else ("convnet_w32",)
    there, here = (step_of(name, source, networks, place, ipc=2, **settings) for place in (device, CPU))
    if there is None:
        pytest.skip("the method only selects: it has no step")
    there.step(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here.step(0)
    here.step(1)
    torch.testing.assert_close(there.z.detach().cpu(), here.z.detach(), rtol=1e-3, atol=1e-3)
