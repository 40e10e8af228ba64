"""The studies by name, for `study.py`: each is a function of the images a class."""

from __future__ import annotations

from functools import partial

from benchmarks.sets import Row, Study, trained_on_cifar10

RANDOM = {"random": Row("random")}
SMALL_FASHION = {"image_size": 32, "channels": "1", "max_per_class": 1000}
ALL = ("hard", "stored", "online")
TWO = ("convnet_w32", "test_byobnet")

# EDC: iterations T and matching weight r
EDC = {
    **SMALL_FASHION, "base_model": "convnet_d1,convnet_w32,cifar_wrn16_2", "teachers": "convnet_d1,convnet_w32",
    "squeeze_epochs": 3, "squeeze_schedule": "cosine", "shard_size": 100, "patch": 4, "crop_min": 0.5,
}  # fmt: skip
GRID = [(25, 0.1), (75, 0.01), (75, 0.1), (75, 1.0), (200, 0.1), (500, 0.01), (500, 0.1)]
CHOSEN = {"iterations": 75, "match_weight": 0.01}  # what `edc-select` found
WHOLE_VIEWS = {"crop_min": 1.0, "match_weight": 0.1}  # what `whole-views-fashion` found later
# every step of the ladder changes one thing in the one above it: settings of the method, then of the students
LADDER = {
    "B real images, G-VBSM matching": (
        {"alpha": 1.0, "flatness_weight": 0.0, "crop_min": 0.08},
        {"schedule_params": {"zeta": 1.0}, "batch": 100, "ema": None, "crop": (0.08, 1.0)},
    ),
    "C smoothing rate": ({}, {"schedule_params": {"zeta": 2.0}}),
    "D flatness": ({"flatness_weight": 0.25}, {}),
    "E small batch": ({}, {"batch": 25}),
    "F class-aware matching": ({"alpha": 0.5}, {}),
    "G weak crops, averaged weights": ({"crop_min": 0.5}, {"crop": (0.5, 1.0), "ema": 0.99}),
}


def edc_select(ipc: int = 10) -> Study:
    tried = {f"T={t} r={r}": Row("edc", {"iterations": t, "match_weight": r}) for t, r in GRID}
    # as far as T = 75 goes in steps of usual length: is it the way that costs accuracy, or the number of steps?
    short = {"iterations": 500, "match_weight": 0.1, "lr": 0.05 * 75 / 500}
    rows = {**RANDOM, **tried, "T=500 r=0.1 short steps": Row("edc", short)}
    shared = {**EDC, "max_test": 2000}
    return Study("fashion_mnist", rows, shared, ipc, regimes=ALL[:2], held_out=True, unseen="convnet_w64")


def edc_ladder(ipc: int = 10) -> Study:
    rows, settings, recipe = {}, dict(CHOSEN), {}
    for name, (method_change, recipe_change) in LADDER.items():
        settings, recipe = {**settings, **method_change}, {**recipe, **recipe_change}
        beside = f"random {name[0]}"
        rows[beside] = Row("random", recipe=recipe, beside=beside)
        rows[name] = Row("edc", settings, recipe=recipe, beside=beside)
    return Study("fashion_mnist", rows, EDC, ipc, regimes=ALL[:2])


def edc_final(ipc: int = 10) -> Study:
    rows = {**RANDOM, "full": Row("full"), "initial": Row("edc", CHOSEN, "initial"), "edc": Row("edc", CHOSEN)}
    return Study("fashion_mnist", rows, EDC, ipc, students=TWO, regimes=ALL)


# all decoupled methods under one protocol and one labeller
BASE = "convnet_bn_w32"
SINGLE = {"base_model": BASE, "pool_kind": "none"}
SEVERAL = {"base_model": f"{BASE},convnet_w32,convnet_d1", "pool_kind": "none"}
# after an epoch this network already has most of its accuracy: the usual ceiling would leave no copy
PRIOR = {"base_model": BASE, "pool_kind": "prior", "pool_size": 4, "prior_epochs": "1,2,3,4", "top1_ceiling": 1.1}
POST = {"base_model": BASE, "pool_kind": "post", "pool_size": 4}
SQUEEZE = {"squeeze_epochs": 6, "squeeze_schedule": "cosine", "squeeze_batch": 64, "squeeze_lr": 0.05}
STEPS = {"iterations": 300}


