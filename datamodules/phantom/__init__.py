"""A parametric fetal-ultrasound simulator that writes corpora in the official layouts."""

from datamodules.phantom.corpus import DEFAULT_ROOT, SIMULATOR_VERSION, PhantomSettings, make_corpus
from datamodules.phantom.layouts import HC18_FOLDER, PAIRS_FOLDER, PLANES_FOLDER, read_truth

__all__ = [
    "DEFAULT_ROOT",
    "HC18_FOLDER",
    "PAIRS_FOLDER",
    "PLANES_FOLDER",
    "SIMULATOR_VERSION",
    "PhantomSettings",
    "make_corpus",
    "read_truth",
]
