"""CV-DD (arXiv:2501.07575): SRe2L++ against several observers at once, weighted by how good their images are for students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_condense.config import check, setting
from hf_condense.methods.base import Context
from hf_condense.methods.sre2lpp import SRe2LPlus, SRe2LPlusSettings
from hf_condense.objectives.committee import CommitteeStatistics, prior_weights, voters_of
from hf_condense.plan import Shard


@dataclass(frozen=True)
class CVDDSettings(SRe2LPlusSettings):
    """SRe2L++'s, and who votes."""

    voters: int = setting(2, "observers that a shard is optimised against, all in each step")
    priors: tuple[float, ...] | None = setting(
        None,
        "how good each observer is, in %, in the order of the pool (the paper: students on its images); defaults to equal",
    )
    prior_temperature: float = setting(5.0, "temperature of the weights that follow from --priors")
    label_temperature: float = setting(10.0, "the same, of the weights of all networks in the labels")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.voters >= 1, "voters", self.voters, "1 or more")
        for name in ("prior_temperature", "label_temperature"):
            check(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        known = self.priors is None or (len(self.priors) > 0 and all(0 <= prior <= 100 for prior in self.priors))
        check(known, "priors", self.priors, "numbers from 0 to 100, one for each observer")


class CVDD(SRe2LPlus):
    """Committees change from shard to shard, so that each observer votes as often as any other.

    Shard k of a group of classes has the k-th combination of observers; a set of one image a class has those of the
    largest priors. All observers label, weighted by their priors.
    """

    name = "cvdd"
    Settings = CVDDSettings
    other_protocol = "small-bssl"

    def objective(self, context: Context, ready: Any = None) -> CommitteeStatistics:
        s, members = self.settings, len(context.observers)
        check(s.voters <= members, "voters", s.voters, f"at most {members}, the observers of the pool")
        count = members if s.priors is None else len(s.priors)
        check(count == members, "priors", s.priors, f"{members} numbers, one for each observer of the pool")
        return CommitteeStatistics(
            **self.parts(context, ready), committee=lambda shard: self.committee(shard, context)
        )

    def label_weights(self, teachers: int) -> list[float] | None:
        if self.settings.priors is None:
            return None
        known, count = self.settings.priors, len(self.settings.priors)
        check(
            teachers == count, "teachers", teachers, f"{count} networks, as many as --priors", "leave --teachers out"
        )
        return prior_weights(known, self.settings.label_temperature)

    def committee(self, shard: Shard, context: Context) -> tuple[list[int], list[float]]:
        """Numbers of the observers of a shard, and their weights."""
        s, members, ipc = self.settings, len(context.observers), context.ipc
        priors = s.priors or (0.0,) * members
        if ipc == 1:
            voters = sorted(sorted(range(members), key=lambda k: -priors[k])[: s.voters])
        else:
            ids = max(1, s.shard_size // context.num_classes)  # images of a class in a shard
            voters = list(voters_of(shard.rows[0] % ipc // ids, members, s.voters, context.key / "voters"))
        return voters, prior_weights([priors[k] for k in voters], s.prior_temperature)
