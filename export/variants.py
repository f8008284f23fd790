"""Export variants: writers and runners."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from export.graphs.contract import (
    EMBEDDING_NAME,
    FRAME_INPUT,
    METADATA_ARTIFACT,
    METADATA_CONTRACT,
    METADATA_DIGEST,
    METADATA_LABELS,
    PROBABILITIES_NAME,
)
from export.graphs.coreml_inspection import inspect_package
from export.graphs.coreml_package import COMPRESSIONS, Compression, Package, compress_package, write_package
from export.graphs.heads import ClassHead
from export.graphs.litert_file import quantise_litert, write_litert
from export.graphs.onnx_graph import append_classifier, prepend_resize, weight_count, write_onnx
from export.graphs.pixel_graph import PixelClassifier, PixelEncoder
from export.package.manifest import artifact_entry
from export.parity.ledger import NOT_RUN, Row
from export.runners import litert_runner
from metrics.benchmarks import BENCHMARKS
from models.student.onnx_files import Floats, Run, onnx_runner
from models.zero_shot import COSINE_SCALE

ENCODER_FILE, RESIZE_FILE = "image_encoder.onnx", "image_encoder_resize.onnx"
SOURCE = "coreml-fp16"  # of the packages with smaller weights
NO_SOURCE = "it is made from {}, which --skip leaves out"


@dataclass(frozen=True)
class CoremlVariant:
    """A Core ML package: file name without suffix, gate, and how it differs from a float16 encoder of RGB frames.

    `head` is the benchmark of a classifier.
    """

    stem: str
    gate: str
    half: bool = True
    gray: bool = False
    head: str | None = None
    compression: Compression | None = None


def coreml_packages() -> dict[str, CoremlVariant]:
    """Return every Core ML package by name, with a classifier for each benchmark that is registered by now."""
    table = {
        SOURCE: CoremlVariant("image_encoder", "float16"),
        "coreml-fp32": CoremlVariant("image_encoder_fp32", "float32", half=False),
        "coreml-gray": CoremlVariant("image_encoder_gray", "float16", gray=True),
    }
    for kind, compression in COMPRESSIONS.items():
        stem = f"image_encoder_{kind}"
        table[f"coreml-{kind}"] = CoremlVariant(stem, "compressed-package", compression=compression)
    for name, benchmark in BENCHMARKS.items():
        if benchmark.kind == "classification":
            table[f"coreml-{name}"] = CoremlVariant(f"{name}_classifier", "float16-classifier", head=name)
    return table


# name -> file and gate
LITERT = {
    "litert-fp32": ("image_encoder.tflite", "float32"),
    "litert-int8": ("image_encoder_int8.tflite", "compressed"),
}
LITERT_OUTPUT = "output_0"  # the converter names it


@dataclass(frozen=True)
class Variant:
    """An export variant that runs on this machine; see `export.parity.ledger.Row` for the first three.

    Attributes:
        run: From pixel values [N, 3, S, S] to embeddings [N, D], or probabilities [N, C] for a classifier.
        head: Benchmark of a classifier, None for an encoder.
        whole: `run` takes one frame as it is, uint8 RGB [H, W, 3], and returns [1, D].
    """

    name: str
    how: str
    gate: str
    run: Run
    head: str | None = None
    whole: bool = False


@dataclass
class ExportContext:
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

    def tied(self, name: str, own: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Return the metadata of an ONNX file: those of every artifact, and its name.

        `own` are the keys of the contract that differ for this file; the digest stays the manifest's.
        """
        metadata = {**self.metadata, METADATA_ARTIFACT: name}
        if own is not None:
            contract = json.loads(metadata[METADATA_CONTRACT])
            metadata[METADATA_CONTRACT] = json.dumps({**contract, **own}, sort_keys=True)
        return metadata

    def leave_out(self, name: str, note: str) -> None:
        """Add the row of a variant that cannot be made here, with the reason."""
        self.not_run.append(Row(name, "-", status=NOT_RUN, note=note))

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


