"""A parametric fetal-ultrasound simulator that writes corpora in the official layouts."""

from datamodules.phantom.corpus import PhantomSettings, make_corpus
from datamodules.phantom.layouts import HC18_FOLDER, PAIRS_FOLDER, PLANES_FOLDER

__all__ = ["HC18_FOLDER", "PAIRS_FOLDER", "PLANES_FOLDER", "PhantomSettings", "make_corpus"]
