"""Golden inputs and outputs for an app's unit tests: simulated frames, without patient data or licences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules import PhantomDataModule, Record
from datamodules.pairs.image_reading import read_image
from datamodules.phantom import PhantomSettings
from export.graphs.heads import AgeHead, ClassHead
from export.parity.frames import EvaluationFrames, printed_spacing
from metrics.biometry import predicted_age_days
from models import Preprocessing
from models.files import write_json
from models.zero_shot import class_logits

FOLDER = "golden"
FRAMES = 6
# Smallest cosine with the golden embedding that an app's own path must reach: from `input_N.png`, which is already
# padded and resized, and from `frame_N.png`, which goes through the app's own resize.
COSINE_FROM_INPUT = 0.999
COSINE_FROM_FRAME = 0.99

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def golden_records(root: Path) -> list[Record]:
    """Draw a few simulated frames, one a plane where possible, into `root`."""
    settings = PhantomSettings(seed=7, num_planes_images=24, num_hc18_images=6, num_pair_images=0)
    data = PhantomDataModule(root=str(root), corpus=settings, workers=1, num_workers=0)
    heads = [record for record in data.read_records() if record.corpus == "hc18"][:1]
    planes = {
        record.plane: record for record in data.records if record.corpus != "hc18" and record.plane != "other"
    }
    return [*planes.values(), *heads][:FRAMES]


def write_golden(
    folder: Path,
    preprocessing: Preprocessing,
    embed: Embed,
    heads: Mapping[str, ClassHead],
    ages: AgeHead | None,
) -> Path:
    """Write ``golden/frame_N.png``, ``golden/input_N.png`` and ``golden/golden.json``.

    Args:
        folder: The export folder.
        preprocessing: The model's contract.
        embed: The trained model as a function from pixel values [N, 3, S, S] to embeddings [N, D].
        heads: Class heads.
        ages: The age head, or None.

    Returns:
        The JSON's path.
    """
    target = folder / FOLDER
    target.mkdir()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        records = golden_records(Path(root))
        frames = EvaluationFrames(preprocessing, records, {}, 0, len(records))
        pixels = next(iter(frames.batches()))
        embeddings = embed(pixels)
        for number, (record, image, embedding) in enumerate(zip(records, pixels, embeddings, strict=True)):
            frame, square = f"frame_{number}.png", f"input_{number}.png"
            Image.fromarray(read_image(record.image)).save(target / frame, optimize=True)
            Image.fromarray(image.astype(np.uint8).transpose(1, 2, 0)).save(target / square, optimize=True)
            facts = {"frame": frame, "input": square, "embedding": [float(value) for value in embedding]}
            rows.append(facts | _answers(record, preprocessing, embedding, heads, ages))
    path = target / "golden.json"
    limits = {"cosine_min_from_input": COSINE_FROM_INPUT, "cosine_min_from_frame": COSINE_FROM_FRAME}
    write_json(path, {**limits, "rows": rows})
    return path


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
        spacing = nearest_spacing(printed_spacing(record, preprocessing), ages.table.spacings)
        similarity = ages.table.similarity(image, [spacing])
        answers["ages"] = {"spacing_mm_per_px": spacing, "age_days": int(predicted_age_days(similarity)[0])}
    return answers


def nearest_spacing(spacing: str, known: tuple[str, ...]) -> str:
    """Return the printed spacing of the table that is nearest to one; the smaller of two equally near."""
    return min(known, key=lambda candidate: (abs(float(candidate) - float(spacing)), float(candidate)))