def write_onnx_variants(context: ExportContext, dynamic_batch: bool) -> None:
    """Write the float32 encoder and, from it, an end-to-end classifier for each head."""
    encoder, how = context.folder / ENCODER_FILE, "ONNX Runtime, CPU"
    example = torch.rand(1, 3, context.side, context.side) * 255
    write_onnx(context.encoder, example, encoder, context.tied("onnx-fp32"), dynamic_batch=dynamic_batch)
    batch = "any" if dynamic_batch else 1
    context.add("onnx-fp32", encoder, "onnx", batch=batch, output=EMBEDDING_NAME)
    context.variants.append(Variant("onnx-fp32", how, "float32", onnx_runner(encoder)))
    for name, head in context.heads.items():
        path = context.folder / f"{name}_classifier.onnx"
        weights = (COSINE_SCALE * head.vectors).numpy()
        labels = {METADATA_LABELS: json.dumps(head.labels, ensure_ascii=False)}
        append_classifier(encoder, path, weights, {**context.tied(f"onnx-{name}"), **labels})
        context.add(f"onnx-{name}", path, "onnx", batch=batch, output=PROBABILITIES_NAME)
        context.variants.append(Variant(f"onnx-{name}", how, "float32-classifier", onnx_runner(path), name))


def write_resize_variant(context: ExportContext) -> None:
    """Write the float32 encoder with padding and resize inside, batch one."""
    path, preprocessing = context.folder / RESIZE_FILE, context.encoder.model.preprocessing
    name, kernel = "onnx-resize", preprocessing.interpolation
    metadata = context.tied(name, FRAME_INPUT)
    prepend_resize(context.folder / ENCODER_FILE, path, context.side, kernel, metadata)
    context.add(name, path, "onnx", batch=1, output=EMBEDDING_NAME)
    how = "ONNX Runtime, CPU; whole frames, resized in the graph"
    context.variants.append(Variant(name, how, "resized", onnx_runner(path), whole=True))


def write_litert_variants(context: ExportContext, names: Collection[str]) -> None:
    """Write those of `LITERT` that are named: the encoder for LiteRT, and from it the copy with int8 weights."""
    source = context.folder / LITERT["litert-fp32"][0]
    for name in names:
        file, gate = LITERT[name]
        path = context.folder / file
        if path == source:
            write_litert(context.encoder, path, context.side)
        elif source.exists():
            quantise_litert(source, path)
        else:
            context.leave_out(name, NO_SOURCE.format("litert-fp32"))
            continue
        context.add(name, path, "litert", batch=1, output=LITERT_OUTPUT)
        context.variants.append(Variant(name, "LiteRT, CPU", gate, litert_runner(path)))


def write_coreml_variants(context: ExportContext, names: Collection[str]) -> None:
    """Write those of `coreml_packages` that are named, classifiers only of the heads that there are."""
    packages = coreml_packages()
    shape = (context.side, context.encoder.model.embed_dim)
    for name in names:
        variant = packages[name]
        if variant.head not in (None, *context.heads):
            continue
        path, head = context.folder / f"{variant.stem}.mlpackage", context.heads.get(variant.head or "")
        labels = None if head is None else tuple(head.labels)
        package = Package(*shape, gray=variant.gray, half=variant.half, labels=labels)
        bytes_a_weight, in_head = 2.0 if variant.half else 4.0, 0
        if variant.compression is not None:
            source = context.folder / f"{packages[SOURCE].stem}.mlpackage"
            if not source.exists():
                context.leave_out(name, NO_SOURCE.format(SOURCE))
                continue
            compress_package(source, path, variant.compression)
            bytes_a_weight = variant.compression.bits / 8
        elif head is None:
            write_package(context.encoder, path, package, context.metadata)
        else:
            module = PixelClassifier(context.encoder, head.vectors).eval()
            write_package(module, path, package, context.metadata)
            in_head = 4 * head.vectors.numel()  # its product is float32
        size = bytes_a_weight * weight_count(context.folder / ENCODER_FILE) + in_head
        report = inspect_package(path, package, context.metadata[METADATA_DIGEST], size)
        context.add(name, path, "coreml", gate=variant.gate, inspection=report)
