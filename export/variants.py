"""Every form in which a student ships: how it is written, and how it runs for the ledger."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.graphs.contract import (
    EMBEDDING_NAME,
    INPUT_NAME,
    METADATA_DIGEST,
    METADATA_LABELS,
    PROBABILITIES_NAME,
    ties_of,
)
from export.graphs.coreml_inspection import inspect_package
from export.graphs.coreml_package import COMPRESSIONS, compress_package, write_package
from export.graphs.heads import AgeHead, ClassHead
from export.graphs.onnx_graph import OnnxRunner, append_classifier, weight_count, write_onnx
from export.graphs.pixel_graph import PixelClassifier, PixelEncoder
from export.package.heads import write_age_head, write_class_head
from export.package.manifest import artifact_entry
from export.parity.ledger import NOT_RUN, Row
from metrics.benchmarks import BENCHMARKS
from models.zero_shot import COSINE_SCALE

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]

ENCODER_FILE = "image_encoder.onnx"
COREML_VARIANTS = (
    "coreml-fp16",
    "coreml-fp32",
    "coreml-gray",
    *(f"coreml-{benchmark.name}" for benchmark in BENCHMARKS.values() if benchmark.kind == "classification"),
    *(f"coreml-{kind}" for kind in COMPRESSIONS),
)


@dataclass(frozen=True)
class Variant:
    """A form of the model that runs on this machine.

    Attributes:
        name: Its name in ledger and manifest.
        how: What the row's figures were computed with.
        gate: Its set of limits in the gates file.
        run: From pixel values [N, 3, S, S] to embeddings [N, D], or probabilities [N, C] for a classifier.
        head: Benchmark of a classifier, None for an encoder.
    """

    name: str
    how: str
    gate: str
    run: Run
    head: str | None = None


@dataclass
class Workbench:
    """Inputs and results of writing the variants.

    Attributes:
        folder: The export folder.
        encoder: The fused image encoder, in eval mode.
        heads: Class heads by benchmark.
        metadata: Metadata of every artifact.
        artifacts: Name -> entry of the manifest.
        variants: The variants, in the order of the ledger.
        not_run: Rows of variants that cannot be made or run here.
        warnings: Messages of the converters.
        facts: Further entries of the manifest.
    """

    folder: Path
    encoder: PixelEncoder
    heads: Mapping[str, ClassHead]
    metadata: Mapping[str, str]
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=list)
    not_run: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def side(self) -> int:
        """Side of the frame, in pixels."""
        return self.encoder.model.preprocessing.image_size

    @property
    def dim(self) -> int:
        """Dimension of the embedding."""
        return self.encoder.model.embed_dim

    def add(self, variant: Variant, path: Path, **facts: Any) -> None:
        """Add a written variant to ledger and manifest."""
        self.artifacts[variant.name] = artifact_entry(path, self.folder, **facts)
        self.variants.append(variant)


def drop_artifact(bench: Workbench, name: str) -> None:
    """Remove a variant from the manifest and delete its file or package, if it has one."""
    entry = bench.artifacts.pop(name, None)
    if entry is not None:
        path = bench.folder / entry["file"]
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def torch_runner(module: torch.nn.Module) -> Run:
    """Wrap a module in eval mode as a function on arrays."""

    @torch.inference_mode()
    def run(pixels: Floats) -> Floats:
        output: Floats = module(torch.from_numpy(pixels)).numpy()
        return output

    return run


def write_onnx_variants(bench: Workbench, dynamic_batch: bool) -> None:
    """Write the float32 encoder and, from it, an end-to-end classifier for each head."""
    encoder = bench.folder / ENCODER_FILE
    way = write_onnx(
        bench.encoder,
        torch.rand(1, 3, bench.side, bench.side) * 255,
        encoder,
        input_name=INPUT_NAME,
        output_name=EMBEDDING_NAME,
        metadata=bench.metadata,
        dynamic_batch=dynamic_batch,
        warnings=bench.warnings,
    )
    facts = {"kind": "onnx", "batch": "any" if dynamic_batch else 1, "captured_by": way}
    how = "ONNX Runtime, CPU"
    bench.add(
        Variant("onnx-fp32", how, "float32", OnnxRunner(encoder)), encoder, **facts, output=EMBEDDING_NAME
    )
    for name, head in bench.heads.items():
        path = bench.folder / f"{name}_classifier.onnx"
        weights = (COSINE_SCALE * head.vectors).numpy()
        labels = {METADATA_LABELS: json.dumps(head.labels, ensure_ascii=False)}
        append_classifier(encoder, path, weights, PROBABILITIES_NAME, {**bench.metadata, **labels})
        variant = Variant(f"onnx-{name}", how, "float32-classifier", OnnxRunner(path), name)
        bench.add(variant, path, **facts, output=PROBABILITIES_NAME)


def write_heads(bench: Workbench, heads: Mapping[str, ClassHead], ages: AgeHead | None) -> None:
    """Write the zero-shot heads into ``heads/``, tied to the student."""
    folder, ties = bench.folder / "heads", ties_of(bench.metadata)
    paths = {name: write_class_head(head, folder, ties) for name, head in heads.items()}
    if ages is not None:
        paths["ages"] = write_age_head(ages, folder, ties)
    for name, path in paths.items():
        vectors = next(file for file in folder.glob(f"{path.stem}.f*"))
        entry = artifact_entry(path, bench.folder, kind="head", vectors=f"{folder.name}/{vectors.name}")
        bench.artifacts[f"head_{name}"] = {**entry, "bytes": entry["bytes"] + vectors.stat().st_size}


def write_coreml_variants(bench: Workbench, skip: Sequence[str]) -> None:
    """Write Core ML packages: encoder (RGB, gray, float32), classifiers, and smaller weights.

    Args:
        bench: The workbench.
        skip: Names of variants to leave out.
    """
    _coreml(bench, "coreml-fp16", "image_encoder", skip)
    _coreml(bench, "coreml-fp32", "image_encoder_fp32", skip, half=False)
    _coreml(bench, "coreml-gray", "image_encoder_gray", skip, gray=True)
    for name, head in bench.heads.items():
        _coreml(bench, f"coreml-{name}", f"{name}_classifier", skip, head=head)
    source = bench.folder / "image_encoder.mlpackage"
    for kind, compression in COMPRESSIONS.items():
        name = f"coreml-{kind}"
        if name in skip:
            continue
        if "coreml-fp16" in skip:
            note = "it is made from coreml-fp16, which --skip leaves out"
            bench.not_run.append(Row(name, "-", status=NOT_RUN, note=note))
            continue
        path = bench.folder / f"image_encoder_{kind}.mlpackage"
        compress_package(source, path, compression, bench.warnings)
        captured_by = bench.artifacts["coreml-fp16"]["captured_by"]
        _add_package(bench, name, path, "compressed-package", captured_by, compression.bits / 8)


def _coreml(
    bench: Workbench,
    name: str,
    stem: str,
    skip: Sequence[str],
    *,
    half: bool = True,
    gray: bool = False,
    head: ClassHead | None = None,
) -> None:
    if name in skip:
        return
    path = bench.folder / f"{stem}.mlpackage"
    captured_by = write_package(
        bench.encoder if head is None else PixelClassifier(bench.encoder, head.vectors).eval(),
        path,
        side=bench.side,
        gray=gray,
        half=half,
        labels=None if head is None else head.labels,
        metadata=bench.metadata,
        warnings=bench.warnings,
    )
    gate = ("float16" if half else "float32") + ("" if head is None else "-classifier")
    _add_package(bench, name, path, gate, captured_by, 2 if half else 4, gray=gray, head=head)


def _add_package(
    bench: Workbench,
    name: str,
    path: Path,
    gate: str,
    captured_by: str,
    bytes_a_weight: float,
    *,
    gray: bool = False,
    head: ClassHead | None = None,
) -> None:
    in_head = 0 if head is None else 4 * head.vectors.numel()  # its product is float32
    report = inspect_package(
        path,
        side=bench.side,
        gray=gray,
        dim=bench.dim,
        labels=None if head is None else head.labels,
        digest=bench.metadata[METADATA_DIGEST],
        weight_bytes=bytes_a_weight * weight_count(bench.folder / ENCODER_FILE) + in_head,
    )
    facts = {"kind": "coreml", "gate": gate, "captured_by": captured_by, "inspection": report}
    bench.artifacts[name] = artifact_entry(path, bench.folder, **facts)
