"""Every form in which a student ships: how it is written, and how it runs for the ledger."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from export.graphs.contract import (
    EMBEDDING_NAME,
    INPUT_NAME,
    METADATA_DIGEST,
    METADATA_LABELS,
    PROBABILITIES_NAME,
)
from export.graphs.coreml_inspection import inspect_package
from export.graphs.coreml_package import COMPRESSIONS, Package, compress_package, write_package
from export.graphs.heads import ClassHead
from export.graphs.onnx_graph import append_classifier, weight_count, write_onnx
from export.graphs.pixel_graph import PixelClassifier, PixelEncoder
from export.package.manifest import artifact_entry
from export.parity.ledger import NOT_RUN, Row
from export.runners import Floats, Run, onnx_runner
from metrics.benchmarks import BENCHMARKS
from models.zero_shot import COSINE_SCALE

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
    """A form of the model that runs on this machine; see `export.parity.ledger.Row` for the first three.

    Attributes:
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
    """

    folder: Path
    encoder: PixelEncoder
    heads: Mapping[str, ClassHead]
    metadata: Mapping[str, str]
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=list)
    not_run: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def side(self) -> int:
        """Side of the frame, in pixels."""
        return self.encoder.model.preprocessing.image_size

    def add(self, name: str, path: Path, kind: str, **facts: Any) -> None:
        """Add a written file or package to the manifest."""
        self.artifacts[name] = artifact_entry(path, self.folder, kind=kind, **facts)

    def drop(self, name: str) -> None:
        """Remove a variant from the manifest and delete its file or package, if it has one."""
        if entry := self.artifacts.pop(name, None):
            path = self.folder / entry["file"]
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
    encoder, how = bench.folder / ENCODER_FILE, "ONNX Runtime, CPU"
    write_onnx(
        bench.encoder,
        torch.rand(1, 3, bench.side, bench.side) * 255,
        encoder,
        input_name=INPUT_NAME,
        output_name=EMBEDDING_NAME,
        metadata=bench.metadata,
        dynamic_batch=dynamic_batch,
    )
    batch = "any" if dynamic_batch else 1
    bench.add("onnx-fp32", encoder, "onnx", batch=batch, output=EMBEDDING_NAME)
    bench.variants.append(Variant("onnx-fp32", how, "float32", onnx_runner(encoder)))
    for name, head in bench.heads.items():
        path = bench.folder / f"{name}_classifier.onnx"
        weights = (COSINE_SCALE * head.vectors).numpy()
        labels = {METADATA_LABELS: json.dumps(head.labels, ensure_ascii=False)}
        append_classifier(encoder, path, weights, PROBABILITIES_NAME, {**bench.metadata, **labels})
        bench.add(f"onnx-{name}", path, "onnx", batch=batch, output=PROBABILITIES_NAME)
        bench.variants.append(Variant(f"onnx-{name}", how, "float32-classifier", onnx_runner(path), name))


def write_coreml_variants(bench: Workbench, skip: Sequence[str]) -> None:
    """Write Core ML packages: encoder (RGB, gray, float32), classifiers, and smaller weights; not those of `skip`."""
    shape, heads = (bench.side, bench.encoder.model.embed_dim), bench.heads
    packages = {
        "coreml-fp16": ("image_encoder", "float16", Package(*shape)),
        "coreml-fp32": ("image_encoder_fp32", "float32", Package(*shape, half=False)),
        "coreml-gray": ("image_encoder_gray", "float16", Package(*shape, gray=True)),
    }
    for name, head in heads.items():
        package = Package(*shape, labels=tuple(head.labels))
        packages[f"coreml-{name}"] = (f"{name}_classifier", "float16-classifier", package)
    for name, (stem, gate, package) in packages.items():
        if name in skip:
            continue
        path, own = bench.folder / f"{stem}.mlpackage", heads.get(name.removeprefix("coreml-"))
        module = bench.encoder if own is None else PixelClassifier(bench.encoder, own.vectors).eval()
        write_package(module, path, package, bench.metadata)
        in_head = 0 if own is None else 4 * own.vectors.numel()  # its product is float32
        _inspect(bench, name, path, gate, package, 2 if package.half else 4, in_head)
    for kind, compression in COMPRESSIONS.items():
        name, path = f"coreml-{kind}", bench.folder / f"image_encoder_{kind}.mlpackage"
        if name in skip:
            continue
        if "coreml-fp16" in skip:
            note = "it is made from coreml-fp16, which --skip leaves out"
            bench.not_run.append(Row(name, "-", status=NOT_RUN, note=note))
            continue
        compress_package(bench.folder / "image_encoder.mlpackage", path, compression)
        _inspect(bench, name, path, "compressed-package", Package(*shape), compression.bits / 8)


def _inspect(
    bench: Workbench,
    name: str,
    path: Path,
    gate: str,
    package: Package,
    bytes_a_weight: float,
    further_bytes: int = 0,
) -> None:
    size = bytes_a_weight * weight_count(bench.folder / ENCODER_FILE) + further_bytes
    report = inspect_package(path, package, bench.metadata[METADATA_DIGEST], size)
    bench.add(name, path, "coreml", gate=gate, inspection=report)
