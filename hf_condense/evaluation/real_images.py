"""Protocols of methods that publish real images or tiles of them: BPS, PCA, CCFS and CIM."""

from __future__ import annotations

from dataclasses import replace

from hf_condense.evaluation.protocol import SMALL, Case, Protocol

_BPS = "https://github.com/BeCarefulOfYournaoke/BPS"
_PCA = "https://arxiv.org/abs/2502.06434"
_CCFS = "https://arxiv.org/abs/2503.18872"
_CIM = "https://arxiv.org/abs/2607.00916"
_LOOKS = "; its script prints the best of several looks at the test set"


def _bps(dataset: str, by_ipc: dict[int, tuple[float, int]], *more: Case, **changes) -> Protocol:
    """`by_ipc`: IPC -> (least area of a crop, batch)."""
    cases = (
        Case({"crop": (area, 1.0) if area < 1 else None, "batch": b}, ipc=(i,)) for i, (area, b) in by_ipc.items()
    )
    return Protocol(
        f"bps-{dataset}", _BPS, epochs=500, lr=1e-3, decay_all=True, regime="online", temperature_squared=True,
        schedule="smoothing", schedule_params={"zeta": 2.0}, best_every=1, best_from=0.958, cases=(*cases, *more),
        note="batch and crops are listed for some IPC alone" + _LOOKS, **changes,
    )  # fmt: skip


BPS = (
    _bps("cifar10", {
        10: (0.1, 16), 50: (0.2, 16), 100: (0.2, 32), 250: (0.4, 32), 500: (0.6, 64), 1000: (0.9, 128), 1500: (1.0, 128),
    }),
    _bps("cifar100", {10: (0.2, 32), 25: (0.4, 32), 50: (0.6, 64), 100: (0.9, 128), 150: (1.0, 128)}),
    _bps("tiny-imagenet", {10: (0.2, 32), 50: (0.6, 64), 100: (0.9, 128)}),
    _bps(
        "imagenet-1k", {10: (0.2, 128), 50: (0.2, 256), 100: (0.2, 512)}, Case({"crop": None}, students=("vit*", "deit*")),
        val_resize="8/7",
    ),
)  # fmt: skip

# --- PCA: as the soft standard of its paper, with crops inside one tile --------------------------------------------

PCA = (
    Protocol(
        "pca-imagenet-1k", _PCA, epochs=300, batch=128, lr=1e-3, regime="online", tiles=2, val_resize="8/7",
        note="the values of soft-standard-in1k; what share of a tile a crop may have is not known (0.08 of it taken)",
    ),
    replace(
        SMALL, name="small-tiles", citation=_PCA, tiles=2,
        note="ours: `small` with every view inside one of 2 x 2 tiles, for PCA's images",
    ),
)  # fmt: skip

# --- CCFS: SGD with the teacher on line ---------------------------------------------------------------------------


def _ccfs(dataset: str, by_ipc: dict[int, tuple[int, int]]) -> Protocol:
    """`by_ipc`: IPC -> (epochs, batch)."""
    return Protocol(
        f"ccfs-{dataset}", _CCFS, optimizer="sgd", lr=0.2, weight_decay=1e-4, decay_all=True, warmup_epochs=5,
        regime="online", temperature_squared=True, mix="none", best_every=1, best_from=0.8,
        note="epochs and batch are listed for some IPC alone" + _LOOKS,
        cases=tuple(Case({"epochs": epochs, "batch": b}, ipc=(i,)) for i, (epochs, b) in by_ipc.items()),
    )  # fmt: skip


CCFS = (
    _ccfs("cifar100", {25: (500, 32), 50: (500, 64), 100: (250, 128), 150: (200, 128)}),
    _ccfs("tiny-imagenet", {50: (100, 64), 100: (100, 128)}),
)  # fmt: skip

# --- CIM: a tile three times of four, siamese augmentation, distance of logits ----------------------------------------


def _cim(dataset: str, batches: dict[int, int], epochs: int = 1000, **changes) -> Protocol:
    """`batches`: IPC -> batch, which its script chooses by the number of images."""
    return Protocol(
        f"cim-{dataset}", _CIM, epochs=epochs, lr=1e-3, weight_decay=1e-4, decay_all=True, schedule="multistep",
        schedule_params={"milestones": (2 / 3, 5 / 6), "factor": 0.2}, regime="online", loss="mse_gt", gamma=0.0,
        crop=None, flip=0.0, mix="none", tiles=2, tile_share=0.75,
        siamese=("color", "crop", "cutout", "flip", "scale", "rotate"), siamese_params={"family_per": "group"},
        best_every=epochs // 4, note="a family and its numbers an image" + _LOOKS,
        cases=(
            *(Case({"batch": batch}, ipc=(ipc,)) for ipc, batch in batches.items()),
            Case({"lr": 1e-4}, students=("swin*", "vit_tiny*")), Case({"lr": 2e-3}, students=("efficientnet_b0*",)),
        ), **changes,
    )  # fmt: skip


CIM = (
    _cim("cifar10", {1: 10, 10: 50, 50: 50}),
    _cim("cifar100", {1: 50, 10: 100, 50: 100}),
    _cim("tiny-imagenet", {1: 50, 10: 100, 50: 100}),
    _cim("imagenet-10", {1: 10, 10: 50, 50: 50}, val_resize="8/7"),
    _cim("imagenet-100", {1: 50, 10: 100, 50: 100}, val_resize="8/7"),
    _cim("imagenet-1k", {1: 100, 10: 100, 50: 200, 100: 200}, 300, val_resize="8/7"),
)

REAL_IMAGES = (*BPS, *PCA, *CCFS, *CIM)
