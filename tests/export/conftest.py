"""A tiny student, a tiny phantom corpus, and one export of both that many tests look at."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from datamodules import PhantomDataModule
from datamodules.evaluation.protocol import Protocol
from datamodules.phantom.corpus import PhantomSettings
from export import Export, Options, Subject, export_student, read_export
from models import TimmEncoder

SKIP = ("coreml-fp32", "coreml-subplanes", "coreml-palette8", "coreml-palette6", "openvino-int8")


@pytest.fixture(scope="session")
def source() -> dict[str, str | None]:
    return {"weights": "random", "checkpoint": None, "checkpoint_sha256": None, "data": "phantom"}


@pytest.fixture(scope="session")
def student() -> TimmEncoder:
    """A FastViT of two stages, which halve the time of every conversion."""
    return fastvit([24, 96])


def fastvit(widths: list[int]) -> TimmEncoder:
    """Return a small FastViT; noise has passed its batch norms, so that its embeddings differ between images."""
    torch.manual_seed(0)
    model = TimmEncoder(
        "fastvit_t8",
        {"embed_dims": widths, "layers": [1] * len(widths)},
        embed_dim=32,
        image_size=64,
        context_length=32,
        text_width=32,
        text_layers=1,
        text_heads=2,
    )
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model.encode_image(torch.randn(16, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes of pytest-xdist, for what takes long to make."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def corpus(shared: Path) -> PhantomDataModule:
    settings = PhantomSettings(seed=3, num_planes_images=48, num_hc18_images=12, num_pair_images=0)
    return PhantomDataModule(str(shared / "phantom"), settings, workers=1, num_workers=0, hc18_test_share=0.4)


@pytest.fixture(scope="session")
def subject(student: TimmEncoder, corpus: PhantomDataModule, source: dict[str, str | None]) -> Subject:
    return Subject(student, corpus, Protocol.load(), source)


@pytest.fixture(scope="session")
def exported(subject: Subject, shared: Path) -> Export:
    """A finished export; tests that change it take `copied`."""
    target = shared / "run" / "export"
    options = Options(
        text_encoder=True,
        with_resize=True,
        skip=SKIP,
        frames=12,
        calibration_frames=4,
        keep_slow_int8=True,
        spacings=[0.30],
        only_spacings=True,
    )
    calibration = {
        "prompts": Protocol.load().content(), "none_below": {}, "age_drop": None, "coverage": 0.9, "counts": {},
    }  # fmt: skip
    whole = replace(subject, calibration=calibration)
    with FileLock(shared / "export.lock"):
        return read_export(target) if target.is_dir() else export_student(whole, target, options)


@pytest.fixture(scope="session")
def golden(exported: Export) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    """Rows of golden.json, and their inputs as pixel values [N, 3, S, S]."""
    folder = exported.artifact("golden")
    rows = json.loads((folder / "golden.json").read_text())["rows"]
    inputs = [np.asarray(Image.open(folder / row["input"]).convert("RGB"), dtype=np.float32) for row in rows]
    return rows, np.ascontiguousarray(np.stack(inputs).transpose(0, 3, 1, 2))


@pytest.fixture
def converted(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other exports of the student copy the encoder and the golden files of `exported`, which cost seconds."""
    encoder, golden = exported.artifact("onnx-fp32"), exported.artifact("golden")
    monkeypatch.setattr("export.variants.write_onnx", lambda *given, **_: shutil.copyfile(encoder, given[2]))
    monkeypatch.setattr("export.build.write_golden", lambda folder, *_: shutil.copytree(golden, folder))


@pytest.fixture
def copied(exported: Export, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.folder, tmp_path / "export"))
