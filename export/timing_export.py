"""A small export for timing alone: the ONNX encoder and heads of the right shapes, nothing proven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from datamodules.protocol import Protocol
from export.contract import contract_of, metadata_of, ties_of
from export.heads import AgeHead, ClassHead
from export.int8_variants import INT8_VARIANTS, runs_here, write_int8_variants
from export.manifest import Export, read_export, write_manifest
from export.pixel_graph import PixelEncoder
from export.variants import Workbench, write_heads, write_onnx_variants
from metrics import AGES_DAYS
from models import DualEncoder, fused_copy
from models.zero_shot import AgeTable

NOISE_FRAMES = 4


def write_timing_export(student: DualEncoder, folder: Path, protocol: Protocol, *, int8: bool) -> Export:
    """Write what a latency run needs.

    Vectors of the heads are random and int8 files are calibrated on noise; neither changes the time of a
    call.

    Args:
        student: The model.
        folder: Folder to fill.
        protocol: Gives the heads' shapes.
        int8: Write the int8 files too.
    """
    generator = torch.Generator().manual_seed(0)
    dim, preprocessing = student.embed_dim, student.preprocessing
    heads = {
        name: ClassHead(name, prompts, normalize(torch.randn(len(prompts), dim, generator=generator), dim=-1))
        for name, prompts in (("planes", protocol.planes), ("subplanes", protocol.subplanes))
    }
    ages = AgeTable(("0.30",), normalize(torch.randn(1, len(AGES_DAYS), dim, generator=generator), dim=-1))
    bench = Workbench(folder, PixelEncoder(fused_copy(student)).eval(), {}, metadata_of(student))
    write_onnx_variants(bench, dynamic_batch=False)
    if int8:
        shape = (NOISE_FRAMES, 3, preprocessing.image_size, preprocessing.image_size)
        noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
        write_int8_variants(bench, [name for name in INT8_VARIANTS if runs_here(name)], noise)
    write_heads(bench, heads, AgeHead(protocol.biometry, ages))
    source = {"weights": "for timing only", "recipe": student.recipe()}
    content = {
        "contract": contract_of(preprocessing),
        **ties_of(bench.metadata),
        "embed_dim": dim,
        "source": source,
    }
    write_manifest(folder, {**content, "artifacts": bench.artifacts})
    return read_export(folder)
