"""Golden inputs and outputs for an app's unit tests: simulated frames, without patient data or licences."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules import PhantomDataModule, Record
from datamodules.evaluation.dataset import printed_spacing
from datamodules.pairs.image_reading import image_size, read_image
from datamodules.phantom.corpus import PhantomSettings
from export.graphs.heads import ClassHead, ShippedAges
from export.parity.frames import EvaluationFrames
from export.variants import Variant
from metrics.biometry import predicted_age_days
from models import Preprocessing
from models.files import write_json
from models.student.onnx_files import AGES, Run
from models.zero_shot import class_logits

FRAMES = 6
# Smallest cosine with the golden embedding that an app's own path must reach: from `input_N.png`, which is already
# padded and resized, and from `frame_N.png`, which goes through the app's own resize.
LIMITS = {"cosine_min_from_input": 0.999, "cosine_min_from_frame": 0.99}
# An int8 file is compared with its own answers. A processor without VNNI saturates sums of two products, and kernels
# round in another order.
SMALLER_LIMITS = {"cosine_min_from_input": 0.99, "cosine_min_from_frame": 0.98}


def write_golden(
    folder: Path,
    preprocessing: Preprocessing,
    embed: Run,
    variants: Sequence[Variant],
    heads: Mapping[str, ClassHead],
    ages: ShippedAges | None,
) -> None:
    """Write ``frame_N.png``, ``input_N.png`` and ``golden.json`` with the answers of the trained model, `embed`.

    Of the `variants` those with smaller weights get answers and limits of their own, under ``variants``.
    """
    folder.mkdir()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        records = _simulated(Path(root))
        pixels = next(iter(EvaluationFrames(preprocessing, records, {}, 0, len(records)).batches()))
        for number, (record, image, embedding) in enumerate(zip(records, pixels, embed(pixels), strict=True)):
            names = {"frame": f"frame_{number}.png", "input": f"input_{number}.png"}
            Image.fromarray(read_image(record.image)).save(folder / names["frame"], optimize=True)
            square = image.astype(np.uint8).transpose(1, 2, 0)
            Image.fromarray(square).save(folder / names["input"], optimize=True)
            answers = _classes(embedding, heads) | _age(record, preprocessing, embedding, ages)
            rows.append({**names, "embedding": embedding.tolist(), **answers})
    own = {
        one.name: {
            **SMALLER_LIMITS,
            "rows": [{"embedding": row.tolist(), **_classes(row, heads)} for row in one.run(pixels)],
        }
        for one in variants
        if one.gate == "compressed"
    }
    write_json(folder / "golden.json", {**LIMITS, "rows": rows, "variants": own})


def _simulated(root: Path) -> list[Record]:
    """Simulate a few frames, one a plane where possible."""
    settings = PhantomSettings(
        seed=7, num_planes_images=24, num_hc18_images=6, num_pair_images=0, further_tests=0.0
    )
    records = PhantomDataModule(root=str(root), corpus=settings, workers=1, num_workers=0).read_records()
    heads = [record for record in records if record.corpus == "hc18"][:1]
    planes = {
        record.plane: record for record in records if record.corpus != "hc18" and record.plane != "other"
    }
    return [*planes.values(), *heads][:FRAMES]


def _classes(embedding: NDArray[np.float32], heads: Mapping[str, ClassHead]) -> dict[str, Any]:
    image = torch.from_numpy(embedding)[None]
    return {
        name: dict(
            zip(head.labels, class_logits(image, head.vectors).softmax(dim=1)[0].tolist(), strict=True)
        )
        for name, head in heads.items()
    }


def _age(
    record: Record, preprocessing: Preprocessing, embedding: NDArray[np.float32], ages: ShippedAges | None
) -> dict[str, Any]:
    """Return the age of a head at its own pixel size, or at one that the table has."""
    if ages is None or record.pixel_size_mm is None:
        return {}
    printed, pixel_size = printed_spacing(record, preprocessing), record.pixel_size_mm
    if printed not in ages.spacings:
        printed = ages.spacings[len(ages.spacings) // 2]
        pixel_size = float(printed) * preprocessing.image_size / max(image_size(record.image))
    days = predicted_age_days(ages.table().similarity(torch.from_numpy(embedding)[None], [printed]))
    answer = {"pixel_size_mm": pixel_size, "spacing_mm_per_px": printed, "age_days": int(days[0])}
    return {AGES: answer}
