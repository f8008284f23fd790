"""Experiments of the paper's tables (the suites), and the values that the paper reports.

Values of arXiv 2603.05421: HC18 validity in percent, and macro F1 over eight classes (five planes and three brain
sub-planes) and, of its abstract, over the sub-planes, of checkpoints selected on the reported images.
"""

from __future__ import annotations

from metrics.benchmarks import HC18, PLANES, SUBPLANES
from metrics.names import EIGHT_CLASS

SUITES = {
    "main": ("no-kd", "static-kd", "repulsive-r-0.8", "srkd"),
    "ablation": (
        "no-kd",
        "static-kd",
        "feature-kd",
        "confidence-penalty",
        "repulsive-r-0.5",
        "repulsive-r-0.8",
        "coupled-beta2",
        "selective-beta1",
        "srkd",  # equals selective-beta2
        "selective-beta4",
        "selective-beta8",
    ),
    # Not of the paper: what does the repulsion act by?
    "controls": (
        "static-kd",
        "srkd",
        "selective-to-zero",
        "selective-constant",
        "repel-only",
        "random-teacher",
        "shuffled-confusions",
        "spare-near",
        "spare-similar",
        "selective-swept",  # of a sweep over `decay`
    ),
    # Not of the paper: does repulsion help when it is late, weak, or between some pairs only?
    "repulsion": ("selective-constant", "srkd", "repel-late", "repel-weakly", "repel-classes", "repel-ages"),
    # With each of STUDENTS: does the gain grow with the gap between teacher and student?
    "capacity": ("no-kd", "static-kd", "repulsive-r-0.8", "srkd"),
}
# Students of the capacity suite, files of recipes/students; "" is the preset's own. Name -> image parameters.
STUDENTS = {"fifth": 553_012, "": 91_934, "hundredth": 27_910}
TEACHER_IMAGE_PARAMETERS = 2_772_508

# Reference -> methods whose difference from it answers a question; the differences from one reference are a family.
COMPARISONS = {
    "no-kd": SUITES["ablation"][1:],  # does distilling in this way help?
    "static-kd": (
        *(name for name in SUITES["ablation"][2:] if name not in ("feature-kd", "confidence-penalty")),
        "selective-constant",
    ),
    # What does the repulsion act by?
    "srkd": tuple(name for name in SUITES["controls"][2:] if name != "selective-swept"),
    # Does a search find more than the best control, and does any repulsion?
    "selective-constant": ("selective-swept", *SUITES["repulsion"][2:]),
}

TITLES = {
    "teacher": "Teacher",
    "no-kd": "No KD",
    "static-kd": "Static KD",
    "feature-kd": "Feature KD",
    "confidence-penalty": "Confidence penalty",
    "repulsive-r-0.5": "Coupled repulsive, r = -0.5",
    "repulsive-r-0.8": "Coupled repulsive, r = -0.8",
    "coupled-beta2": "Coupled, beta 2 to -0.8",
    "selective-beta1": "Selective, beta 1 to -0.8",
    "srkd": "Selective repulsive (SRKD)",
    "selective-beta4": "Selective, beta 4 to -0.8",
    "selective-beta8": "Selective, beta 8 to -0.8",
    "selective-to-zero": "Selective, beta 2 to 0",
    "selective-constant": "Selective, beta 2 throughout",
    "repel-only": "Selective, beta 0 to -0.8",
    "random-teacher": "SRKD, untrained teacher",
    "shuffled-confusions": "SRKD, shuffled confusions",
    "spare-near": "SRKD, near captions spared",
    "spare-similar": "SRKD, similar captions spared",
    "selective-swept": "Selective, best of a sweep",
    "repel-late": "SRKD, late repulsion",
    "repel-weakly": "SRKD, weak repulsion",
    "repel-classes": "SRKD, between classes alone",
    "repel-ages": "SRKD, within classes alone",
    "random": "Student, random weights",
}

PAPER: dict[str, dict[str, float]] = {
    "teacher": {HC18: 83.5, EIGHT_CLASS: 0.871, SUBPLANES: 0.702},
    "no-kd": {HC18: 71.3, EIGHT_CLASS: 0.823},
    "static-kd": {HC18: 79.4, EIGHT_CLASS: 0.859},
    "repulsive-r-0.8": {HC18: 84.4, EIGHT_CLASS: 0.869},
    "srkd": {HC18: 88.6, EIGHT_CLASS: 0.886, SUBPLANES: 0.784},
}
PAPER_STUDENT_PARAMETERS = "75 M"
# What the authors' repository github.com/BioMedIA-MBZUAI/FetalCLIP holds beside its code: the results files of
# zero_shot_planes_db/ and, of zero_shot_hc18/, 679 valid heads of 814. F1 over eight classes follows from their two.
# The student's repository has no results.
RELEASED = {
    "teacher": {
        HC18: 100 * 679 / 814, PLANES: 0.97275, SUBPLANES: 0.69293, EIGHT_CLASS: (5 * 0.97275 + 3 * 0.69293) / 8,
    }
}  # fmt: skip
