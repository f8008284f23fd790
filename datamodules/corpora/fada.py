"""FADA's table: an expert's answers to eight questions about each image (arXiv 2606.11106), as captions."""

from __future__ import annotations

import pandas as pd

from datamodules.corpora.cells import texts

# As `data/prepare_interpret_data.py` of github.com/mahmoodphd/FADA names them.
_FOLDER, _IMAGE = "Folder Name", "Image Name"
_STRUCTURES, _ORIENTATION, _PLANE = "Q1: Anatomical Structures", "Q2: Fetal Orientation", "Q3: Imaging Plane"
_MEASUREMENTS, _AGE, _QUALITY = "Q4: Biometric Measurements", "Q5: Gestational Age", "Q6: Image Quality"
_NORMALITY = "Q7: Normality Assessment"
# Q8, recommendations, says what to do next, which no image shows.
_CAPTIONS = (
    (_PLANE, _STRUCTURES),
    (_PLANE, _ORIENTATION, _STRUCTURES, _MEASUREMENTS),
    (_PLANE, _AGE, _NORMALITY, _QUALITY),
)
COLUMNS = {_FOLDER, _IMAGE, *(column for caption in _CAPTIONS for column in caption)}
CONTAINS = ("hc18", "planes")
"""Benchmark corpora of which FADA has images."""


def is_fada(table: pd.DataFrame) -> bool:
    """Return whether a table has FADA's columns, each name once."""
    return table.columns.is_unique and set(table.columns) >= COLUMNS


def with_captions(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``image`` (FOLDER/IMAGE) and ``caption`` (up to three texts) to FADA's table.

    Rows that repeat an image, or lack its name or its structures, are left out, as by the authors' script.
    """
    answers = table[sorted(COLUMNS)].apply(texts).map(lambda text: " ".join((text or "").split()))
    kept = (answers[[_FOLDER, _IMAGE, _STRUCTURES]] != "").all(axis=1)
    kept &= ~answers[kept].duplicated([_FOLDER, _IMAGE]).reindex(answers.index, fill_value=True)
    answers = answers[kept]
    captions = [
        tuple("; ".join(filter(None, row[list(columns)])) for columns in _CAPTIONS)
        for _, row in answers.iterrows()
    ]
    return table[kept].assign(
        image=answers[_FOLDER] + "/" + answers[_IMAGE],
        caption=pd.Series(captions, index=answers.index, dtype=object),
    )
