"""Labels find their files and patients however a table writes them; mistakes are named by row."""

from __future__ import annotations

import pandas as pd
import pytest

from datamodules.ingest.labels import join_labels, keyed_labels, pseudonym

SECRET = "a secret of twenty-eight signs"


def labels_of(**columns):
    return pd.DataFrame(columns, index=range(2, 2 + len(next(iter(columns.values())))), dtype=object)


def test_labels_find_files_as_windows_and_macos_write_them():
    labels = labels_of(file=["p0\\U\u0308nter\\a.dcm", "p1/b.dcm"], caption=["a head", "a femur"])
    names = [pseudonym(SECRET, "file", name) for name in ("p0/\u00dcnter/a.dcm", "p2/c.dcm")]
    keyed = keyed_labels(labels, SECRET, names)
    joined, unused = join_labels(pd.DataFrame({"source": names}), keyed)
    assert joined["caption"].tolist()[0] == "a head"
    assert unused == [3]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"file": ["x.dcm"], "plane": ["brain"]},
            r"no row names a file of the source, the first is 'x\.dcm'",
        ),
        (
            {"file": ["a.dcm", None], "patient": ["1", "2"], "plane": ["brain", "femur"]},
            r"row 3: file is empty; a picture is found by all of file, patient",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_named_before_anything_is_decoded(columns, said):
    with pytest.raises(ValueError, match=f"^--labels[:,] {said}"):
        keyed_labels(labels_of(**columns), SECRET, [pseudonym(SECRET, "file", "a.dcm")])


def test_two_examinations_of_a_patient_have_labels_of_their_own():
    labels = pd.DataFrame({"patient": ["7", "7"], "study": ["1", "2"], "ga_days": ["120", "150"]})
    assert keyed_labels(labels, SECRET, [])["ga_days"].tolist() == [120, 150]
