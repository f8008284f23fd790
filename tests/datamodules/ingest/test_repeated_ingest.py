"""Second calls of the conversion, and which files count as bad."""

import numpy as np
import pytest

from datamodules.ingest import archive
from datamodules.ingest.archive import CRASH, IngestSettings, ingest
from datamodules.ingest.labels import file_id
from tests.dicom_archive import file_of

SECRET = "a secret of the hospital"


@pytest.fixture
def convert(tmp_path):
    """Convert a folder of two scans; return the report."""
    source = tmp_path / "source"
    source.mkdir()
    for seed in range(2):
        frames = np.random.default_rng(seed).integers(0, 256, (1, 48, 64), dtype=np.uint8)
        scan = file_of(frames, region=(0, 0, 64, 48), PatientID=f"{seed}", StudyInstanceUID="1.2")
        scan.save_as(source / f"{seed}.dcm", enforce_file_format=True)
    return lambda: ingest(source, tmp_path / "out", SECRET, IngestSettings(), workers=1)


def test_a_file_that_crashed_the_decoder_is_tried_again(convert, monkeypatch):
    def crash(work, jobs, workers):
        return ((job.key, archive._kept_out(job, CRASH)) for job in jobs)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "_results", crash)
        assert (convert()["images"], len(convert()["bad files"])) == (0, 2)
    assert (convert()["images"], convert()["bad files"]) == (2, [])


def test_only_what_calls_itself_dicom_is_a_bad_file(convert, tmp_path):
    for name in ("notes.txt", "broken.dcm"):
        (tmp_path / "source" / name).write_text("no scan")
    report = convert()
    assert report["files"] == {"read": 4, "used": 2, "kept out": {"no DICOM file": 2}}
    assert report["bad files"] == [{"id": file_id(SECRET, "broken.dcm"), "reason": "no DICOM file"}]


def test_a_report_counts_what_there_is(convert, tmp_path):
    report = convert()
    assert (report["images"], report["patients"], report["deleted pictures"]) == (2, 2, 0)
    assert report["images without pixel size"] == report["files without patient identifier"] == 0
    next((tmp_path / "out" / "images").rglob("*.png")).unlink()
    report = convert()
    assert (report["images"], report["patients"], report["deleted pictures"]) == (1, 1, 1)