def equal(ipc: int = 10) -> Study:
    rows = {
        "RDED": Row("rded", SINGLE), "SRe2L": Row("sre2l", SINGLE | STEPS), "CDA": Row("cda", SINGLE | STEPS),
        "SRe2L++": Row("sre2lpp", SINGLE | STEPS), "G-VBSM": Row("gvbsm", SEVERAL | STEPS),
        "EDC": Row("edc", SEVERAL | CHOSEN), "Teddy K=1": Row("teddy", SINGLE | STEPS),
        "Teddy prior": Row("teddy", PRIOR | STEPS), "Teddy post": Row("teddy", POST | STEPS),
    }  # fmt: skip
    rows = rows if ipc == 10 else {name: rows[name] for name in ("EDC", "Teddy post")}
    rows = {**RANDOM, "noise": Row("noise"), **rows}
    shared = {**SMALL_FASHION, **SQUEEZE, "teachers": BASE, "observers": None}
    return Study(
        "fashion_mnist", rows, shared, ipc, students=TWO, regimes=ALL, labeller=SINGLE, presets=True
    )  # fmt: skip


# the matching family; an outer iteration of IDC and DREAM has 20 steps here and 100 in the papers
MATCHING = {
    ("dm", 1): 400, ("dm", 10): 300, ("dc", 1): 150, ("dc", 10): 15, ("dsa", 1): 150, ("dsa", 10): 15,
    ("idc", 1): 10, ("idc", 10): 8, ("dream", 1): 10, ("dream", 10): 8,
}  # fmt: skip
INNER = {"inner_steps": 20, "network_images": 256, "distance": "l1"}
TILED = {"idc": {**INNER, "formation_factor": 2}}
TILED["dream"] = {**TILED["idc"], "cluster_candidates": 1000}
SCORED_BY = {"dc": "dc", "idc": "idc", "dream": "idc"}


def matching(method: str, ipc: int = 1) -> Study:
    settings = {"iterations": MATCHING.get((method, ipc), 100), "real_batch": 64, **TILED.get(method, {})}
    other = {"first images": Row(method, settings, "initial")}
    if method not in TILED:
        other = {f"{method}, unclamped": Row(method, settings, "pixels")}
    rows = {**RANDOM, method: Row(method, settings), **other}
    shared = {"base_model": "convnet_w32"}
    return Study("fashion_mnist", rows, shared, ipc, SCORED_BY.get(method, "dsa"), each=3)


def coresets(ipc: int = 10) -> Study:
    names = ("herding", "k_center", "k_medoids", "forgetting")
    rows = {name: Row("coreset", {"selection": name}, sets=1) for name in names}
    last = {"selection": "forgetting", "never_learned": "last"}
    rows["forgetting, never learned last"] = Row("coreset", last, sets=1)
    shared = {"max_per_class": 1000, "base_model": "convnet_w32", "squeeze_epochs": 5, "squeeze_lr": 0.05}
    return Study("fashion_mnist", {**RANDOM, **rows}, shared, ipc, "dc")


def dream_sampler(ipc: int = 1) -> Study:
    """DREAM's first images and its real batches, each by itself, at equal batch size."""
    settings = {**INNER, "iterations": 10, "real_batch": 64, "lr": 1e-2, "formation_factor": 1}
    rows = {}
    for init, first in (("real", "random"), ("centres", "medoids")):
        rows[f"{first} as they are"] = Row("idc", {**settings, "init": init, "sampler": "random"}, "initial")
        for sampler in ("random", "centres"):
            rows[f"from {first}, {sampler} batches"] = Row("idc", {**settings, "init": init, "sampler": sampler})
    shared = {"max_per_class": 1000, "base_model": "convnet_w32"}
    return Study("fashion_mnist", rows, shared, ipc, "dsa", each=3)


