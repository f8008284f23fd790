"""Backends and stages that can be timed: each is a function without arguments, loaded in its own process.

Libraries are imported where they are used: cold start and peak memory of a worker process are part of its result.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.runners import litert_runner, openvino_runner
from models.student.onnx_files import CPU, Floats, Run, onnx_runner

if TYPE_CHECKING:
    from export.package.manifest import Export
    from models import Preprocessing

Spec = dict[str, Any]
Call = Callable[[], Any]
Frame = NDArray[np.uint8]

TORCH = ("torch-eager", "torch-fused")
# Backend -> ONNX Runtime execution provider; available where the installed runtime has it.
PROVIDERS = {
    "onnxruntime": CPU,
    "onnxruntime-xnnpack": "XnnpackExecutionProvider",
    "onnxruntime-coreml": "CoreMLExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
}
BFLOAT16 = "openvino-bf16"
LITERT = "litert"
OPENVINO_PRECISIONS = {"openvino": "f32", BFLOAT16: "bf16"}
COREML_UNITS = {
    "coreml-all": "ALL",
    "coreml-ane": "CPU_AND_NE",
    "coreml-gpu": "CPU_AND_GPU",
    "coreml-cpu": "CPU_ONLY",
}
# Artifact with smaller weights -> the backend that runs it, beside that backend's float file.
INT8 = {"onnx-int8": "onnxruntime", "openvino-int8": "openvino", "litert-int8": LITERT}
# Their processor time is not their work.
ACCELERATED = (*COREML_UNITS, "onnxruntime-coreml", "onnxruntime-cuda")
# Backend -> the float artifact that it runs; of all others: onnx-fp32.
ARTIFACTS = {LITERT: "litert-fp32", **dict.fromkeys(COREML_UNITS, "coreml-fp16")}
LIVE_ENCODERS = ("onnxruntime", "coreml-all", "coreml-ane")  # of the end-to-end stages and live scans

FRAME_WIDTH, FRAME_HEIGHT = 800, 540  # an HC18 frame
CINE_FRAMES = 30
MATMUL_SIDE = 1536


def smaller() -> dict[str, str]:
    """Return artifact with smaller weights -> the backend that runs it, for int8 files and Core ML packages."""
    from export.variants import COREML

    return {**INT8, **{name: "coreml-all" for name, variant in COREML.items() if variant.compression}}


def available() -> dict[str, str]:
    """Return the optional backends: name -> "yes", or why this machine cannot run it."""
    import onnxruntime

    have = set(onnxruntime.get_available_providers())
    answers = {
        name: "yes" if provider in have else f"this ONNX Runtime has no {provider}"
        for name, provider in PROVIDERS.items()
    }
    try:
        import openvino

        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        bfloat16 = "yes" if "BF16" in able else "this processor has no bfloat16 arithmetic"
        answers |= {"openvino": "yes", BFLOAT16: bfloat16}
    except ImportError:
        answers |= dict.fromkeys(OPENVINO_PRECISIONS, "openvino is not installed")
    answers[LITERT] = "yes" if find_spec("ai_edge_litert") else "litert is not installed"
    mac = "yes" if platform.system() == "Darwin" else "Core ML predicts on macOS only"
    return answers | dict.fromkeys(COREML_UNITS, mac)


def backend_specs(
    export: Export, threads: int, torch_absent: str = ""
) -> tuple[dict[str, Spec], dict[str, str]]:
    """Return backend -> spec (see `load`), with batch size 1, and backend -> reason for those that cannot run here.

    `torch_absent` says why PyTorch cannot build the student; "" where it can.
    """
    artifacts = export.manifest["artifacts"]
    common = {"threads": threads, "batch": 1, "side": export.preprocessing.image_size}
    recipe = export.manifest["source"]["recipe"]
    specs: dict[str, Spec] = {name: {"backend": name, "recipe": recipe, **common} for name in TORCH}
    absent: dict[str, str] = {}
    if torch_absent:
        specs, absent = {}, dict.fromkeys(TORCH, torch_absent)
    for name, state in available().items():
        artifact = ARTIFACTS.get(name, "onnx-fp32")
        if state == "yes" and artifact in artifacts:
            specs[name] = {"backend": name, "path": str(export.artifact(artifact).resolve()), **common}
        else:
            absent[name] = state if state != "yes" else f"the export has no {artifact}"
    for name, backend in smaller().items():
        if name in artifacts and backend in specs:
            specs[name] = {**specs[backend], "path": str(export.artifact(name).resolve())}
        else:
            absent[name] = absent.get(backend, "not in this export")
    return specs, absent


def stage_specs(export: Export, backends: Mapping[str, Spec]) -> dict[str, Spec]:
    """Return the stages of a camera frame; end to end with ONNX Runtime and, on a Mac, with Core ML."""
    folder, threads = str(export.folder.resolve()), backends["onnxruntime"]["threads"]
    common = {"threads": threads, "batch": 1, "folder": folder}
    specs: dict[str, Spec] = {name: {"backend": name, **common} for name in ("preprocess", "heads")}
    for name in (name for name in LIVE_ENCODERS if name in backends):
        own = {"backend": "end-to-end", "encoder": name, "path": backends[name]["path"]}
        specs[f"end-to-end, {name}"] = {**common, **own}
    return specs


def load(spec: Spec) -> Call:
    """Load a backend of the encoder, a stage of a camera frame, or a matrix product.

    Args:
        spec: ``backend``, ``threads``, ``batch`` and ``side`` of the images; ``recipe`` for PyTorch, ``path`` of the
            artifact for the other backends; ``folder`` of the export for stages, ``encoder`` for an end-to-end stage;
            ``arithmetic`` for a matrix product.

    Raises:
        ValueError: There is no such backend, or ONNX Runtime fell back from its execution provider.
    """
    if spec["backend"] not in LOADERS:
        raise ValueError(f"latency: no backend {spec['backend']!r}")
    return LOADERS[spec["backend"]](spec)


def _pixels(spec: Spec) -> Floats:
    shape = (spec["batch"], 3, spec["side"], spec["side"])
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


def _torch(spec: Spec) -> Call:
    """PyTorch eager on the CPU: as trained (the published code), or with batch norms and branches fused."""
    import torch

    from models import build, fused_copy

    torch.set_num_threads(spec["threads"])
    model = build(spec["recipe"]).eval()
    model = fused_copy(model) if spec["backend"] == "torch-fused" else model
    image = torch.from_numpy(_pixels(spec) / 255)

    def call() -> Any:
        with torch.inference_mode():
            return model.encode_image(image)

    return call


def _exported(spec: Spec) -> Call:
    run, pixels = _runner(spec, spec["backend"]), _pixels(spec)
    return lambda: run(pixels)


def _runner(spec: Spec, backend: str) -> Run:
    if backend in PROVIDERS:
        return onnx_runner(spec["path"], spec["threads"], PROVIDERS[backend])
    if backend == LITERT:
        return litert_runner(spec["path"], spec["threads"])
    return openvino_runner(
        spec["path"], spec["side"], OPENVINO_PRECISIONS[backend], spec["threads"], spec["batch"]
    )


def _coreml(spec: Spec) -> Call:
    from PIL import Image

    predict = _coreml_encoder(spec, spec["backend"])
    frame = Image.fromarray(_pixels(spec)[0].astype(np.uint8).transpose(1, 2, 0))
    return lambda: predict(frame)


def _coreml_encoder(spec: Spec, backend: str) -> Callable[[Any], Any]:
    """Return the function from an RGB image of Pillow's to its embedding [1, D]."""
    import coremltools as ct

    from export.graphs.contract import EMBEDDING_NAME, INPUT_NAME

    model = ct.models.MLModel(spec["path"], compute_units=getattr(ct.ComputeUnit, COREML_UNITS[backend]))
    return lambda image: model.predict({INPUT_NAME: image})[EMBEDDING_NAME]


