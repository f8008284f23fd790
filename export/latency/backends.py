"""What can be timed: each backend is a function without arguments, loaded in a process of its own."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from models import Preprocessing

Call = Callable[[], Any]
Frame = NDArray[np.uint8]
FRAME_WIDTH, FRAME_HEIGHT = 800, 540  # an HC18 frame
CINE_FRAMES = 30
MATMUL_SIDE = 1536

TORCH = ("torch-eager", "torch-fused")
# name -> ONNX Runtime execution provider; offered where the installed runtime has it
PROVIDERS = {
    "onnxruntime": "CPUExecutionProvider",
    "onnxruntime-xnnpack": "XnnpackExecutionProvider",
    "onnxruntime-coreml": "CoreMLExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
}
OPENVINO_PRECISIONS = {"openvino": "f32", "openvino-bf16": "bf16"}
COREML_UNITS = {
    "coreml-all": "ALL",
    "coreml-ane": "CPU_AND_NE",
    "coreml-gpu": "CPU_AND_GPU",
    "coreml-cpu": "CPU_ONLY",
}
# artifact with smaller weights -> the backend that it is timed with, beside that backend's float file
INT8 = {"onnx-int8": "onnxruntime", "openvino-int8": "openvino"}
SMALLER = {**INT8, **dict.fromkeys(("coreml-palette8", "coreml-palette6", "coreml-int8"), "coreml-all")}
BACKENDS = (*TORCH, *PROVIDERS, *OPENVINO_PRECISIONS, *COREML_UNITS, *SMALLER)


def load(spec: dict[str, Any]) -> Call:
    """Load a backend.

    Args:
        spec: ``backend``, ``threads``, ``batch`` and ``side``; ``recipe`` for PyTorch, ``path`` of the
            artifact for the others, ``folder`` of the export for the stages around the encoder, and ``encoder``,
            the backend that encodes end to end.

    Raises:
        ValueError: There is no such backend.
    """
    name = spec["backend"]
    if name in TORCH:
        return _torch(spec, fused=name == "torch-fused")
    if name in PROVIDERS:
        return _onnxruntime(spec, PROVIDERS[name])
    if name in OPENVINO_PRECISIONS:
        return openvino_call(spec, OPENVINO_PRECISIONS[name])[0]
    if name in COREML_UNITS:
        return _coreml(spec, COREML_UNITS[name])
    if name in STAGES:
        return STAGES[name](spec)
    raise ValueError(f"latency: no backend {name!r}")


def _pixels(spec: dict[str, Any]) -> NDArray[np.float32]:
    shape = (spec["batch"], 3, spec["side"], spec["side"])
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


def _torch(spec: dict[str, Any], fused: bool) -> Call:
    """The authors' way: PyTorch eager on the CPU, batch norms and branches as they were trained."""
    import torch

    from models import DualEncoder, build, fused_copy

    torch.set_num_threads(spec["threads"])
    model: DualEncoder = build(spec["recipe"]).eval()
    model = fused_copy(model) if fused else model
    image = torch.from_numpy(_pixels(spec) / 255)

    def call() -> Any:
        with torch.inference_mode():
            return model.encode_image(image)

    return call


def _onnx_session(spec: dict[str, Any], provider: str) -> Callable[[NDArray[np.float32]], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(spec["path"], options, providers=[provider])
    if provider not in session.get_providers():
        raise ValueError(f"latency: ONNX Runtime fell back from {provider}")
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})


def _onnxruntime(spec: dict[str, Any], provider: str) -> Call:
    session, pixels = _onnx_session(spec, provider), _pixels(spec)
    return lambda: session(pixels)


def openvino_call(spec: dict[str, Any], precision: str, **settings: Any) -> tuple[Call, Any]:
    """Return a call of the model as it is timed, and OpenVINO's request, which knows what the last call did.

    Args:
        spec: As for `load`.
        precision: ``f32`` or ``bf16``.
        **settings: More of OpenVINO's.
    """
    import openvino

    settings |= {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": spec["threads"],
        "INFERENCE_PRECISION_HINT": precision,
    }
    core = openvino.Core()
    model = core.read_model(spec["path"])
    model.reshape([spec["batch"], 3, spec["side"], spec["side"]])
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    pixels = _pixels(spec)
    return lambda: request.infer({0: pixels}), request


def _coreml_model(spec: dict[str, Any], units: str) -> Any:
    if platform.system() != "Darwin":
        raise ValueError("latency: Core ML predicts on macOS only")
    import coremltools as ct

    return ct.models.MLModel(spec["path"], compute_units=getattr(ct.ComputeUnit, units))


def _coreml(spec: dict[str, Any], units: str) -> Call:
    from PIL import Image

    from export.contract import INPUT_NAME

    model = _coreml_model(spec, units)
    frame = Image.fromarray(_pixels(spec)[0].astype(np.uint8).transpose(1, 2, 0))
    return lambda: model.predict({INPUT_NAME: frame})


def cine_loop() -> list[NDArray[np.uint8]]:
    """Return a loop of gray camera frames: speckle that drifts, as under a moving probe."""
    tissue = np.random.default_rng(0).rayleigh(60, (FRAME_HEIGHT, FRAME_WIDTH)).clip(0, 255).astype(np.uint8)
    return [np.roll(tissue, (3 * step, 5 * step), axis=(0, 1)) for step in range(CINE_FRAMES)]


