"""Bytes and seconds of a training step by number of processes: the arithmetic of docs/scale.md.

``python -m benchmarks._communication`` prints the bytes for the published towers; with ``--pairs-per-second`` and
``--link``, which are assumptions of yours, the seconds, too. `benchmarks._scaling` checks the arithmetic here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks._material import STUDENT, TEACHER, published
from experiments.process import Parser

FLOAT, ID = 4, 8  # bytes


def received(
    pairs: int, processes: int, student_dim: int, teacher_dim: int, fused: bool = True
) -> dict[str, int]:
    """Return the bytes that a process receives in SRKD and its backward pass, by what they are.

    Args:
        pairs: Pairs of each process.
        processes: Number of processes.
        student_dim: Dimensions of the student's embeddings, of image and of text.
        teacher_dim: The teacher's.
        fused: The kernels ``fused`` and ``chunked``, which gather texts and sums; else ``plain``, as with masked
            duplicates, which gathers images and texts.
    """
    rows, towers = pairs * (processes - 1), 1 if fused else 2
    return {
        "student": towers * rows * student_dim * FLOAT,
        "teacher": towers * rows * teacher_dim * FLOAT,
        "captions": rows * ID,
        "sums": 2 * rows * FLOAT if fused else 0,
        "reduced sums": 2 * 3 * rows * FLOAT if fused else 0,  # a ring over [3, B]
        "gradients of embeddings": towers * rows * student_dim * FLOAT,
    }


def reduced(parameters: int, processes: int) -> int:
    """Return the bytes that a process receives when a ring averages the gradients of all parameters."""
    return 2 * parameters * FLOAT * (processes - 1) // processes


@dataclass(frozen=True)
class Speed:
    """What a process does in a second.

    Attributes:
        pairs: Pairs through data, teacher, student and its backward pass.
        fixed: Seconds of a step that are the same for any number of pairs, the optimiser's among them.
        link: Bytes received.
        loss: Floating-point operations of the loss.
    """

    pairs: float
    fixed: float
    link: float
    loss: float


def step_seconds(
    pairs: int, processes: int, student_dim: int, teacher_dim: int, parameters: int, speed: Speed
) -> dict[str, float]:
    """Return the seconds of a step by part, nothing hidden behind anything else; arguments as of `received`."""
    products = 2 * pairs * pairs * processes * (3 * student_dim + teacher_dim)
    return {
        "own pairs": speed.fixed + pairs / speed.pairs,
        "loss": products / speed.loss,
        "gathers": sum(received(pairs, processes, student_dim, teacher_dim).values()) / speed.link,
        "reduction": reduced(parameters, processes) / speed.link,
    }


def main() -> None:
    """Print one row for each number of processes, with 512 pairs in all and with 512 in each."""
    parser = Parser(prog="python -m benchmarks._communication", description=__doc__)
    parser.add_argument("--pairs-per-second", type=float, help="of one GPU alone: assumed or measured by you")
    parser.add_argument("--fixed-ms", type=float, default=0.0, help="of a step, whatever its pairs")
    parser.add_argument("--link", type=float, default=200.0, help="Gbit/s of each GPU")
    parser.add_argument(
        "--loss-teraflops", type=float, default=20.0, help="of a GPU in the loss's matrix products"
    )
    parser.add_argument(
        "--gpu",
        type=Path,
        metavar="GPU.JSON",
        help="read pairs per second, fixed time and loss speed from gpu.json",
    )
    options = parser.parse_args()
    if options.gpu:
        facts = json.loads(options.gpu.read_text(encoding="utf-8"))["facts"]
        parts = facts.get("parts", {})
        kind = "compiled" if "ours, compiled" in parts else "eager"
        if f"ours, {kind}" not in parts or "16384, TF32" not in facts.get("loss_tflops", {}):
            parser.error(f"{options.gpu}: stage step or loss was not measured to its end")
        options.fixed_ms = parts[f"ours, {kind}"]["optimiser"]
        step_ms = 1e3 * facts["batch"] / facts["images_per_s"][f"live, {kind}"]
        options.pairs_per_second = 1e3 * facts["batch"] / (step_ms - options.fixed_ms)
        options.loss_teraflops = facts["loss_tflops"]["16384, TF32"]  # as in trainings with bf16-mixed
    student = published(STUDENT)
    parameters = sum(p.numel() for p in student.parameters())
    dims = student.embed_dim, published(TEACHER, True).embed_dim
    print(f"{parameters / 1e6:.1f} million parameters, dimensions {dims}; {vars(options)}")
    link, rate = 1e9 * options.link / 8, options.pairs_per_second or float("nan")
    speed = Speed(rate, 1e-3 * options.fixed_ms, link, 1e12 * options.loss_teraflops)
    for processes in (1, 4, 8, 64, 512):
        for pairs in sorted({512 // processes, 512}):
            if options.pairs_per_second:
                parts = step_seconds(pairs, processes, *dims, parameters, speed)
                step = sum(parts.values())
                cells = [f"{1e3 * seconds:.1f}" for seconds in (*parts.values(), step)]
                cells += [f"{pairs * processes / step:,.0f}", f"{parts['own pairs'] / step:.0%}"]
            else:
                gather = sum(received(pairs, processes, *dims).values())
                ring, matrix = reduced(parameters, processes), pairs * pairs * processes * FLOAT
                cells = [f"{gather / 1e6:.1f} MB", f"{ring / 1e6:.0f} MB"]
                cells += [f"{1e3 * (gather + ring) / link:.1f} ms", f"{matrix / 1e6:.1f} MB"]
            print(f"| {' | '.join([str(processes), str(pairs), str(pairs * processes), *cells])} |")


if __name__ == "__main__":
    main()
