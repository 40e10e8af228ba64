import pytest

from hf_condense.errors import ConfigError
from hf_condense.evaluation.protocol import Case, Protocol
from hf_condense.evaluation.protocols import get_protocol, list_protocols

ADAMW = {"optimizer": "adamw", "betas": (0.9, 0.999)}
SGD = {"optimizer": "sgd", "momentum": 0.9}
COSINE, HALF = {"schedule": "cosine"}, {"schedule": "smoothing", "schedule_params": {"zeta": 2.0}}
EDC = {
    **ADAMW,
    "lr": 1e-3,
    "weight_decay": 0.01,
    "ema": 0.99,
    "loss": "mse_gt",
    "gamma": 0.025,
    "crop": (0.5, 1.0),
    "mix": "cutmix",
}
KL = {"loss": "kl", "temperature": 20.0, "temperature_squared": False, "mix_alpha": 1.0}
RRC = {"crop": (0.08, 1.0), "mix": "cutmix"}

# (protocol, student, ipc) -> values of the tables in the papers and scripts
PUBLISHED = {
    ("edc-cifar10", "resnet18", 10): {**EDC, "epochs": 1000, "batch": 25, "schedule": "multistep", "rand_augment": (2, 9),
        "schedule_params": {"milestones": (800, 900, 950), "factor": 0.5}, "regime": "online", "val_resize": "none"},
    ("edc-cifar10-official", "resnet18", 1): {"batch": 10, "crop": (0.08, 1.0), "lr": 1e-3, "ema": 0.99},
    ("edc-cifar100", "resnet18", 10): {**EDC, **HALF, "epochs": 1000, "batch": 50},
    ("edc-cifar100-official", "resnet18", 10): {"optimizer": "sgd", "lr": 0.1, "momentum": 0.875, "weight_decay": 5e-4,
        "schedule": "ssrs", "schedule_params": {"zeta": 2.0}, "batch": 50},
    ("edc-tiny-imagenet", "resnet18", 1): {**EDC, **HALF, "epochs": 1000, "batch": 100},
    ("edc-tiny-imagenet", "resnet18", 10): {**EDC, **HALF, "epochs": 300, "batch": 100},
    ("edc-tiny-imagenet-official", "resnet101", 1): {"optimizer": "sgd", "lr": 0.1, "epochs": 1000, **HALF},
    ("edc-imagenet-10", "resnet18", 50): {**EDC, **HALF, "epochs": 1000, "batch": 50, "rand_augment": (2, 9)},
    ("edc-imagenet-10-official", "resnet18", 50): {"schedule": "ssrs", "optimizer": "adamw"},
    ("edc-imagenet-1k", "resnet18", 10): {**EDC, **HALF, "epochs": 300, "batch": 100, "rand_augment": None,
        "regime": "stored", "val_resize": "8/7"},
    ("edc-imagenet-1k", "torchvision/swin_t", 10): {"lr": 1e-4},
    ("edc-imagenet-1k-official", "resnet18", 10): {"schedule": "linear_compat", "batch": 100},
    ("sre2l-in1k", "resnet18", 50): {**ADAMW, **COSINE, **KL, **RRC, "epochs": 300, "batch": 1024, "lr": 1e-3,
        "weight_decay": 0.01, "decay_all": False, "val_resize": "8/7", "best_every": 10},
    ("cda-in1k", "resnet18", 50): {**ADAMW, **COSINE, **KL, **RRC, "epochs": 300, "batch": 128, "lr": 1e-3},
    ("sre2lpp-in1k", "resnet18", 50): {"batch": 16, "schedule_params": {"zeta": 1.0}, "lr": 1e-3, "teacher_bn": "batch"},
    ("sre2lpp-in1k", "resnet101", 50): {"schedule_params": {"zeta": 2.0}, "lr": 5e-4},
    ("sre2lpp-in1k", "resnet101", 10): {"schedule_params": {"zeta": 2.0}, "lr": 1e-3},
    ("soft-standard-in1k", "resnet18", 10): {**ADAMW, **COSINE, **KL, **RRC, "epochs": 300, "batch": 128, "regime": "online"},
    ("sre2l-tiny", "resnet18", 50): {**SGD, **COSINE, "epochs": 100, "batch": 256, "lr": 0.2, "weight_decay": 1e-4,
        "decay_all": True, "warmup_epochs": 5, "warmup_factor": 0.01, "temperature": 20.0, "temperature_squared": True,
        "mix": "none", "regime": "online", "val_resize": "none"},
    ("cda-tiny", "resnet18", 50): {**SGD, **COSINE, "epochs": 100, "batch": 64, "lr": 0.2, "weight_decay": 1e-4,
        "mix": "none", "crop": (0.08, 1.0), "regime": "stored"},
    ("sre2l-cifar100", "resnet18", 50): {**ADAMW, **COSINE, "epochs": 400, "batch": 128, "lr": 1e-3, "weight_decay": 0.01,
        "decay_all": True, "temperature": 30.0, "temperature_squared": False, "teacher_bn": "batch", "crop": None,
        "pad": 4, "mix": "mixup", "mix_alpha": 0.8},
    ("sre2l-cifar10", "cifar_resnet18", 10): {**ADAMW, **COSINE, "epochs": 400, "batch": 256, "weight_decay": 0.01,
        "temperature": 30.0, "temperature_squared": False, "teacher_bn": "running", "pad": 4, "mix": "mixup", "mix_alpha": 0.8},
    ("sre2lpp-cifar10", "cifar_resnet18", 10): {**ADAMW, **COSINE, **KL, **RRC, "epochs": 300, "batch": 16, "accumulation": 2,
        "lr": 1e-3, "weight_decay": 0.01, "teacher_bn": "batch", "val_resize": "none"},
    ("sre2lpp-cifar10", "resnet101", 10): {**COSINE, "lr": 5e-4},
    ("sre2lpp-cifar100", "resnet50", 10): {**HALF, "lr": 1e-3},
    ("sre2lpp-cifar100", "resnet50", 50): {**COSINE, "lr": 1e-3},
    ("sre2lpp-cifar100", "resnet101", 10): {**COSINE, "lr": 5e-4},
    ("sre2lpp-tiny", "cifar_resnet18", 10): {**COSINE, "lr": 1e-3},
    ("sre2lpp-tiny", "cifar_resnet18", 50): {**HALF, "lr": 1e-3},
    ("sre2lpp-tiny", "resnet50", 1): {**COSINE, "lr": 1e-3},
    ("sre2lpp-tiny", "resnet101", 10): {**HALF, "lr": 5e-4},
    ("gvbsm-in1k", "resnet18", 10): {**ADAMW, **COSINE, **RRC, "epochs": 300, "batch": 1024, "lr": 1e-3, "gamma": 0.1,
        "loss": "mse_gt", "average": "normalised"},
    ("gvbsm-tiny", "resnet18", 50): {**SGD, **COSINE, **RRC, "epochs": 100, "batch": 100, "accumulation": 2, "lr": 0.1,
        "weight_decay": 5e-4, "gamma": 0.1, "average": "logits"},
    ("gvbsm-cifar100", "resnet18", 10): {**SGD, **COSINE, "epochs": 1000, "batch": 64, "lr": 0.1, "weight_decay": 5e-4, "gamma": 0.15},
    ("gvbsm-cifar10", "resnet18", 10): {**ADAMW, **COSINE, "epochs": 1000, "batch": 100, "lr": 1e-3, "weight_decay": 0.0, "gamma": 0.15},
    ("rded-cifar10", "cifar_resnet18", 1): {**ADAMW, **KL, **HALF, "epochs": 300, "batch": 10, "lr": 1e-3, "crop": None,
        "shuffle": 1, "regime": "online", "best_from": 0.8, "val_resize": "8/7"},
    ("rded-cifar10", "resnet18", 50): {"batch": 100},
    ("rded-cifar100", "resnet18", 10): {"batch": 100, "lr": 1e-3},
    ("rded-cifar100", "convnet_w128", 10): {"batch": 25, "lr": 2e-3},
    ("rded-tiny-imagenet", "resnet18", 1): {"batch": 100, "crop": None},
    ("rded-imagenette", "resnet18", 10): {"batch": 50, "shuffle": 2, "crop": (0.5, 1.0)},
    ("rded-imagenet-1k", "torchvision/mobilenet_v2", 50): {"batch": 200, "lr": 2.5e-3, "weight_decay": 0.01},
    ("rded-imagenet-1k", "timm/efficientnet_b0", 1): {"batch": 20, "lr": 2e-3},
    ("rded-imagenet-1k", "torchvision/alexnet", 10): {"batch": 100, "lr": 1e-4},
    ("bps-cifar10", "cifar_resnet18", 10): {**ADAMW, **HALF, **KL, "temperature_squared": True, "epochs": 500, "batch": 16,
        "lr": 1e-3, "weight_decay": 0.01, "decay_all": True, "crop": (0.1, 1.0), "mix": "cutmix", "regime": "online"},
    ("bps-cifar10", "cifar_resnet18", 1500): {"batch": 128, "crop": None},
    ("bps-cifar100", "cifar_resnet18", 25): {"batch": 32, "crop": (0.4, 1.0)},
    ("bps-tiny-imagenet", "cifar_resnet18", 100): {"batch": 128, "crop": (0.9, 1.0)},
    ("bps-imagenet-1k", "resnet18", 10): {"batch": 128, "crop": (0.2, 1.0), "val_resize": "8/7"},
    ("bps-imagenet-1k", "timm/vit_small_patch16_224", 10): {"batch": 128, "crop": None},
    ("pca-imagenet-1k", "resnet18", 10): {**ADAMW, **COSINE, **KL, **RRC, "epochs": 300, "batch": 128, "tiles": 2, "tile_share": 1.0},
    ("ccfs-cifar100", "cifar_resnet18", 25): {**SGD, **COSINE, "lr": 0.2, "weight_decay": 1e-4, "epochs": 500, "batch": 32,
        "warmup_epochs": 5, "warmup_factor": 0.01, "temperature": 20.0, "temperature_squared": True, "mix": "none"},
    ("ccfs-cifar100", "cifar_resnet18", 150): {"epochs": 200, "batch": 128},
    ("ccfs-tiny-imagenet", "cifar_resnet18", 50): {"epochs": 100, "batch": 64},
    ("cim-cifar10", "cifar_resnet18", 1): {**ADAMW, "lr": 1e-3, "weight_decay": 1e-4, "epochs": 1000, "batch": 10, "tiles": 2,
        "tile_share": 0.75, "loss": "mse_gt", "gamma": 0.0, "crop": None, "mix": "none", "schedule": "multistep",
        "schedule_params": {"milestones": (2 / 3, 5 / 6), "factor": 0.2}, "regime": "online"},
    ("cim-tiny-imagenet", "cifar_resnet18", 50): {"batch": 100},
    ("cim-imagenet-1k", "resnet18", 50): {"epochs": 300, "batch": 200, "best_every": 75},
    ("cim-imagenet-1k", "timm/efficientnet_b0", 10): {"batch": 100, "lr": 2e-3},
    ("rd3", "resnet18", 10): {"optimizer": "adam", "epochs": 400, "batch": 50, "lr": 1e-3, **HALF},
}  # fmt: skip


