"""Dataset condensation for the Hugging Face ecosystem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# torch, timm and datasets cost seconds to import: nothing here loads before it is asked for
_WHERE = {
    "Callback": "hf_condense.callbacks",
    "CondensationError": "hf_condense.errors",
    "CondensationTrainer": "hf_condense.trainer",
    "DistilledDataset": "hf_condense.hub.distilled",
    "create_method": "hf_condense.methods",
    "export": "hf_condense.hub.export",
    "list_methods": "hf_condense.methods",
    "load_teacher": "hf_condense.hub.load_teacher",
    "push_student": "hf_condense.hub.student",
    "soft_label_loss": "hf_condense.evaluation.trainer_loss",
}
__all__ = [
    "Callback",
    "CondensationError",
    "CondensationTrainer",
    "DistilledDataset",
    "create_method",
    "export",
    "list_methods",
    "load_teacher",
    "push_student",
    "soft_label_loss",
]

if TYPE_CHECKING:
    from hf_condense.callbacks import Callback
    from hf_condense.errors import CondensationError
    from hf_condense.evaluation.trainer_loss import soft_label_loss
    from hf_condense.hub.distilled import DistilledDataset
    from hf_condense.hub.export import export
    from hf_condense.hub.load_teacher import load_teacher
    from hf_condense.hub.student import push_student
    from hf_condense.methods import create_method, list_methods
    from hf_condense.trainer import CondensationTrainer


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hf_condense' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
