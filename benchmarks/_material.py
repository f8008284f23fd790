"""Images and models for benchmarks: HC18 images if HC18_ROOT is set, else simulated heads of the same size."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml

from datamodules import FetalDataModule
from datamodules.corpora.hc18 import read_hc18
from datamodules.phantom.patients import list_pictures
from datamodules.phantom.renderer import render
from datamodules.record import Record
from experiments.recipe_files import PRESETS, TEACHER_TOWERS
from models import DualEncoder, OpenCLIPEncoder, build
from models.open_clip_config import read_config

STUDENT, TEACHER = "MobileCLIP2-S0", "FetalCLIP"
SMALL = "test_resnet"  # timm's convolutional trunk for tests
FRAME = (800, 540)  # width and height of an HC18 image
Towers = tuple[DualEncoder, DualEncoder]


class ListedData(FetalDataModule):
    """Data module over a list of records."""

    benchmarks = ("hc18",)

    def __init__(self, records: list[Record], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._listed = records

    def read_records(self) -> list[Record]:
        return self._listed


def head_records(folder: Path, count: int) -> tuple[list[Record], str]:
    """Return `count` training records of 800 x 540 PNG files, repeated as needed, and their description.

    Simulated heads are written into `folder`.
    """
    root = os.environ.get("HC18_ROOT")
    if root:
        present = [record for record in read_hc18(root, missing=[]) if record.image.is_file()]
        images, what = [(r.image, r.hc_mm, r.pixel_size_mm) for r in present], "HC18"
    else:
        folder.mkdir(parents=True, exist_ok=True)
        images, what = [], f"simulated heads, {FRAME[0]} x {FRAME[1]}"
        for number, picture in enumerate(list_pictures("hc18", min(count, 64), 0, 1.2, 0.3)):
            path = folder / f"{number:03d}_HC.png"
            drawn = cv2.resize(render(picture, seed=0)[0], FRAME, interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(path), drawn)
            images.append((path, 200.0, 0.15))
    chosen = enumerate(images[i % len(images)] for i in range(count))
    return [
        Record("hc18", f"{i}_HC.png", path, str(i), "brain", None, hc_mm, spacing, 160, split="train")
        for i, (path, hc_mm, spacing) in chosen
    ], what


def published(
    name: str, quick: bool = False, vision_layers: int | None = None, image_size: int | None = None
) -> DualEncoder:
    """Return an architecture with random weights: STUDENT or TEACHER.

    Args:
        name: Its configuration of open_clip.
        quick: Cut it down.
        vision_layers: Layers of the image tower, where that one is not timed.
        image_size: Side of the images, where it is not the model's own.
    """
    configuration = copy.deepcopy(read_config(name))
    text, vision = configuration["model_cfg"]["text_cfg"], configuration["model_cfg"]["vision_cfg"]
    if vision_layers:
        vision["layers"] = vision_layers
    if image_size:
        vision["image_size"] = image_size
    if quick:
        text.update(layers=1, width=64, heads=2)
        small = (
            {"layers": 1, "width": 64, "patch_size": 56} if "layers" in vision else {"timm_model_name": SMALL}
        )
        vision.update(small)
    torch.manual_seed(0)
    return OpenCLIPEncoder(name, configuration=configuration).eval()


def published_towers(quick: bool) -> Towers:
    """Return the paper's student and teacher, with random weights."""
    return published(STUDENT, quick), published(TEACHER, quick)


def phantom_towers() -> Towers:
    """Return student and teacher of the phantom preset, with random weights."""
    student = yaml.safe_load((PRESETS / "phantom.yaml").read_text())["model"]["student"]
    teacher = yaml.safe_load((TEACHER_TOWERS / "phantom.yaml").read_text())["model"]["student"]
    torch.manual_seed(0)
    return build(student), build(teacher)