def to_square(preprocessing: Preprocessing) -> Callable[[Frame], Frame]:
    """Return what an app does to a frame's geometry: pad and resize.

    Returns:
        A function from a frame, uint8 [H, W] or [H, W, 3], to uint8 [S, S] or [S, S, 3].
    """
    from PIL import Image

    from datamodules.transforms import pad_to_square

    size = (preprocessing.image_size, preprocessing.image_size)
    kernel = Image.Resampling[preprocessing.interpolation.upper()]
    return lambda frame: np.asarray(Image.fromarray(pad_to_square(frame)).resize(size, kernel))


def lay_out(square: Frame) -> NDArray[np.float32]:
    """Lay an image, uint8 [S, S] or [S, S, 3], out as an ONNX file takes it: [1, 3, S, S], 0 to 255."""
    values = square.astype(np.float32)
    planes = values if values.ndim == 2 else values.transpose(2, 0, 1)
    return np.ascontiguousarray(np.broadcast_to(planes, (1, 3, *square.shape[:2])))


def _preprocess(spec: dict[str, Any]) -> Call:
    """Pad, resize and lay out the next gray camera frame of a cine loop."""
    from export.manifest import read_export

    convert = to_square(read_export(spec["folder"]).preprocessing)
    frames = itertools.cycle(cine_loop())
    return lambda: lay_out(convert(next(frames)))


def _answers(
    spec: dict[str, Any],
) -> tuple[Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]], int]:
    """Return what gives the probabilities of every head from an embedding [D], and D; ages at one spacing."""
    from export.manifest import read_export

    export = read_export(spec["folder"])
    names = [name.removeprefix("head_") for name in export.manifest["artifacts"] if name.startswith("head_")]
    tables = {}
    for name in sorted(names):
        description, vectors = export.head(name)
        tables[name] = description["cosine_scale"] * (vectors[0] if vectors.ndim == 3 else vectors)

    def answer(embedding: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        answers = {}
        for name, table in tables.items():
            weights = np.exp(table @ embedding - 100)
            answers[name] = weights / weights.sum()
        return answers

    return answer, int(export.manifest["embed_dim"])


def _heads(spec: dict[str, Any]) -> Call:
    """Both plane heads and the ages of one spacing, from one embedding."""
    answer, dim = _answers(spec)
    embedding = np.full(dim, dim**-0.5, dtype=np.float32)
    return lambda: answer(embedding)


def frame_to_answers(spec: dict[str, Any]) -> Callable[[Frame], dict[str, NDArray[np.float32]]]:
    """Return the whole way, from a camera frame to the probabilities of every head.

    Args:
        spec: As for `load`, with the ``encoder`` (ONNX Runtime's or one of Core ML's), ``path`` of its file and
            ``folder`` of the export.
    """
    from export.manifest import read_export

    convert = to_square(read_export(spec["folder"]).preprocessing)
    encode, (answer, _) = _frame_encoder(spec), _answers(spec)
    return lambda frame: answer(encode(convert(frame)))


def _frame_encoder(spec: dict[str, Any]) -> Callable[[Frame], NDArray[np.float32]]:
    """Return a function from a square image to its embedding [D]."""
    name = spec["encoder"]
    if name not in COREML_UNITS:
        session = _onnx_session(spec, PROVIDERS[name])
        return lambda square: session(lay_out(square))[0][0]
    from PIL import Image

    from export.contract import EMBEDDING_NAME, INPUT_NAME

    model = _coreml_model(spec, COREML_UNITS[name])

    def encode(square: Frame) -> NDArray[np.float32]:
        answer = model.predict({INPUT_NAME: Image.fromarray(square).convert("RGB")})
        return np.asarray(answer[EMBEDDING_NAME], dtype=np.float32).reshape(-1)

    return encode


def _end_to_end(spec: dict[str, Any]) -> Call:
    """From the next camera frame of a cine loop to the answers of all heads."""
    read, frames = frame_to_answers(spec), itertools.cycle(cine_loop())
    return lambda: read(next(frames))


def _matmul(spec: dict[str, Any]) -> Call:
    """The machine's own matrix product in one arithmetic, the yardstick of what it can reach."""
    import torch

    torch.set_num_threads(spec["threads"])
    shape = MATMUL_SIDE, MATMUL_SIDE
    if spec["arithmetic"] == "int8":
        left, right = (torch.randint(-128, 128, shape, dtype=torch.int8) for _ in range(2))
        return lambda: torch._int_mm(left, right)
    left, right = (torch.rand(shape).to(getattr(torch, spec["arithmetic"])) for _ in range(2))
    return lambda: torch.mm(left, right)


STAGES: dict[str, Callable[[dict[str, Any]], Call]] = {
    "preprocess": _preprocess,
    "heads": _heads,
    "end-to-end": _end_to_end,
    "matmul": _matmul,
}


def available() -> dict[str, str]:
    """Say which optional runtimes this machine has: name -> "yes" or the reason why not."""
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
        answers |= {"openvino": "yes", "openvino-bf16": bfloat16}
    except ImportError:
        answers |= dict.fromkeys(OPENVINO_PRECISIONS, "openvino is not installed")
    mac = "yes" if platform.system() == "Darwin" else "Core ML predicts on macOS only"
    return answers | dict.fromkeys(COREML_UNITS, mac)
