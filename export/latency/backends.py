"""Backends and stages that can be timed: each is a function without arguments, loaded in its own process.

Libraries are imported where they are used: cold start and peak memory of a worker process are part of its result.
"""

from __future__ import annotations

import itertools
import platform
import timeit
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.runners import NO_LITERT, NO_OPENVINO, litert_runner, openvino_runner
from models.student.onnx_files import AGES, CPU, Floats, onnx_runner

if TYPE_CHECKING:
    from export.package.manifest import Export
    from models.student.base import Row, Student

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
# They do not compute on the CPU: processor time does not measure them.
ACCELERATED = (*COREML_UNITS, "onnxruntime-coreml", "onnxruntime-cuda")
# Backend -> the float artifact that it runs; of all others: onnx-fp32.
ARTIFACTS = {LITERT: "litert-fp32", **dict.fromkeys(COREML_UNITS, "coreml-fp16")}
LIVE_ENCODERS = ("onnxruntime", "coreml-all", "coreml-ane")  # of the end-to-end stages and live scans

FRAME_WIDTH, FRAME_HEIGHT = 800, 540  # an HC18 frame
CINE_FRAMES = 30
MATMUL_SIDE = 1536


def smaller() -> dict[str, str]:
    """Return artifact with smaller weights -> the backend that runs it, for int8 files and Core ML packages."""
    from export.graphs.coreml_package import COMPRESSIONS

    return {**INT8, **{f"coreml-{kind}": "coreml-all" for kind in COMPRESSIONS}}


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
        answers |= dict.fromkeys(OPENVINO_PRECISIONS, NO_OPENVINO)
    answers[LITERT] = "yes" if find_spec("ai_edge_litert") else NO_LITERT
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
    spacings = export.manifest["heads"].get(AGES, {}).get("spacings_mm_per_px", [None])
    common = {"threads": backends["onnxruntime"]["threads"], "batch": 1, "spacing": spacings[0]}
    common["folder"] = str(export.folder.resolve())
    specs: dict[str, Spec] = {name: {"backend": name, **common} for name in ("preprocess", "heads")}
    for name in (name for name in LIVE_ENCODERS if name in backends):
        own = {"backend": "end-to-end", "encoder": name, "path": backends[name]["path"]}
        specs[f"end-to-end, {name}"] = {**common, **own}
    return specs


def load(spec: Spec) -> Call:
    """Load a backend of the encoder, a stage of a camera frame, or a matrix product.

    Args:
        spec: ``backend``, ``threads``, ``batch`` and ``side`` of the images; ``recipe`` for PyTorch, ``path`` of the
            artifact for the other backends; ``folder`` of the export and a printed ``spacing`` of its age table for
            stages, ``encoder`` for an end-to-end stage; ``arithmetic`` and ``library`` for a matrix product.

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
    return torch.inference_mode()(lambda: model.encode_image(image))


def _exported(spec: Spec) -> Call:
    name, path, threads, pixels = spec["backend"], spec["path"], spec["threads"], _pixels(spec)
    if name in PROVIDERS:
        run = onnx_runner(path, threads, PROVIDERS[name])
    elif name == LITERT:
        run = litert_runner(path, threads)
    else:
        run = openvino_runner(path, spec["side"], OPENVINO_PRECISIONS[name], threads)
    return lambda: run(pixels)


def _coreml(spec: Spec) -> Call:
    from PIL import Image

    predict, pixels = _coreml_encoder(spec, spec["backend"]), _pixels(spec)[0].astype(np.uint8)
    frame = Image.fromarray(pixels.transpose(1, 2, 0))
    return lambda: predict(frame)


def _coreml_encoder(spec: Spec, backend: str) -> Callable[[Any], Floats]:
    """Return the function from a prepared RGB image of Pillow's to its embedding [1, D]."""
    import coremltools as ct

    from export.graphs.contract import EMBEDDING_NAME, INPUT_NAME

    model = ct.models.MLModel(spec["path"], compute_units=getattr(ct.ComputeUnit, COREML_UNITS[backend]))
    return lambda image: model.predict({INPUT_NAME: image})[EMBEDDING_NAME].reshape(1, -1)


