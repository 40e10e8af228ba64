"""Dataset condensation for the Hugging Face ecosystem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# torch, timm and datasets cost seconds to import: nothing here loads before it is asked for
_WHERE = {
    "CondensationTrainer": "hf_condense.trainer",
    "DistilledDataset": "hf_condense.hub.distilled",
    "create_method": "hf_condense.methods",
    "list_methods": "hf_condense.methods",
    "CondensationError": "hf_condense.errors",
}
__all__ = ["CondensationError", "CondensationTrainer", "DistilledDataset", "create_method", "list_methods"]

if TYPE_CHECKING:
    from hf_condense.errors import CondensationError
    from hf_condense.hub.distilled import DistilledDataset
    from hf_condense.methods import create_method, list_methods
    from hf_condense.trainer import CondensationTrainer


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hf_condense' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
