"""The age table that ships is as small as the ages of almost all heads allow."""

import numpy as np
import pytest
import torch

from export.graphs.heads import ship
from models.zero_shot import AgeTable

DAYS = np.arange(98, 273)
# Days that each head's age moves where its smallest direction is missing: of all heads, and of two in a hundred.
ALL_OFF, FEW_OFF = np.arange(3, 15), np.append(np.zeros(98, int), [3, 14])


def ages(similarity):
    """Return the median of the 15 most similar ages of each row."""
    return np.median(DAYS[np.argsort(-similarity, axis=1, kind="stable")[:, :15]], axis=1)


@pytest.mark.parametrize("moved", [ALL_OFF, FEW_OFF], ids=["all", "few"])
def test_ages_that_the_smallest_table_moves_by_days_ship_with_a_larger_one(moved):
    """Similarity -(age - peak)^2: sixteen directions that are even about the middle age, and one small odd one."""
    day = DAYS - 185.0
    even = [10 * np.cos(2 * np.pi * k * day / 175) for k in range(20, 35)]
    vectors = np.stack([-(day**2) / 100, *even, day / 100], axis=1)
    vectors = np.pad(vectors, ((0, 0), (0, 32 - vectors.shape[1])))
    images = np.zeros((len(moved), 32))
    images[:, 0], images[:, 16] = 1.0, 2.0 * moved
    assert ages(images @ vectors.T).tolist() == (185 + moved).tolist()
    assert ages(images[:, :16] @ vectors.T[:16]).tolist() == [185] * len(moved)

    table = AgeTable(("0.10",), torch.tensor(vectors, dtype=torch.float32)[None])
    found = ship(table, [], torch.tensor(images, dtype=torch.float32), ["0.10"] * len(moved))
    assert found.coordinates.shape == (1, 175, 32)
    shipped = ages(images @ (found.coordinates[0].double() @ found.basis.double()).numpy().T)
    off = np.abs(shipped - 185 - moved)
    assert found.check == {
        "heads": len(moved), "days_off_max": off.max(), "share_within_2_days": (off <= 2).mean(),
    }  # fmt: skip
    assert off.max() <= 2