@pytest.mark.parametrize("protocol, student, ipc", list(PUBLISHED))
def test_values_are_those_of_the_tables(protocol, student, ipc):
    resolved = get_protocol(protocol).resolve(student, ipc)
    wanted = PUBLISHED[protocol, student, ipc]
    assert {name: getattr(resolved, name) for name in wanted} == wanted


def test_every_published_protocol_is_checked_and_names_its_source():
    assert {name for name, _, _ in PUBLISHED} >= {
        n for n in list_protocols() if n.startswith(("edc", "sre2l", "cda", "gvbsm"))
    }
    for name in list_protocols():
        source = get_protocol(name).citation
        assert name in ("small", "compare", "probe-fast") or source.startswith(
            ("https://arxiv.org/abs/", "https://github.com/")
        )


def test_what_a_source_does_not_say_is_an_error():
    with pytest.raises(ConfigError, match=r"batch for ipc 20.*get_protocol\('rded-cifar10', batch="):
        get_protocol("rded-cifar10").resolve("resnet18", 20)
    with pytest.raises(ConfigError, match="lr for densenet121"):
        get_protocol("rded-cifar10").resolve("densenet121", 10)
    given = get_protocol("rded-cifar10", batch=70, lr=1e-3).resolve("densenet121", 20)
    assert (given.batch, given.lr) == (70, 1e-3)


