import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from metrics.calibration import calibration


def naive_ece(confidence, correct, bins):
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        chosen = [i for i, p in enumerate(confidence) if low < p <= high or (number == 0 and p == 0)]
        if chosen:
            accuracy = sum(correct[i] for i in chosen) / len(chosen)
            mean = sum(confidence[i] for i in chosen) / len(chosen)
            total += len(chosen) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equals_the_definition(bins):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.01, 0.99, 300)
    correct = rng.random(300) < confidence**2
    result = calibration(confidence, correct, bins)
    assert result["ece"] == pytest.approx(naive_ece(confidence, correct, bins), abs=1e-12)
    library = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct).int(), n_bins=bins)
    if bins > 1:  # on a binary task the library measures the same gap
        assert result["ece"] == pytest.approx(float(library), abs=1e-6)
    assert sum(point["count"] for point in result["bins"]) == 300


def test_perfect_and_overconfident():
    assert calibration([1.0, 1.0], [True, True])["ece"] == 0.0
    assert calibration([1.0, 1.0, 0.0], [False, True, False])["ece"] == pytest.approx(1 / 3)


def test_curve_rises_and_leaves_out_empty_bins():
    curve = calibration([0.95, 0.05, 0.06], [True, False, False], 10)["bins"]
    assert [point["count"] for point in curve] == [2, 1]
    assert curve[0]["confidence"] == pytest.approx(0.055)


def test_wrong_input():
    with pytest.raises(ValueError, match="got 0 and 0"):
        calibration([], [])
    with pytest.raises(ValueError, match="got 2 and 1"):
        calibration([0.1, 0.2], [True])
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration([1.1], [True])
