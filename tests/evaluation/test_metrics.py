import evaluate
import numpy as np
import pytest
import torch

from hf_condense.evaluation import scores
from hf_condense.evaluation.metrics import (
    AugmentationRobustScore,
    HardLabelRecovery,
    ImprovementOverRandom,
    LabelRobustScore,
    TopKAccuracy,
)


def test_top_k_accuracy_takes_tensors_in_batches():
    torch.manual_seed(0)
    logits, labels = torch.randn(40, 6), torch.arange(40) % 6
    for k in (1, 3):
        metric = TopKAccuracy(k)
        for part in range(0, 40, 16):
            metric.add_batch(predictions=logits[part : part + 16], references=labels[part : part + 16])
        expected = (logits.topk(k).indices == labels[:, None]).any(1).double().mean().item()
        assert metric.compute() == {f"top{k}_accuracy": pytest.approx(expected)}
    assert TopKAccuracy().compute(predictions=[[0.0, 0.0]], references=[1]) == {"top1_accuracy": 0.0}


def test_run_scores_are_means_over_runs():
    real, hard, soft, random = ([a, a + 0.02] for a in (0.9, 0.6, 0.7, 0.5))
    assert HardLabelRecovery().compute(predictions=hard, references=real)["hard_label_recovery"] == pytest.approx(0.3)
    assert ImprovementOverRandom().compute(predictions=soft, references=random) == {
        "improvement_over_random": pytest.approx(0.2)
    }
    found = LabelRobustScore(0.25).compute(real=real, syn_hard=hard, syn_any=soft, random_any=random)
    assert found["label_robust_score"] == pytest.approx(np.mean(scores.lrs(real, hard, soft, random, 0.25)))
    found = AugmentationRobustScore().compute(syn_aug=soft, random_aug=random, syn_noaug=hard, random_noaug=random)
    assert found["augmentation_robust_score"] == pytest.approx(np.mean(scores.ars(soft, random, hard, random)))


def test_metrics_combine():
    both = evaluate.combine([TopKAccuracy(1), TopKAccuracy(2)])
    found = both.compute(predictions=[[0.1, 0.9, 0.0], [0.5, 0.3, 0.2]], references=[1, 1])
    assert found == {"top1_accuracy": 0.5, "top2_accuracy": 1.0}