def _cine_loop() -> Iterator[Frame]:
    """Repeat a loop of gray camera frames, uint8 [H, W]: speckle that drifts, as under a moving probe."""
    tissue = np.random.default_rng(0).rayleigh(60, (FRAME_HEIGHT, FRAME_WIDTH)).clip(0, 255).astype(np.uint8)
    shifts = [(3 * step, 5 * step) for step in range(CINE_FRAMES)]
    return itertools.cycle([np.roll(tissue, shift, axis=(0, 1)) for shift in shifts])


def _stage(spec: Spec) -> Call:
    """One stage of an app's path from a camera frame to the answers, or the whole path."""
    from models.student.exported import ExportedStudent

    student, frames = ExportedStudent(Path(spec["folder"]), spec["threads"]), _cine_loop()
    if spec["backend"] == "preprocess":
        return lambda: student.prepare(next(frames))
    if spec["backend"] == "heads":
        embedding = np.full((1, student.dimension), student.dimension**-0.5, dtype=np.float32)
        return lambda: _answers(student, embedding, spec)
    read = frame_to_answers(spec, student)
    return lambda: read(next(frames))


def _answers(student: Student, embedding: Floats, spec: Spec) -> Row:
    """Return the classes of an embedded frame [1, D], and its age at one spacing."""
    ages = [] if spec["spacing"] is None else student.ages(embedding, [float(spec["spacing"])])
    return {key: value for row in (*student.classify(embedding), *ages) for key, value in row.items()}


def frame_to_answers(spec: Spec, student: Student) -> Callable[[Frame], Row]:
    """Return the whole path from a camera frame to its answers; see `load` for the spec."""
    if spec["encoder"] not in COREML_UNITS:
        return lambda frame: _answers(student, student.embed_pixels(student.prepare(frame)[None]), spec)
    from PIL import Image

    predict = _coreml_encoder(spec, spec["encoder"])
    return lambda frame: _answers(student, predict(Image.fromarray(student.prepare(frame))), spec)


def _matmul(spec: Spec) -> Call:
    """Square matrix product of one arithmetic and library, the limit of what the machine can reach.

    Raises:
        RuntimeError: The processor has no instructions for it. PyTorch then computes element by element, far slower
            than in float32: no limit of anything.
    """
    if spec["library"] == "onnxruntime":
        return _onnx_product(spec["threads"])
    import torch

    torch.set_num_threads(spec["threads"])
    arithmetic = spec["arithmetic"]
    if arithmetic != "float32":
        own, float32 = (min(timeit.repeat(_product(one, 128), number=1)) for one in (arithmetic, "float32"))
        if own > 5 * float32:
            raise RuntimeError(f"this processor has no fast {arithmetic} products")
    return _product(arithmetic, MATMUL_SIDE)


def _product(arithmetic: str, side: int) -> Call:
    import torch

    shape = side, side
    if arithmetic == "int8":
        left, right = (torch.randint(-128, 128, shape, dtype=torch.int8) for _ in range(2))
        return lambda: torch._int_mm(left, right)
    left, right = (torch.rand(shape).to(getattr(torch, arithmetic)) for _ in range(2))
    return lambda: torch.mm(left, right)


def _onnx_product(threads: int) -> Call:
    import onnxruntime
    from onnx import TensorProto, helper

    shape = [MATMUL_SIDE, MATMUL_SIDE]
    left, right, product = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "abc")
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", [left, right], [product])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    pair = {name: np.random.default_rng(0).random(shape, np.float32) for name in "ab"}
    return lambda: session.run(None, pair)


LOADERS: dict[str, Callable[[Spec], Call]] = {
    **dict.fromkeys(TORCH, _torch),
    **dict.fromkeys((*PROVIDERS, *OPENVINO_PRECISIONS, LITERT), _exported),
    **dict.fromkeys(COREML_UNITS, _coreml),
    **dict.fromkeys(("preprocess", "heads", "end-to-end"), _stage),
    "matmul": _matmul,
}
