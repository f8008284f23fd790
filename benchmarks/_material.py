"""Images and models that benchmarks work on: real heads where HC18 is on disk, simulated ones elsewhere."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml

from datamodules import FetalDataModule
from datamodules.hc18 import read_hc18
from datamodules.phantom.patients import list_pictures
from datamodules.phantom.renderer import render
from datamodules.record import Record
from experiments.recipes import PRESETS, TEACHER_TOWERS
from models import DualEncoder, OpenCLIPEncoder, build
from models.open_clip_config import read_config

FRAME = (800, 540)  # width and height of an HC18 image


class ListedData(FetalDataModule):
    """Images from a list of records."""

    benchmarks = ("hc18",)

    def __init__(self, records: list[Record], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._listed = records

    def read_records(self) -> list[Record]:
        return self._listed


def head_records(folder: Path, count: int) -> tuple[list[Record], str]:
    """Return `count` records of 800 x 540 PNG files, and what they are.

    With ``HC18_ROOT`` set they are the real images; otherwise simulated heads, drawn at that size into `folder`.
    """
    root = os.environ.get("HC18_ROOT")
    if root:
        records = read_hc18(root, missing=[])
        present = [record for record in records if record.image.is_file()]
        return [present[i % len(present)] for i in range(count)], "HC18"
    folder.mkdir(parents=True, exist_ok=True)
    distinct = min(count, 64)
    records = []
    for number, picture in enumerate(list_pictures("hc18", distinct, 0, 1.2, 0.3)):
        image, _ = render(picture, seed=0)
        path = folder / f"{number:03d}_HC.png"
        cv2.imwrite(str(path), cv2.resize(image, FRAME, interpolation=cv2.INTER_CUBIC))
        records.append(
            Record("hc18", path.name, path, str(number), plane="brain", hc_mm=200.0, pixel_size_mm=0.15)
        )
    return [records[i % distinct] for i in range(count)], "simulated heads, 800 x 540"


def published_student(quick: bool) -> DualEncoder:
    """Return the student's architecture with random weights, cut down for `quick`."""
    return _open_clip("MobileCLIP2-S0", quick)


def published_teacher(quick: bool, image_tower: bool = True) -> DualEncoder:
    """Return the teacher's architecture with random weights; one image layer where that tower is not timed."""
    return _open_clip("FetalCLIP", quick, vision_layers=None if image_tower else 1)


def _open_clip(name: str, quick: bool, vision_layers: int | None = None) -> DualEncoder:
    settled = copy.deepcopy(read_config(name))
    text, vision = settled["model_cfg"]["text_cfg"], settled["model_cfg"]["vision_cfg"]
    if vision_layers:
        vision["layers"] = vision_layers
    if quick:
        text.update(layers=1, width=64, heads=2)
        if "layers" in vision:
            vision.update(layers=1, width=64, patch_size=56)
    torch.manual_seed(0)
    return OpenCLIPEncoder(name, configuration=settled).eval()


def phantom_towers() -> tuple[DualEncoder, DualEncoder]:
    """Return student and teacher of the phantom's preset, with random weights."""
    student = yaml.safe_load((PRESETS / "phantom.yaml").read_text())["model"]["student"]
    teacher = yaml.safe_load((TEACHER_TOWERS / "phantom.yaml").read_text())["model"]["student"]
    torch.manual_seed(0)
    return build(student), build(teacher)
