"""What the paper reports, to stand beside what was measured here.

Source: Saeed, Maani, Yaqub, "MobileFetalCLIP: Selective Repulsive Knowledge Distillation for Mobile Fetal
Ultrasound Analysis", arXiv:2603.05421, table of zero-shot results and abstract. Measured by its authors on
HC18 and FETAL_PLANES_DB, all images, with private training data.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Saeed et al., arXiv:2603.05421"


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper.

    Attributes:
        title: The paper's name of the row.
        experiments: Experiments of this project that repeat it.
        validity: HC18 validity, percent.
        class_f1: Macro F1 over the eight classes, 0 to 1.
        subplanes_f1: Macro F1 of the brain sub-planes; None where no separate value is given.
    """

    title: str
    experiments: tuple[str, ...]
    validity: float
    class_f1: float
    subplanes_f1: float | None = None


TEACHER_ROW = PaperRow("FetalCLIP, the paper's teacher", ("teacher",), 83.5, 0.871, 0.702)
STUDENT_ROWS = (
    PaperRow("No KD", ("no-kd",), 71.3, 0.823),
    PaperRow("Static KD", ("static-kd",), 79.4, 0.859),
    PaperRow("Coupled repulsive KD", ("repulsive-r-0.8",), 84.4, 0.869),
    PaperRow("Selective repulsive KD", ("srkd", "selective-beta2"), 88.6, 0.886, 0.784),
)


def paper_rows(experiments: set[str]) -> list[PaperRow]:
    """Return the paper's teacher, its best student, and the rows that the experiments repeat."""
    best = STUDENT_ROWS[-1]
    return [TEACHER_ROW, *(row for row in STUDENT_ROWS if row is best or experiments & set(row.experiments))]
