"""The state of an unfinished training on disk: saved after an epoch, resumed from exactly there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hf_condense.errors import ArtefactError
from hf_condense.files import load_tensors, save_tensors


class FitState:
    """Everything that a fit needs to resume: weights, optimiser, averaged weights, history.

    Args:
        average: the network with averaged weights, or None; its buffers are the online network's.
        identity: of recipe, key and network; the state of another fit is refused.
    """

    def __init__(self, folder: Path, model: nn.Module, optimizer, average: nn.Module | None, identity: str) -> None:
        self.path = Path(folder) / "fit.safetensors"
        self.model, self.optimizer, self.average, self.identity = model, optimizer, average, identity
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def save(self, epoch: int, steps: int, seconds: float, history: list[dict]) -> None:
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        if self.average:
            tensors |= {f"ema/{k}": v for k, v in self.average.named_parameters()}
        for i, p in enumerate(self.parameters):
            state = self.optimizer.state.get(p, {})
            tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        # clones: tied weights share memory, which safetensors refuses
        tensors = {k: v.detach().cpu().clone() for k, v in tensors.items()}
        facts = {"epoch": epoch, "steps": steps, "seconds": seconds, "history": history, "identity": self.identity}
        save_tensors(self.path, tensors, facts)

    @torch.no_grad()
    def load(self) -> tuple[int, int, float, list[dict]]:
        """(finished epochs, steps, seconds, history); zeros if there is no saved state.

        Raises:
            ArtefactError: the file is damaged, or of a fit with another recipe, key or network.
        """
        if not self.path.exists():
            return 0, 0, 0.0, []
        tensors, facts = load_tensors(self.path)
        if facts.get("identity") != self.identity:
            raise ArtefactError(
                str(self.path), facts.get("identity"), f"the state of this fit ({self.identity})", "delete this file"
            )
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")})
        if self.average:
            for name, p in self.average.named_parameters():
                p.copy_(tensors[f"ema/{name}"])
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, i, name = key.split("/")
                p = self.parameters[int(i)]
                # Adam keeps its step count on the CPU, unless it is fused, and moments where the weights are
                here = name == "step" and not self.optimizer.defaults.get("fused")
                self.optimizer.state[p][name] = value if here else value.to(p.device)
        return facts["epoch"], facts["steps"], facts["seconds"], facts["history"]
