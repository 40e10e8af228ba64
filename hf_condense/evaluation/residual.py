"""The protocols of FADRM and FADRM+ (arXiv:2506.24125, official validate scripts), by dataset, student and images a class."""

from __future__ import annotations

from dataclasses import replace

from hf_condense.evaluation.protocol import Case, Protocol

RESNETS = ("*resnet18*", "*resnet50*", "*resnet101*")
IPC = (1, 10, 50)
# (rate, zeta of the smoothing schedule) at 1, 10 and 50 images a class, of ResNet-18, -50 and -101; None: the script has none
RATES: dict[str, list[list[tuple[float, int] | None]]] = {
    "cifar100": [
        [(5e-4, 2), (1e-3, 2), (1e-3, 1)],
        [(1e-3, 1), (1e-3, 2), (1e-3, 1)],
        [(5e-4, 1), (5e-4, 1), (5e-4, 1)],
    ],
    "tiny": [[(1e-3, 2), (1e-3, 2), (1e-3, 1)], [(5e-4, 2), (5e-4, 2), (5e-4, 1)], [(5e-4, 2), (5e-4, 2), (5e-4, 1)]],
    "imagenette": [
        [(5e-4, 2), (5e-4, 1), (5e-4, 2)],
        [(5e-4, 2), (5e-4, 1), (5e-4, 1)],
        [(5e-4, 2), None, (1e-3, 2)],
    ],
    "imagewoof": [
        [(5e-4, 2), (5e-4, 1), (1e-3, 2)],
        [(5e-4, 2), (5e-3, 1), (5e-4, 1)],
        [(1e-3, 1), (5e-4, 2), (5e-4, 1)],
    ],
    "in1k": [
        [(1e-3, 2), (1e-3, 2), (1e-3, 1)],
        [(5e-4, 2), (1e-3, 2), (5e-4, 1)],
        [(3.5e-3, 2), (1e-3, 2), (5e-4, 1)],
    ],
}


def _cases(dataset: str) -> tuple[Case, ...]:
    """One case for each student and number of images that the scripts know."""
    found = []
    for student, row in zip(RESNETS, RATES[dataset]):
        for ipc, value in zip(IPC, row):
            rate = {"lr": None} if value is None else {"lr": value[0], "schedule_params": {"zeta": float(value[1])}}
            found.append(Case(rate, students=(student,), ipc=(ipc,)))
    return tuple(found)


# teacher and student normalise with the halves that a batch is cut into
_BASE = Protocol(
    name="fadrm-cifar100",
    citation="https://arxiv.org/abs/2506.24125",
    note="dropout of the teachers is off here; in the script it is on. The rates were searched for each row of its table",
    epochs=1000,
    batch=16,
    accumulation=2,
    lr=5e-4,
    schedule="smoothing",
    schedule_params={"zeta": 2.0},
    teacher_bn="batch",
    best_from=0.8,
    cases=_cases("cifar100"),
)
_LARGE = {"epochs": 300, "val_resize": "8/7"}
_TINY = replace(_BASE, name="fadrm-plus-tiny", epochs=300, cases=(*_cases("tiny"), Case({"epochs": 1000}, ipc=(1,))))
_WOOF = replace(_BASE, name="fadrm-imagewoof", batch=10, cases=_cases("imagewoof"), **_LARGE)
RESIDUAL = (
    _BASE,
    _TINY,
    replace(_TINY, name="fadrm-tiny", teacher_bn="running"),
    replace(_BASE, name="fadrm-imagenette", batch=10, cases=_cases("imagenette"), **_LARGE),
    _WOOF,
    replace(_WOOF, name="fadrm-plus-imagewoof", cases=(*_WOOF.cases, Case({"batch": 16}, ipc=(10, 50)))),
    replace(_BASE, name="fadrm-in1k", cases=_cases("in1k"), **_LARGE),
)
