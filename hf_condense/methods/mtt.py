"""MTT: matching the trajectories of experts (arXiv:2203.11932)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hf_condense.config import check, check_choices, setting
from hf_condense.data.siamese import FAMILIES, SiamesePolicy
from hf_condense.methods.base import Context, Method
from hf_condense.methods.experts import experts_of
from hf_condense.methods.matching_family import DSA_FAMILIES
from hf_condense.models.expert_buffer import ExpertBuffer
from hf_condense.models.expert_training import ExpertRecipe
from hf_condense.models.flat import FlatNetwork
from hf_condense.models.made_up_experts import MadeUpExperts
from hf_condense.objectives.inner_loop import exact_gradient
from hf_condense.objectives.trajectory import TrajectoryMatching, TrajectorySegments
from hf_condense.objectives.twice import need_twice_differentiable
from hf_condense.plan import Plan, Recipe, SetSpec, Shard, Start
from hf_condense.selection.real import random_real

if TYPE_CHECKING:
    from hf_condense.models.image_model import ImageModel
    from hf_condense.plan import Synthetic


@dataclass(frozen=True)
class MTTSettings:
    """Settings of MTT; defaults are those of the official script, where it has some that fit all datasets."""

    iterations: int = setting(5000, "image steps", quick=20)
    lr: float = setting(1000.0, "SGD's learning rate of the images, in units of the space in which networks see them")
    momentum: float = setting(0.5, "SGD's momentum of images and learning rate")
    lr_lr: float = setting(1e-5, "SGD's learning rate of the student's learning rate")
    student_lr: float = setting(0.01, "first value of the student's learning rate, which is learned with the images")
    student_steps: int = setting(20, "steps of a student in each image step (N)", quick=10)
    student_batch: int | None = setting(None, "images in one of them; defaults to all (of one stage)")
    span: int = setting(2, "epochs of an expert that a student should cover (M)", quick=2)
    first_epochs: int = setting(20, "experts' epochs in which a student starts: one of the first T+", quick=3)
    pairs: int = setting(1, "students in each image step; processes share them")
    gradient: Literal["auto", "adjoint", "unroll", "tesla", "tesla_official"] = setting(
        "auto",
        "of the way through the student's steps: adjoint (exact, memory of one step), unroll (the same, faster, memory "
        "of all steps), auto (unroll where its graph is below 2 GiB, else adjoint), tesla (its Eq. 6, not exact), "
        "tesla_official (half of that for images, as its script)",
    )
    zca: bool = setting(False, "networks see whitened images instead of normalised ones")
    assign_labels: bool = setting(False, "students learn soft labels that the expert's target weights give the images")
    families: tuple[str, ...] = setting(
        DSA_FAMILIES, "augmentation of experts and students, one for each batch; flip only where it is allowed"
    )
    experts: int = setting(100, "networks trained on the real images", quick=2)
    expert_epochs: int | None = setting(None, "epochs of each; defaults to as many as are matched", quick=None)
    expert_lr: float = setting(0.01, "learning rate of experts: plain SGD")
    expert_batch: int = setting(256, "batch size of experts")
    expert_dtype: Literal["float32", "float16"] = setting("float32", "numbers in which their weights are kept")
    expert_folder: str | None = setting(None, "take the experts of this folder; later stages of PDD train their own")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("lr", "student_lr", "expert_lr"):
            check(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        check(self.lr_lr >= 0, "lr_lr", self.lr_lr, "0 (the rate stays as it is) or more")
        check(0 <= self.momentum < 1, "momentum", self.momentum, "0 or more and below 1")
        for name in (
            "iterations",
            "student_steps",
            "student_batch",
            "span",
            "first_epochs",
            "pairs",
            "experts",
            "expert_epochs",
            "expert_batch",
        ):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "1 or more")
        check(
            self.trained_epochs >= self.matched_epochs,
            "expert_epochs",
            self.expert_epochs,
            f"{self.matched_epochs} or more, for --first_epochs {self.first_epochs} and --span {self.span}",
        )
        wrong = set(self.families) - set(FAMILIES)
        check(not wrong, "families", ", ".join(sorted(wrong)), f"of {', '.join(FAMILIES)}, or nothing")

    @property
    def matched_epochs(self) -> int:
        """The last epoch of an expert that a student may have to reach."""
        return self.first_epochs - 1 + self.span

    @property
    def trained_epochs(self) -> int:
        """Epochs of an expert."""
        return self.expert_epochs or self.matched_epochs


class MTT(Method):
    """All images are one shard, because students are trained on all of them. Pixels are never clamped."""

    name, VERSION = "mtt", 2  # 2: the unroll where it fits, which rounds otherwise than the adjoint
    Settings = MTTSettings

    def plan(self, num_classes: int, ipc: int) -> Plan:
        starts = super().plan(num_classes, ipc)
        rows = tuple(range(len(starts.labels)))
        shard = Shard(f"{self.name}-00000", "optimise", rows, starts.labels)
        return Plan(starts.labels, (*starts.groups, (shard,)), joint=True)

    def ready(self, shard: Shard, context: Context, earlier: Synthetic | None) -> ExpertBuffer | None:
        """Experts, which begin as the networks of the context do; those of a folder begin untrained."""
        return None if shard.kind == "start" else self.trained(context, self.settings.experts)

    def trained(self, context: Context, count: int) -> ExpertBuffer:
        """`count` experts; more of them extend those that there are."""
        s = self.settings
        recipe = ExpertRecipe(
            s.trained_epochs, s.expert_lr, batch=s.expert_batch, families=self._families(context), dtype=s.expert_dtype
        )
        return experts_of(context, recipe, count, s.expert_folder)

    def stand_in(self, shard: Shard, context: Context) -> MadeUpExperts:
        return MadeUpExperts.of(context.fresh(context.key), self.settings.trained_epochs)

    @property
    def real_images_each(self) -> int:
        return 1

    def start(self, shard: Shard, context: Context, ready: Any = None) -> Start:
        return Start(*random_real(context.train, shard.labels, context.image_size, context.key / shard.id))

    def check_network(self, network: ImageModel, image_size: int) -> None:
        need_twice_differentiable(network, image_size)

    def recipe(self, shard: Shard, spec: SetSpec) -> Recipe:
        s = self.settings
        return Recipe(
            s.iterations,
            s.lr,
            optimizer="sgd",
            momentum=s.momentum,
            schedule="constant",
            space="whitened" if s.zca else "normalised",
            clamp_every=0,
            rates={"lr": s.lr_lr},
        )

    def images_before(self, real: int) -> float:
        return 0.0 if self.settings.expert_folder else self.settings.experts * self.settings.trained_epochs * real

    def objective(self, context: Context, ready: ExpertBuffer | None = None) -> TrajectoryMatching:
        s, families, network = self.settings, self._families(context), self.architecture(context)
        batch, gradient = self._batch(context.num_classes, context.ipc), s.gradient
        if gradient == "auto":
            gradient = exact_gradient(network, context.image_size, batch, s.student_steps)
        segments = TrajectorySegments(s.first_epochs, s.span, s.student_steps, batch, s.pairs, gradient)
        policy = SiamesePolicy(families, family_per="call") if families else None
        return self.matching(network, ready, segments, policy)

    def architecture(self, context: Context) -> FlatNetwork:
        """That of experts and students; its own weights are not read."""
        return FlatNetwork(context.fresh.numbered(0, context.key / "experts").eval())

    def matching(
        self, network: FlatNetwork, experts: ExpertBuffer, segments: TrajectorySegments, policy: SiamesePolicy | None
    ) -> TrajectoryMatching:
        """The objective, of these parts."""
        s = self.settings
        return TrajectoryMatching(network, experts, segments, s.student_lr, policy, s.assign_labels)

    @property
    def labels_by(self) -> str | None:
        return "the last expert" if self.settings.assign_labels else None

    @property
    def network_count(self) -> int:
        return self.settings.experts

    def protocol(self, dataset: str) -> str:
        return f"{self.name}-zca" if self.settings.zca else self.name

    def staged_protocol(self, dataset: str) -> str:
        return f"pdd-{self.protocol(dataset)}"

    def _batch(self, num_classes: int, ipc: int) -> int:
        """Images in one step of a student; later stages of PDD keep that of the first."""
        return min(self.settings.student_batch or num_classes * ipc, num_classes * ipc)

    def _families(self, context: Context) -> tuple[str, ...]:
        return tuple(f for f in self.settings.families if f != "flip" or context.flip)
