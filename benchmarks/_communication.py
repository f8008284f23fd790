"""Bytes that a process receives in a training step, and the memory of the loss, by number of processes.

``python -m benchmarks._communication`` prints the table of docs/scale.md for the published towers.
"""

from __future__ import annotations

from benchmarks._material import STUDENT, TEACHER, published

FLOAT, ID = 4, 8  # bytes
LINK = 25e9  # bytes a second: 200 Gbit/s for each GPU


def received(pairs: int, processes: int, student_dim: int, teacher_dim: int) -> dict[str, int]:
    """Return the bytes that a process receives in the loss and its backward pass, by what they are.

    Args:
        pairs: Pairs of each process.
        processes: Number of processes.
        student_dim: Dimensions of the student's embeddings, of image and of text.
        teacher_dim: The teacher's.
    """
    rows = pairs * (processes - 1)
    return {
        "student": 2 * rows * student_dim * FLOAT,
        "teacher": 2 * rows * teacher_dim * FLOAT,
        "captions": rows * ID,
        "gradients of embeddings": 2 * rows * student_dim * FLOAT,
    }


def reduced(parameters: int, processes: int) -> int:
    """Return the bytes that a process receives when a ring averages the gradients of all parameters."""
    return 2 * parameters * FLOAT * (processes - 1) // processes


def main() -> None:
    """Print one row for each number of processes, with 512 pairs in all and with 512 in each."""
    student = published(STUDENT)
    parameters, dims = (
        sum(p.numel() for p in student.parameters()),
        (student.embed_dim, published(TEACHER, True).embed_dim),
    )
    print(f"{parameters / 1e6:.1f} million parameters, dimensions {dims}")
    for processes in (1, 8, 64, 512):
        for pairs in sorted({512 // processes, 512}):
            gather = sum(received(pairs, processes, *dims).values())
            ring, matrix = reduced(parameters, processes), pairs * pairs * processes * FLOAT
            cells = (
                processes, pairs, pairs * processes, f"{gather / 1e6:.1f} MB", f"{ring / 1e6:.0f} MB",
                f"{1e3 * (gather + ring) / LINK:.1f} ms", f"{matrix / 1e6:.1f} MB",
            )  # fmt: skip
            print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