def test_unknown_names_get_near_ones():
    with pytest.raises(ConfigError, match="edc-cifar10"):
        get_protocol("edc-cifar")
    with pytest.raises(ConfigError, match="weight_decay"):
        get_protocol("small", weight_decy=0.1)
    with pytest.raises(ConfigError, match="loss"):
        get_protocol("small", loss="hinge")
    with pytest.raises(ConfigError, match="weigth"):
        Protocol("mine", "", cases=(Case({"weigth": 1}),))


def test_a_change_is_named_and_beats_cases():
    changed = get_protocol("edc-tiny-imagenet", epochs=5)
    assert changed.resolve("resnet18", 1).epochs == 5 and changed.name == "edc-tiny-imagenet (epochs=5)"
    assert changed.resolve("swin_t", 1).lr == 1e-4
    short = get_protocol("small", epochs=5)
    assert (short.epochs, short.steps, short.duration(1000)) == (5, None, (5, None))


@pytest.mark.parametrize("images", [1, 10, 30, 100, 500, 1000, 60000])
@pytest.mark.parametrize("name", ["small", "compare"])
def test_protocols_of_ours_take_the_same_steps_whatever_the_size(name, images):
    ours = get_protocol(name).resolve("resnet18", 1)
    epochs, limit = ours.duration(images)
    batches = min(-(-images // ours.batch_size(images)), limit)
    assert abs(epochs * batches - ours.steps) <= batches
    assert epochs >= 50  # enough for the schedule to keep its shape


@pytest.mark.parametrize(
    "name, middle, last",
    [("sre2l-in1k", 0.5, 2.7e-5), ("rded-imagenet-1k", 0.854, 0.5026), ("edc-imagenet-1k-official", 0.75, 0.5017)],
)
def test_rates_over_the_training(name, middle, last):
    recipe = get_protocol(name).fit_recipe("resnet18", 10, 10000)
    assert recipe.epochs == 300 and recipe.rate(0) == pytest.approx(1e-3)
    assert recipe.rate(150) / recipe.lr == pytest.approx(middle, abs=1e-3)
    assert recipe.rate(299) / recipe.lr == pytest.approx(last, abs=1e-3)


def test_warm_up_starts_at_one_percent():
    recipe = get_protocol("sre2l-tiny").fit_recipe("resnet18", 50, 10000)
    assert recipe.rate(0) == pytest.approx(0.002) and recipe.rate(5) == pytest.approx(0.2)


def test_policy():
    policy = get_protocol("rded-imagenette").policy(224)
    assert (policy.size, policy.shuffle, policy.crop, policy.flip, policy.mix, policy.per) == (
        224,
        2,
        (0.5, 1.0),
        0.5,
        "cutmix",
        "image",
    )
    assert get_protocol("small").policy(8, flip=False).flip == 0
