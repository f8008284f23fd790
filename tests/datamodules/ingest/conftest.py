"""An archive with files that are kept out, and the file of a secret."""

import shutil

import numpy as np
import pydicom
import pytest

from tests.dicom_archive import BANNER, MARGIN, SECRETS, file_of, identify, write, write_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Three patients' loops, and one file of every kind that is kept out, each named after a patient."""
    root = tmp_path_factory.mktemp("archive") / "Planted_Hospital"
    truth = write_archive(root, patients=3)
    first = root / truth["file"][0]
    shutil.copy(first, root / "Planted001_copy.dcm")
    for name, change in {
        "Planted001_burned.dcm": {"BurnedInAnnotation": "YES"},
        "Planted001_ct.dcm": {"Modality": "CT", "SOPClassUID": pydicom.uid.CTImageStorage},
        "Planted001_whole.dcm": {"SequenceOfUltrasoundRegions": None},
    }.items():
        dataset = pydicom.dcmread(first)
        for keyword, value in change.items():
            setattr(dataset, keyword, value)
        dataset.save_as(root / name)
    frame = pydicom.dcmread(first).pixel_array[:1].copy()
    inside = np.zeros_like(frame)
    inside[:, 140:300, 140:400] = frame[:, 140:300, 140:400]
    write(inside[0], "Planted001 Jane001", (MARGIN + 4, BANNER + 20))
    dataset = file_of(inside, region=(MARGIN, BANNER, frame.shape[2], frame.shape[1]))
    identify(dataset, "Planted001^Jane001", "MRN-7700001", truth["study"][0])
    dataset.save_as(root / "Planted001_label.dcm", enforce_file_format=True)
    (root / "Planted001_broken.dcm").write_bytes(first.read_bytes()[:4000])
    (root / "Planted001_notes.txt").write_text("Secret remark on Planted001^Jane001")
    (root / "Planted001.mp4").write_bytes(b"not a film")
    return root, truth


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "secret"
    file.write_text(SECRETS["SONODISTILL_SECRET"] + "\n")
    return f"--secret-file={file}"