# methods that publish real images: under the student of BPS, which has a teacher on line, and with hard labels
REAL = {
    **SMALL_FASHION, "base_model": "convnet_w32", "squeeze_epochs": 5, "squeeze_lr": 0.05, "squeeze_schedule": "cosine",
}  # fmt: skip


def bps(ipc: int = 10) -> Study:
    """BPS, its centres alone and k-medoids beside random images, under BPS's own student with fewer epochs."""
    rows = {"BPS": Row("bps", sets=1), "BPS, centres alone": Row("bps", {"margin": "none"}, sets=1)}
    rows |= {
        "BPS, k-means patterns": Row("bps", {"patterns": "kmeans"}),
        "k_medoids": Row("coreset", {"selection": "k_medoids"}),
    }
    protocol, recipe = "bps-cifar10", {"epochs": 60}
    return Study("fashion_mnist", {**RANDOM, **rows}, REAL, ipc, protocol, recipe, regimes=("online",), sets=5)


def real_images(ipc: int = 10) -> Study:
    """Methods for which a gain with hard labels is claimed: students of PCA and CA2D look at one tile, those of CIM mostly."""
    pca = {"selection": "pca_tiles", "dynamics_epochs": 3, "el2n_epochs": 3}
    crops, tiles = {"rded_factor": 2, "rded_candidates": 100}, {"tiles": 2, "tile_share": 0.75}
    cim = {"iterations": 30, "candidates": 150}
    rows = {
        "PCA": Row("coreset", pca, recipe={"tiles": 2}),
        "PCA, crops of whole images": Row("coreset", pca),
        "CIM": Row("cim", cim, recipe=tiles),
        "CIM before optimisation": Row("cim", cim, "initial", recipe=tiles),
        "RDED": Row("rded", crops, recipe={"tiles": 2}),
        "RDED, one crop": Row("rded", {**crops, "rded_factor": 1}),
        "CA2D": Row("ca2d", {**crops, "dynamics_epochs": 11}, recipe={"tiles": 2}),
        "CA2D, one crop": Row("ca2d", {**crops, "dynamics_epochs": 11, "rded_factor": 1}),
        "CIM, L1": Row("cim", {**cim, "distance": "l1"}, recipe=tiles),
    }
    shared, recipe = {**REAL, "max_per_class": 200, "squeeze_epochs": 15}, {"steps": 300}
    return Study("fashion_mnist", {**RANDOM, **rows}, shared, ipc, recipe=recipe, sets=5)


# PDD over three bases: E epochs of a student of a whole set, which is short, and so are batches
TRAJECTORIES = {
    "student_steps": 8, "span": 2, "first_epochs": 4, "lr": 3.0, "student_lr": 0.05, "lr_lr": 1e-4, "expert_lr": 0.05,
    "expert_batch": 64, "families": "", "chains": None,
}  # fmt: skip
PDD = {
    "digits": (100, 4, {"base_model": "convnet_d1", "students": "convnet_d1", "chains": 6, "image_size": 8}, {
        "mtt": {
            **TRAJECTORIES, "iterations": 80, "experts": 4, "base_model": "convnet_d2_w16", "students": "convnet_d2_w16",
        },
        "dm": {"iterations": 60, "real_batch": 32},
        "edc": {"iterations": 75, "base_model": "convnet_d1,convnet_d2", "chains": 2, "observers": None},
    }),
    "fashion_mnist": (60, 3, {
        "base_model": "convnet_w32", "students": "convnet_w32", "chains": 4, "image_size": 14, "channels": "1",
        "max_per_class": 500, "max_test": 2000,
    }, {
        "mtt": {**TRAJECTORIES, "iterations": 60, "experts": 3, "first_epochs": 3, "expert_batch": 128},
        "dm": {"iterations": 250, "real_batch": 32},
        "edc": {"iterations": 75, "squeeze_epochs": 4, "chains": 2, "observers": None, "shard_size": 100},
    }),
}  # fmt: skip


