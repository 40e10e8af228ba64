"""Protocols of the matching family (gradients, distributions, trajectories): plain SGD, ConvNet, long training.

Scores of two of them never stand in one column: longer training and augmentation alone are worth several points.
"""

from __future__ import annotations

from dataclasses import replace

from hf_condense.evaluation.protocol import Case, Protocol

_DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")


def _drop_after_half(epochs: int) -> dict:
    """One epoch more than the paper says, as its script has it; the rate drops after epoch `epochs` // 2 + 1 from 0."""
    share = (epochs // 2 + 2.5) / (epochs + 1)  # in the middle of the epoch, so that no rounding moves it
    return {"epochs": epochs + 1, "schedule_params": {"milestones": (share,), "factor": 0.1}}


_DC = Protocol(
    "dc", "https://arxiv.org/abs/2006.05929", batch=256, optimizer="sgd", lr=0.01, weight_decay=5e-4, decay_all=True,
    schedule="multistep", restart=True, regime="hard", loss="soft_ce", temperature=1.0, crop=None, flip=0.0,
    mix="none", best_every=0, **_drop_after_half(300),
    note="without augmentation; for all sets but MNIST, and for the coresets in the tables of DC and DSA",
)  # fmt: skip

_MTT = replace(
    _DC, name="mtt", citation="https://arxiv.org/abs/2203.11932", siamese=_DSA, learned_rate=True,
    **_drop_after_half(1000), note="at the learned rate. Its scripts print the set that scored best on test images",
)  # fmt: skip
_TESLA = replace(
    _MTT, name="tesla", citation="https://arxiv.org/abs/2211.10586", regime="stored", label_per="image",
    note="as mtt, on the labels that an expert gave the images",
)  # fmt: skip
_DATM = replace(
    _TESLA, name="datm", citation="https://arxiv.org/abs/2310.05773", batch=128,
    note="as mtt, on the labels that were learned with the images. Its script prints the set that scored best on test images",
)  # fmt: skip
_IDC = replace(
    _DC, name="idc", citation="https://arxiv.org/abs/2205.14959", epochs=1000, batch=64, restart=False,
    schedule_params={"milestones": (2 / 3, 5 / 6), "factor": 0.2}, mix="cutmix", mix_probability=0.5,
    siamese=("color", "crop", "flip", "scale", "rotate"), siamese_mode="combined", best_every=250,
    note="of IDC and DREAM on decoded images; its papers print the best of four looks at the test set",
)  # fmt: skip
_NCFM = replace(
    _IDC, name="ncfm", citation="https://arxiv.org/abs/2502.20653", epochs=2000, batch=128, optimizer="adamw", lr=1e-3,
    weight_decay=0.01, schedule_params={"milestones": (0.2, 0.4, 0.6, 0.8), "factor": 0.5}, siamese=_DSA, best_every=100,
    note="on decoded images, with the decay that is AdamW's default; its tables print the best of all looks at the test set",
)  # fmt: skip

# in stages the rate drops half-way through each of them, and momentum is never lost
_PDD = "https://arxiv.org/abs/2310.06982"
_PDD_MTT = replace(
    _MTT, name="pdd-mtt", citation=_PDD, restart=False, stage_epochs=501,
    schedule_params=_drop_after_half(500)["schedule_params"],
    note="as released: half the epochs in each stage, so that five stages see 1.5 times the images of mtt",
)  # fmt: skip
_PDD_IDC = replace(
    _IDC, name="pdd-idc", citation=_PDD, stage_epochs=500, best_every=0,
    note="as released: half the epochs in each stage, so that five stages see 1.5 times the images of idc. Its script "
    "prints the best of 50 looks at the test set a stage",
)  # fmt: skip
_EQUAL = {"stage_epochs": None, "note": "ours: as many images seen as without stages (333 epochs in each of five)"}


def _whitened(protocol: Protocol) -> Protocol:
    note = f"{protocol.note}; on whitened pixels (ZCA), augmentation included"
    return replace(protocol, name=f"{protocol.name}-zca", zca=True, note=note)


_PDD_MTT_EQUAL = replace(_PDD_MTT, name="pdd-mtt-equal", **_EQUAL)

CLASSIC = (
    _DC,
    replace(
        _DC, name="dc-mnist", siamese=("crop", "scale", "rotate"), **_drop_after_half(1000),
        siamese_params={"family_per": "group", "shift": 4 / 28, "scale": (1 / 1.2, 1 / 0.8), "angle": 45.0},
        note="a family an image. The script fills with the mean of the batch (here: of the dataset), draws the size "
        "instead of the step between pixels, and resizes to the nearest pixel",
    ),
    replace(
        _DC, name="dsa", citation="https://arxiv.org/abs/2102.08259", siamese=_DSA, **_drop_after_half(1000),
        note="of DSA and DM. At one batch an epoch, a family an epoch",
    ),
    _IDC,
    replace(
        _IDC, name="idc-mnist", mix="none", siamese=("color", "crop", "scale", "rotate"),
        note="of IDC and DREAM on MNIST with several training images in each: not mixed; with one in each they take idc",
    ),
    _NCFM,
    replace(
        _NCFM, name="ncfm-tiny-imagenet", cases=(Case({"epochs": 300}, ipc=(40,)), Case({"epochs": 40}, ipc=(200,))),
        note=f"{_NCFM.note}; 300 epochs at 10 stored images a class, 40 at 50",
    ),
    *(form for p in (_MTT, _TESLA, _DATM, _PDD_MTT, _PDD_MTT_EQUAL) for form in (p, _whitened(p))),
    _PDD_IDC,
    replace(_PDD_IDC, name="pdd-idc-equal", **_EQUAL),
)  # fmt: skip
