"""A parametric fetal-ultrasound simulator that writes corpora in the official layouts."""

from datamodules.phantom.corpus import DEFAULT_ROOT, PhantomSettings, make_corpus
from datamodules.phantom.layouts import HC18_FOLDER, PAIRS_FOLDER, PLANES_FOLDER, read_truth

__all__ = [
    "DEFAULT_ROOT",
    "HC18_FOLDER",
    "PAIRS_FOLDER",
    "PLANES_FOLDER",
    "PhantomSettings",
    "make_corpus",
    "read_truth",
]