def _cine_loop() -> Iterator[Frame]:
    """Repeat a loop of gray camera frames, uint8 [H, W]: speckle that drifts, as under a moving probe."""
    tissue = np.random.default_rng(0).rayleigh(60, (FRAME_HEIGHT, FRAME_WIDTH)).clip(0, 255).astype(np.uint8)
    shifts = [(3 * step, 5 * step) for step in range(CINE_FRAMES)]
    return itertools.cycle([np.roll(tissue, shift, axis=(0, 1)) for shift in shifts])


def to_square(preprocessing: Preprocessing) -> Callable[[Frame], Frame]:
    """Return the geometry step of an app, pad and resize: uint8 [H, W] or [H, W, 3] to [S, S] or [S, S, 3]."""
    from models.preprocessing import resize_padded

    return lambda frame: resize_padded(frame, preprocessing)


def to_planes(square: Frame) -> Floats:
    """Convert an image, uint8 [S, S] or [S, S, 3], to the input of an ONNX file: float32 [1, 3, S, S], 0 to 255."""
    values = square.astype(np.float32)
    planes = values if values.ndim == 2 else values.transpose(2, 0, 1)
    return np.ascontiguousarray(np.broadcast_to(planes, (1, 3, *square.shape[:2])))


def _stage(spec: Spec) -> Call:
    """One stage of an app's path from a camera frame to the answers, or the whole path."""
    from export.package.manifest import read_export

    export = read_export(spec["folder"])
    if spec["backend"] == "preprocess":
        convert, frames = to_square(export.preprocessing), _cine_loop()
        return lambda: to_planes(convert(next(frames)))
    if spec["backend"] == "heads":
        answer, dim = _answers(export), int(export.manifest["embed_dim"])
        embedding = np.full(dim, dim**-0.5, dtype=np.float32)
        return lambda: answer(embedding)
    read, frames = frame_to_answers(spec, export), _cine_loop()
    return lambda: read(next(frames))


