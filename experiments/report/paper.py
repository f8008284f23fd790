"""The rows of the paper that stand beside what was measured here."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.suites import F1, PAPER, PAPER_STUDENT_PARAMETERS, TITLES, VALIDITY

SOURCE = "Saeed et al., arXiv:2603.05421"
TEACHER, BEST = "teacher", "srkd"
TEACHER_PARAMETERS = "427 M"
SUBPLANES_F1 = {TEACHER: 0.702, BEST: 0.784}  # abstract; the tables give the mean over eight classes alone
ALIASES = {"selective-beta2": BEST}


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper: HC18 and FETAL_PLANES_DB, all images, private training data.

    Attributes:
        title: What the row is.
        validity: HC18 validity, percent.
        class_f1: Macro F1 over the eight classes, 0 to 1.
        subplanes_f1: Macro F1 of the brain sub-planes; None where no separate value is given.
        parameters: Number of parameters, as the paper prints it.
    """

    title: str
    validity: float
    class_f1: float
    subplanes_f1: float | None
    parameters: str


def paper_rows(experiments: set[str]) -> list[PaperRow]:
    """Return the paper's teacher, its best student, and the rows that the experiments repeat."""
    wanted = {TEACHER, BEST} | {ALIASES.get(name, name) for name in experiments}
    return [
        PaperRow(
            title="FetalCLIP, the paper's teacher" if name == TEACHER else TITLES[name],
            validity=values[VALIDITY],
            class_f1=values[F1],
            subplanes_f1=SUBPLANES_F1.get(name),
            parameters=TEACHER_PARAMETERS if name == TEACHER else PAPER_STUDENT_PARAMETERS,
        )
        for name, values in PAPER.items()
        if name in wanted
    ]
