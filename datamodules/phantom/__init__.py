"""A parametric fetal-ultrasound simulator that writes corpora in the official layouts."""

from datamodules.phantom.corpus import (
    DEFAULT_ROOT,
    HC18_FOLDER,
    PAIRS_FOLDER,
    PLANES_FOLDER,
    SIMULATOR_VERSION,
    PhantomSettings,
    make_corpus,
    read_truth,
)

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