def _answers(export: Export) -> Callable[[Floats], dict[str, Floats]]:
    """Return the function from an embedding [D] to the probabilities of every head, ages at one spacing."""
    from models.student.onnx_files import read_heads

    tables = {}
    for name, head in read_heads(export.artifact("heads")).items():
        rows = head.vectors if head.basis is None else head.vectors[0] @ head.basis
        tables[name] = head.description["cosine_scale"] * rows

    def answer(embedding: Floats) -> dict[str, Floats]:
        weights = {name: np.exp(table @ embedding - 100) for name, table in tables.items()}
        return {name: values / values.sum() for name, values in weights.items()}

    return answer


def frame_to_answers(spec: Spec, export: Export) -> Callable[[Frame], dict[str, Floats]]:
    """Return the whole path from a camera frame to the probabilities of every head; see `load` for the spec."""
    from PIL import Image

    convert, answer, encoder = to_square(export.preprocessing), _answers(export), spec["encoder"]
    if encoder not in COREML_UNITS:
        run = _runner(spec, encoder)
        return lambda frame: answer(run(to_planes(convert(frame)))[0])
    predict = _coreml_encoder(spec, encoder)
    return lambda frame: answer(predict(Image.fromarray(convert(frame)).convert("RGB")).reshape(-1))


def _matmul(spec: Spec) -> Call:
    """Square matrix product of one arithmetic, the limit of what the machine can reach."""
    import torch

    torch.set_num_threads(spec["threads"])
    shape = MATMUL_SIDE, MATMUL_SIDE
    if spec["arithmetic"] == "int8":
        left, right = (torch.randint(-128, 128, shape, dtype=torch.int8) for _ in range(2))
        return lambda: torch._int_mm(left, right)
    left, right = (torch.rand(shape).to(getattr(torch, spec["arithmetic"])) for _ in range(2))
    return lambda: torch.mm(left, right)


LOADERS: dict[str, Callable[[Spec], Call]] = {
    **dict.fromkeys(TORCH, _torch),
    **dict.fromkeys((*PROVIDERS, *OPENVINO_PRECISIONS, LITERT), _exported),
    **dict.fromkeys(COREML_UNITS, _coreml),
    **dict.fromkeys(("preprocess", "heads", "end-to-end"), _stage),
    "matmul": _matmul,
}
