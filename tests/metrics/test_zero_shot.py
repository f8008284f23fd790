import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
)
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from metrics import classification_scores
from metrics.zero_shot import target_rank

CLASSES = ["abdomen", "brain", "femur", "heart", "kidney", "cervix"]
PRESENT = [0, 1, 2, 3, 5]  # no kidney in the ground truth


@pytest.fixture
def case():
    rng = np.random.default_rng(11)
    target = rng.choice(PRESENT, size=200)
    logits = rng.normal(size=(200, 6)).astype(np.float32)
    logits[np.arange(200), target] += 1.0
    assert (logits.argmax(1) == 4).any(), "the absent class must be predicted somewhere"
    return logits, target


def test_scores_equal_sklearn_over_present_classes(case):
    logits, target = case
    scores = classification_scores(logits, target, CLASSES)
    prediction = logits.argmax(1)
    precision, recall, f1, support = precision_recall_fscore_support(target, prediction, labels=PRESENT)
    assert scores["f1"] == pytest.approx(f1.mean(), abs=1e-12)
    assert scores["accuracy"] == pytest.approx(accuracy_score(target, prediction), abs=1e-12)
    assert scores["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(target, prediction), abs=1e-12
    )
    assert scores["confusion_matrix"] == confusion_matrix(target, prediction, labels=range(6)).tolist()
    assert list(scores["per_class"]) == [CLASSES[c] for c in PRESENT]
    for column, expected in (("f1", f1), ("precision", precision), ("recall", recall), ("support", support)):
        assert [row[column] for row in scores["per_class"].values()] == pytest.approx(list(expected))


def test_equals_the_published_evaluation(case):
    # It takes torchmetrics' per-class values and averages those of the classes that occur.
    logits, target = (torch.from_numpy(values) for values in case)
    scores = classification_scores(*case, CLASSES)
    for name, k in (("accuracy", 1), ("top2_accuracy", 2), ("top3_accuracy", 3)):
        per_class = multiclass_accuracy(logits.softmax(1), target, 6, average="none", top_k=k)
        assert scores[f"balanced_{name}"] == pytest.approx(
            per_class[PRESENT].double().mean().item(), abs=1e-6
        )
    f1 = multiclass_f1_score(logits.softmax(1), target, 6, average="none")
    assert scores["f1"] == pytest.approx(f1[PRESENT].double().mean().item(), abs=1e-6)


def test_predicting_an_absent_class_lowers_only_the_true_one():
    logits = np.eye(3, dtype=np.float32)[[0, 2, 1, 1]]
    scores = classification_scores(logits, np.array([0, 0, 1, 1]), ["a", "b", "c"])
    assert scores["f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert "c" not in scores["per_class"]


def test_rank_of_equal_logits_follows_argmax():
    logits = np.zeros((3, 3), dtype=np.float32)
    assert target_rank(logits, np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_top_k_that_always_succeeds_is_left_out():
    logits = np.eye(3, dtype=np.float32)
    scores = classification_scores(logits, np.arange(3), ["a", "b", "c"])
    assert "balanced_top2_accuracy" in scores
    assert "balanced_top3_accuracy" not in scores


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="row 1 are not finite"):
        classification_scores(np.array([[0.0, 1.0], [math.inf, 0.0]]), np.array([0, 1]), ["a", "b"])
