"""Inputs of a head with one source of information removed: does a model read the image, the pixel size, or both?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.record import Record
from metrics.names import BLACK_IMAGE, ONE_PIXEL_SIZE, OTHER_IMAGE
from models import DualEncoder
from models.zero_shot import encode_images

SEED = 42


class Inputs(NamedTuple):
    """Embeddings of N images, [N, D], and the pixel spacing that the prompts of each name."""

    images: Tensor
    spacings: list[str]


def ablated_inputs(model: DualEncoder, inputs: Inputs, records: Sequence[Record]) -> dict[str, Inputs]:
    """Return heads with a black image, with another patient's image, and with one pixel size for all.

    One image is embedded; the age prompts of the heads' own spacings serve all three. The one size is the median of the
    heads. Another patient's image is left out where one patient has more than half of the heads.

    Args:
        model: In eval mode.
        inputs: The heads.
        records: Their records, in the same order.
    """
    images, spacings = inputs
    middle = sorted(spacings, key=float)[len(spacings) // 2]
    contract = model.preprocessing
    black = -torch.tensor(contract.mean, device=images.device) / torch.tensor(
        contract.std, device=images.device
    )
    side = contract.image_size
    embedded = encode_images(model, black.reshape(1, 3, 1, 1).expand(1, 3, side, side).contiguous())
    changed = {
        BLACK_IMAGE: Inputs(embedded.expand(len(images), -1), spacings),
        ONE_PIXEL_SIZE: Inputs(images, [middle] * len(spacings)),
    }
    donors = other_patients([record.patient for record in records])
    if donors is not None:
        changed[OTHER_IMAGE] = Inputs(images[torch.from_numpy(donors)], spacings)
    return changed


def other_patients(patients: Sequence[str]) -> np.ndarray | None:
    """Return a permutation [N] of the images that gives each one of another patient; None where there is none."""
    largest = max(Counter(patients).values())
    if 2 * largest > len(patients):
        return None
    names = np.random.default_rng(SEED).permutation(sorted(set(patients))).tolist()
    turn = {name: position for position, name in enumerate(names)}
    order = np.array(sorted(range(len(patients)), key=lambda row: turn[patients[row]]))
    donors = np.empty_like(order)
    donors[order] = np.roll(order, largest)  # a patient's images stand together: those beyond are another's
    return donors
