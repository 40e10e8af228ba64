"""The scores as `evaluate.Metric` objects, which need no network: for `Trainer.compute_metrics`, `evaluate.combine`.

TopKAccuracy(k=5).compute(predictions=logits, references=labels)
"""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from hf_condense.evaluation import scores

_CITATION = """@article{li2025ddranking,
  title = {DD-Ranking: Rethinking the Evaluation of Dataset Distillation},
  author = {Li, Zekai and Zhong, Xinhao and Khaki, Samir and others},
  journal = {arXiv preprint arXiv:2505.13300},
  year = {2025}
}"""


class TopKAccuracy(evaluate.Metric):
    """Share of rows whose label is among the k largest scores.

    `predictions` are scores [n, K], `references` labels [n]; gives {"top<k>_accuracy": fraction}.
    """

    def __init__(self, k: int = 1, **kwargs) -> None:
        self.k = k
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of rows whose label is among the k largest scores.",
            citation="",
            inputs_description="predictions: scores of every class; references: class numbers.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        values, labels = np.asarray(predictions), np.asarray(references)
        # a label's rank is the number of larger scores; of equal scores the lower class number comes first, as in argmax
        own = np.take_along_axis(values, labels[:, None], 1)
        earlier = np.arange(values.shape[1]) < labels[:, None]
        rank = ((values > own) | ((values == own) & earlier)).sum(1)
        return {f"top{self.k}_accuracy": float((rank < self.k).mean())}


class _RunMetric(evaluate.Metric):
    """A score of paired runs: every input is one accuracy (a fraction) a run. Gives the mean over runs."""

    name_of_score: str
    inputs: tuple[str, ...]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation=_CITATION,
            inputs_description=f"{', '.join(self.inputs)}: accuracies as fractions, one a run.",
            features=datasets.Features({name: datasets.Value("float64") for name in self.inputs}),
        )

    def _score(self, **accuracies) -> np.ndarray:
        raise NotImplementedError

    def _compute(self, **accuracies) -> dict[str, float]:
        return {self.name_of_score: float(np.mean(self._score(**accuracies)))}


class HardLabelRecovery(_RunMetric):
    """HLR: full data minus synthetic set under hard labels (smaller is better)."""

    name_of_score, inputs = "hard_label_recovery", ("predictions", "references")

    def _score(self, predictions, references) -> np.ndarray:
        """`predictions`: synthetic set with hard labels; `references`: full data with hard labels."""
        return scores.hlr(references, predictions)


class ImprovementOverRandom(_RunMetric):
    """IOR: synthetic set minus random real images under the same recipe."""

    name_of_score, inputs = "improvement_over_random", ("predictions", "references")

    def _score(self, predictions, references) -> np.ndarray:
        """`predictions`: the synthetic set; `references`: random real images."""
        return scores.ior(predictions, references)


class LabelRobustScore(_RunMetric):
    """LRS: hard-label recovery and improvement over random in one number between 0 and 1."""

    name_of_score, inputs = "label_robust_score", ("real", "syn_hard", "syn_any", "random_any")

    def __init__(self, weight: float = 0.5, **kwargs) -> None:
        self.weight = weight
        super().__init__(**kwargs)

    def _score(self, **accuracies) -> np.ndarray:
        return scores.lrs(**accuracies, weight=self.weight)


class AugmentationRobustScore(_RunMetric):
    """ARS: improvement over random with and without augmentation in one number between 0 and 1."""

    name_of_score, inputs = "augmentation_robust_score", ("syn_aug", "random_aug", "syn_noaug", "random_noaug")

    def __init__(self, weight: float = 0.5, **kwargs) -> None:
        self.weight = weight
        super().__init__(**kwargs)

    def _score(self, **accuracies) -> np.ndarray:
        return scores.ars(**accuracies, weight=self.weight)
