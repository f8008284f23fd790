"""Golden inputs and outputs for an app's unit tests: simulated frames, without patient data or licences."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules import PhantomDataModule, Record
from datamodules.evaluation.dataset import printed_spacing
from datamodules.pairs.image_reading import read_image
from datamodules.phantom import PhantomSettings
from export.graphs.heads import AgeHead, ClassHead
from export.parity.frames import EvaluationFrames
from metrics.biometry import predicted_age_days
from models import Preprocessing
from models.files import write_json
from models.student.onnx_files import AGES, Run
from models.zero_shot import class_logits

FRAMES = 6
# Smallest cosine with the golden embedding that an app's own path must reach: from `input_N.png`, which is already
# padded and resized, and from `frame_N.png`, which goes through the app's own resize.
LIMITS = {"cosine_min_from_input": 0.999, "cosine_min_from_frame": 0.99}


def write_golden(
    folder: Path,
    preprocessing: Preprocessing,
    embed: Run,
    heads: Mapping[str, ClassHead],
    ages: AgeHead | None,
) -> None:
    """Write ``frame_N.png``, ``input_N.png`` and ``golden.json`` with the answers of the trained model, `embed`."""
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
            answers = _answers(record, preprocessing, embedding, heads, ages)
            rows.append({**names, "embedding": embedding.tolist(), **answers})
    write_json(folder / "golden.json", {**LIMITS, "rows": rows})


def _simulated(root: Path) -> list[Record]:
    """Simulate a few frames, one a plane where possible."""
    settings = PhantomSettings(seed=7, num_planes_images=24, num_hc18_images=6, num_pair_images=0)
    records = PhantomDataModule(root=str(root), corpus=settings, workers=1, num_workers=0).read_records()
    heads = [record for record in records if record.corpus == "hc18"][:1]
    planes = {
        record.plane: record for record in records if record.corpus != "hc18" and record.plane != "other"
    }
    return [*planes.values(), *heads][:FRAMES]


def _answers(
    record: Record,
    preprocessing: Preprocessing,
    embedding: NDArray[np.float32],
    heads: Mapping[str, ClassHead],
    ages: AgeHead | None,
) -> dict[str, Any]:
    image = torch.from_numpy(embedding)[None]
    answers: dict[str, Any] = {}
    for name, head in heads.items():
        probabilities = class_logits(image, head.vectors).softmax(dim=1)[0].tolist()
        answers[name] = dict(zip(head.labels, probabilities, strict=True))
    if ages is not None and record.pixel_size_mm is not None:
        own, known = float(printed_spacing(record, preprocessing)), sorted(ages.table.spacings, key=float)
        nearest = min(known, key=lambda spacing: abs(float(spacing) - own))
        age_days = int(predicted_age_days(ages.table.similarity(image, [nearest]))[0])
        answers[AGES] = {"spacing_mm_per_px": nearest, "age_days": age_days}
    return answers