def pdd(data: str, base: str, ipc: int = 10) -> Study:
    """`released` trains E/2 epochs in each stage; `equal` shows as many images as E epochs of the whole set do."""
    epochs, sets, shared, bases = PDD[data]
    shared = {**shared, **bases[base], "base_method": base, "chain_epochs": epochs // 2}
    regimes = ("online",) if base == "edc" else ("hard",)
    shared |= {"teachers": None} if base == "edc" else {}
    rows = {**RANDOM, "base": Row("pdd", {"stages": 1}, "pixels")}
    rows["base, 1.5 E"] = Row("pdd", {"stages": 1}, "pixels", {"epochs": epochs * 3 // 2})
    for stages in (5, 2):
        name = f"{stages} x {ipc // stages}"
        rows[f"{name} released"] = Row("pdd", {"stages": stages}, "pixels", {"stage_epochs": epochs // 2})
        rows[f"{name} equal"] = Row("pdd", {"stages": stages}, "pixels")
    protocol, students = {"mtt": "mtt", "dm": "dsa", "edc": "small"}[base], (shared.pop("students"),)
    recipe = {"epochs": epochs, "batch": 20}
    return Study(data, rows, shared, ipc, protocol, recipe, students, regimes, sets=sets)


DIGITS_MTT = {
    "iterations": 120, "lr": 3.0, "lr_lr": 1e-4, "student_lr": 0.05, "student_steps": 10, "span": 2, "first_epochs": 6,
    "experts": 6, "expert_lr": 0.05, "expert_batch": 64, "families": (),
}  # fmt: skip


def mtt_digits(ipc: int = 1) -> Study:
    """MTT with the exact gradient and with TESLA's; students as experts were trained, at the learned rate."""
    rows = {f"MTT ({kind})": Row("mtt", {**DIGITS_MTT, "gradient": kind}, "pixels") for kind in ("adjoint", "tesla")}
    recipe = {
        "epochs": 300,
        "lr": 0.05,
        "schedule": "constant",
        "schedule_params": {},
        "weight_decay": 0.0,
        "siamese": (),
    }
    shared = {"base_model": "convnet_d2_w16", "image_size": 8}
    return Study("digits", {**RANDOM, **rows}, shared, ipc, "mtt", recipe, ("convnet_d2_w16",), sets=4, each=3)


def chains(ipc: int = 6) -> Study:
    """PDD over IDC with a pool of chains, or a new chain for every network (0), as in its script."""
    shared = {
        "base_method": "idc", "stages": 3, "iterations": 12, "inner_steps": 5, "real_batch": 32, "network_images": 64,
        "chain_epochs": 20,
    }  # fmt: skip
    rows = {"replay": Row("pdd", {"chains": 0}), "pool": Row("pdd", {"chains": 6})}
    return Study("digits", rows, shared, ipc, students=("convnet_d1",), sets=4)


# what soft labels weigh: one draw of random images, labelled in every way
LABELS = {
    "digits": {
        "base_model": "convnet_d1,convnet_d2", "squeeze_epochs": 20, "squeeze_batch": 64, "squeeze_lr": 0.05,
        "squeeze_schedule": "cosine", "squeeze_pad": 1, "channels": "1",
    },
    "fashion_mnist": {**SMALL_FASHION, "image_size": 16, **SQUEEZE, "base_model": BASE},
}  # fmt: skip
PACKED = [(s, k, 8) for s in (1, 3, 10, 30) for k in (1, 3, 5)] + [(10, 3, 4), (10, 10, 4), (15, 10, 3)]


def labels(data: str, ipc: int = 10) -> Study:
    stores = {"virtual": {"store": "virtual"}, "full store": {}, "int8": {"store": "int8"}}
    stores |= {f"pruned {n}x": {"store": "pruned", "keep_every": n} for n in (10, 40)}
    for s, k, bits in PACKED:
        name = f"packed s={s} k={k}" + (f", {bits} bits" if bits < 8 else "")
        stores[name] = {"store": "packed", "views_per_image": s, "top_k": k, "value_bits": bits}
    rows = {"online": Row("random", regimes=("online",), sets=1)}
    rows |= {name: Row("random", labels=store, regimes=("stored",), sets=1) for name, store in stores.items()}
    student = "convnet_d1" if data == "digits" else "convnet_w32"
    return Study(data, rows, LABELS[data], ipc, students=(student,), regimes=("stored", "online"))


def probes(ipc: int = 1) -> Study:
    """LGM and what stands beside it: `--set backbone=NAME --students probe:NAME probe:OTHER`."""
    settings = {
        "iterations": 120, "lr": 0.05, "head_scale": 0.0, "real": "means", "real_passes": 0, "copies": 2, "crop_min": 0.5,
        "noise": 0.0, "grow_every": 15,
    }  # fmt: skip
    rows = {
        **RANDOM, "LGM": Row("lgm", settings), "class means": Row("class_means", sets=1), "full": Row("full", sets=1),
        "centroids": Row("coreset", {"selection": "backbone_centres"}, sets=1),
    }  # fmt: skip
    return Study("cifar10", rows, {"max_per_class": 300, "max_test": 1000}, ipc, "probe-fast", sets=5)


def mosaic(data: str, ipc: int = 10) -> Study:
    """Several real images in each stored one, which students enlarge again: as scaled down, and with CIM's optimisation.

    Those that the observer finds easiest among 300 of a class, or random ones (no more candidates than are used).
    """
    kept = {"lr": 0.01, "iterations": 200}
    drawn = {**kept, "candidates": 4 * ipc}
    matched = {"iterations": 300, "real_batch": 64, "base_model": "convnet_w32"}
    rows = {
        **RANDOM, "k-medoids": Row("coreset", {"selection": "k_medoids"}, sets=1),
        "easiest, scaled down": Row("mosaic", kept, "initial"), "easiest, optimised": Row("mosaic", kept),
        "random, scaled down": Row("mosaic", drawn, "initial"), "random, optimised": Row("mosaic", drawn),
        "DM": Row("dm", matched), "DM, packed": Row("dm", {**matched, "formation_factor": 2}),
    }  # fmt: skip
    shared = {
        "max_per_class": 1000, "base_model": "convnet_bn_w32", "squeeze_epochs": 6, "squeeze_schedule": "cosine",
        "squeeze_batch": 64, "squeeze_lr": 0.05, "max_test": 2000,
    }  # fmt: skip
    return Study(data, rows, shared, ipc, "compare", {"steps": 500}, regimes=("hard", "online"), held_out=True)


SMALL_POOL = {
    "max_per_class": 1000, "base_model": BASE, "squeeze_epochs": 6, "squeeze_schedule": "cosine", "squeeze_batch": 64,
    "squeeze_lr": 0.05, "max_test": 2000,
}  # fmt: skip
DIGITS_POOL = {
    "base_model": "convnet_d1,convnet_d2,cifar_wrn16_2", "teachers": "convnet_d1,convnet_d2", "squeeze_epochs": 20,
    "squeeze_batch": 64, "squeeze_lr": 0.05, "squeeze_schedule": "cosine", "squeeze_pad": 1, "channels": "1",
}  # fmt: skip
FROM_NOISE = {
    "iterations": 300, "lr": 0.1, "match_weight": 0.05, "first_layer_weight": 10.0, "shard_size": 100, "crop_min": 0.5,
    "roll": 2, "init": "noise",
}  # fmt: skip


def from_noise(ipc: int = 10) -> Study:
    """Why inversion from noise lies below random images: one thing changed at a time in SRe2L's preset."""
    changes = {
        "SRe2L": {}, "1,000 steps": {"iterations": 1000}, "a quarter of the rate": {"lr": 0.025},
        "statistics weigh 10 times more": {"match_weight": 0.5}, "hardly any statistics": {"match_weight": 0.001},
        "whole views": {"crop_min": 1.0, "roll": 0}, "real start": {"init": "real"},
        "real start, 25 steps": {"init": "real", "iterations": 25},
    }  # fmt: skip
    heavy, whole = (changes[name] for name in ("statistics weigh 10 times more", "whole views"))
    changes |= {  # these came after the first nine, by what those gave
        "shifts of 4 px, no crops": {"crop_min": 1.0, "roll": 4},  # the views of its script for CIFAR-100
        "whole views, statistics weigh 10 times more": {**whole, **heavy},
        "whole views, real start": {**whole, "init": "real"},
        "whole views, statistics weigh 10 times more, real start": {**whole, **heavy, "init": "real"},
        "statistics weigh 10 times more, real start": {**heavy, "init": "real"},
    }
    own = FROM_NOISE
    rows = {**RANDOM, **{name: Row("sre2l", {**own, **change}) for name, change in changes.items()}}
    rows["noise, not optimised"] = Row("sre2l", own, "initial")
    return Study(
        "fashion_mnist", rows, SMALL_POOL, ipc, "compare", {"steps": 500}, regimes=("hard", "online"), sets=2, held_out=True,
        unseen="convnet_w32",
    )  # fmt: skip


def whole_views(data: str, ipc: int = 10) -> Study:
    """Statistics of whole images from a real start: SRe2L's and EDC's with the views of their presets and without."""
    whole = {"crop_min": 1.0, "roll": 0}
    sre2l = {**FROM_NOISE, **whole, "init": "real", "match_weight": 0.5}
    edc = {**CHOSEN, "shard_size": 100, "patch": 4, "crop_min": 0.5, "init": "real"}
    heavy, three = {**edc, **WHOLE_VIEWS}, {"base_model": f"{BASE},convnet_w32,convnet_d2_w16", "observers": None}
    rows = {
        **RANDOM, "medoids": Row("coreset", {"selection": "k_medoids"}),
        "SRe2L": Row("sre2l", sre2l), "SRe2L, 100 steps": Row("sre2l", {**sre2l, "iterations": 100}),
        "SRe2L, statistics weigh 10 times more": Row("sre2l", {**sre2l, "match_weight": 5.0}),
        "SRe2L, from medoids": Row("sre2l", {**sre2l, "init": "medoids"}),
        "WMDD, from medoids": Row("wmdd", {**sre2l, "init": "medoids"}),
        "EDC": Row("edc", edc), "EDC, whole views": Row("edc", {**edc, "crop_min": 1.0}),
        "EDC, whole views, statistics weigh 10 times more": Row("edc", heavy),
        "EDC, whole views, statistics weigh 100 times more": Row("edc", {**heavy, "match_weight": 1.0}),
        "tiles of random": Row("edc", {**heavy, "formation_factor": 2}),
        "tiles of medoids": Row("edc", {**heavy, "formation_factor": 2, "init": "medoids"}),
        "tiles of easy": Row("edc", {**heavy, "formation_factor": 2, "init": "easy"}),
        "tiles of easy, 200 steps": Row("edc", {**heavy, "formation_factor": 2, "init": "easy", "iterations": 200}),
        "tiles of easy, 25 steps": Row("edc", {**heavy, "formation_factor": 2, "init": "easy", "iterations": 25}),
        "three observers": Row("edc", {**heavy, **three}),
        "three observers, from medoids": Row("edc", {**heavy, **three, "init": "medoids"}),
        "three observers, tiles of easy": Row("edc", {**heavy, **three, "formation_factor": 2, "init": "easy"}),
        "the same from medoids": Row("edc", {**heavy, "init": "medoids"}),
        "the same from medoids, 200 steps": Row("edc", {**heavy, "init": "medoids", "iterations": 200}),
    }  # fmt: skip
    shared, student = (DIGITS_POOL, "convnet_d1") if data == "digits" else (SMALL_POOL, "convnet_w32")
    return Study(data, rows, shared, ipc, "compare", {"steps": 500}, students=(student,), regimes=("hard", "online"),
                 sets=2, held_out=True)  # fmt: skip


def family_views(ipc: int = 10) -> Study:
    """Relatives of SRe2L with crops and shifts in synthesis, and with whole images and ten times the weight of statistics."""
    shared = {**SMALL_POOL, "iterations": 300, "shard_size": 100, "pool_kind": "none"}
    weights = {"dwa": 0.05, "fadrm": 0.05, "sre2lpp": 0.05, "teddy": 1.0, "wmdd": 0.05}
    rows = dict(RANDOM)
    for method, weight in weights.items():
        rows[method] = Row(method, {"crop_min": 0.5, "roll": 2, "match_weight": weight})
        rows[f"{method}, whole views"] = Row(method, {"crop_min": 1.0, "roll": 0, "match_weight": 10 * weight})
    return Study(
        "fashion_mnist", rows, shared, ipc, "compare", {"steps": 500}, regimes=("hard", "online"), sets=2, held_out=True,
        presets=True,
    )  # fmt: skip


# rows of published tables on CIFAR-10: ledger.md
def cifar_coresets(ipc: int = 1) -> Study:
    """Random and herding under DC's protocol, in ConvNet-3 of width 128; herding in its features or those of ResNet-20."""
    strong = {"base_model": trained_on_cifar10(20), "squeeze_epochs": 0}
    rows = {**RANDOM, "herding": Row("coreset", {"selection": "herding"}, sets=1)}
    rows["herding, ResNet-20"] = Row("coreset", {"selection": "herding", **strong}, sets=1)
    shared = {"base_model": "convnet_w128", "squeeze_epochs": 3, "squeeze_schedule": "cosine", "squeeze_batch": 128,
              "squeeze_lr": 0.05}  # fmt: skip
    return Study("cifar10", rows, shared, ipc, "dc", students=("convnet_w128",))


def cifar_matching(method: str, ipc: int = 1) -> Study:
    """A method with the values of its preset, in ConvNet-3 of width 128; `--set iterations=N` for a shorter one."""
    rows = {**RANDOM, method: Row(method, part="pixels"), "first images": Row(method, part="initial")}
    return Study("cifar10", rows, {"base_model": "convnet_w128"}, ipc, SCORED_BY.get(method, "dsa"),
                 students=("convnet_w128",), presets=True)  # fmt: skip


WEAK_POOL = {  # trained as EDC's, for fewer steps: two epochs of half of the images; published: eight networks, 10 epochs
    "base_model": "convnet_w128,convnet_d1,convnet_d2,convnet_w32,cifar_shufflenetv2_x0_5", "squeeze_epochs": 2,
    "squeeze_batch": 64, "squeeze_lr": 0.05, "squeeze_schedule": "constant", "squeeze_weight_decay": 0.0, "squeeze_pad": 4,
    "max_per_class": 2500,
}  # fmt: skip


def cifar_decoupled(method: str, ipc: int = 1) -> Study:
    """EDC or RDED with the values of its preset and a ResNet-18 as student; random images have the same labels."""
    shared = WEAK_POOL if method == "edc" else {"base_model": trained_on_cifar10(20), "squeeze_epochs": 0}
    rows = {**RANDOM, method: Row(method)}
    return Study("cifar10", rows, shared, ipc, f"{method}-cifar10", {"best_every": 0}, ("cifar_resnet18",), ("online",),
                 presets=True)  # fmt: skip


STUDIES = {
    "cifar-coresets": cifar_coresets, **{f"cifar-{m}": partial(cifar_matching, m) for m in ("dm", "dc", "dsa")},
    **{f"cifar-{method}": partial(cifar_decoupled, method) for method in ("edc", "rded")},
    "bps": bps, "real-images": real_images, "edc-select": edc_select, "edc-ladder": edc_ladder, "edc-final": edc_final, "equal": equal,
    "coresets": coresets,
    "dream-sampler": dream_sampler, "chains": chains, "mtt-digits": mtt_digits, "probes": probes,
    **{method: partial(matching, method) for method in ("dm", "dc", "dsa", "idc", "dream")},
    "from-noise": from_noise, "family-views": family_views,
    **{f"whole-views-{data.split('_')[0]}": partial(whole_views, data) for data in ("cifar10", "digits", "fashion_mnist")},
    **{f"mosaic-{data.split('_')[0]}": partial(mosaic, data) for data in ("cifar10", "fashion_mnist")},
    **{f"labels-{data.split('_')[0]}": partial(labels, data) for data in LABELS},
    **{f"pdd-{data.split('_')[0]}-{base}": partial(pdd, data, base) for data in PDD for base in ("mtt", "dm", "edc")},
}  # fmt: skip
