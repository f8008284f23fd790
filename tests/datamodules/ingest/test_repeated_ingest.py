"""Second calls of the conversion, and which files count as bad."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from datamodules.ingest import archive
from datamodules.ingest.archive import CRASH, JOURNAL, IngestSettings, ingest
from datamodules.ingest.scans import NO_TISSUE
from datamodules.ingest.source_files import file_id, list_files
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


def test_reports_traces_and_other_modalities_are_kept_out_but_not_bad(convert, tmp_path):
    source, frame = tmp_path / "source", np.zeros((1, 48, 64), np.uint8)
    report = file_of(frame, Modality="SR", SOPClassUID=pydicom.uid.ComprehensiveSRStorage)
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    trace = file_of(frame, region=(0, 0, 64, 48))
    trace.SequenceOfUltrasoundRegions[0].RegionSpatialFormat = 2
    # The MR image is smaller than the part that the user's option keeps of ultrasound files.
    slice_ = file_of(frame[:, :8, :8], Modality="MR", SOPClassUID=pydicom.uid.MRImageStorage)
    for name, scan in {"report": report, "trace": trace, "slice": slice_}.items():
        scan.save_as(source / f"{name}.dcm", enforce_file_format=True)
    found = ingest(source, tmp_path / "other", SECRET, IngestSettings(region=(10, 10, 60, 40)), workers=1)
    kept_out = {"no picture in the file": 1, NO_TISSUE: 1, "not ultrasound": 1}
    assert (found["files"]["kept out"], found["bad files"]) == (kept_out, [])


def test_a_report_counts_what_there_is(convert, tmp_path):
    report = convert()
    assert (report["images"], report["patients"], report["deleted pictures"]) == (2, 2, 0)
    assert report["images without pixel size"] == report["files without patient identifier"] == 0
    next((tmp_path / "out" / "images").rglob("*.png")).unlink()
    report = convert()
    assert (report["images"], report["patients"], report["deleted pictures"]) == (1, 1, 1)


def test_another_source_does_not_replace_the_pictures(convert, tmp_path):
    convert()
    out = tmp_path / "out"
    (tmp_path / "2023").mkdir()
    before = sorted(out.rglob("*"))
    shutil.copy(tmp_path / "source" / "0.dcm", tmp_path / "2023" / "other.dcm")
    with pytest.raises(ValueError, match=r"out: was made from another source; give a new folder$"):
        ingest(tmp_path / "2023", out, SECRET, IngestSettings(), workers=1)
    assert sorted(out.rglob("*")) == before


def test_a_file_that_cannot_be_hashed_is_a_bad_file_and_tried_again(convert, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error", "Mueller_Anna/0.dcm")

    with monkeypatch.context() as patch:
        patch.setattr(archive.hashlib, "file_digest", fail)
        report = convert()
    assert [bad["reason"] for bad in report["bad files"]] == ["file cannot be read (OSError)"] * 2
    assert convert()["images"] == 2


def test_the_order_of_results_is_not_that_of_the_names(convert, tmp_path):
    for number in range(8):
        (tmp_path / "source" / f"{number}.txt").write_text("no scan")
    convert()
    keys = [json.loads(line)["key"] for line in (tmp_path / "out" / JOURNAL).read_text().splitlines()[1:]]
    assert len(keys) == 10
    assert keys == sorted(keys)


def test_linked_folders_are_counted_and_not_named(convert, tmp_path):
    (tmp_path / "source" / "Mueller_Anna").symlink_to(tmp_path)
    with pytest.warns(UserWarning, match="source: 1 link to folders not followed; copy") as shown:
        assert convert()["files"]["read"] == 2
    assert "Mueller" not in str(shown[0].message)


def test_pictures_survive_a_stop_while_others_are_withdrawn(convert, tmp_path, monkeypatch):
    convert()
    scan = (tmp_path / "source" / "1.dcm").rename(tmp_path / "1.dcm")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rmdir", stop)  # after the first picture
        with pytest.raises(KeyboardInterrupt):
            convert()
    scan.rename(tmp_path / "source" / "1.dcm")
    report = convert()
    assert (report["images"], report["deleted pictures"]) == (2, 0)


def test_a_picture_without_a_sector_is_kept_out_rather_than_all_black(convert, tmp_path):
    blank = file_of(np.zeros((1, 48, 64), np.uint8), region=(0, 0, 64, 48), PatientID="2")
    blank.save_as(tmp_path / "source" / "blank.dcm", enforce_file_format=True)
    report = ingest(
        tmp_path / "source", tmp_path / "masked", SECRET, IngestSettings(burned_in="mask"), workers=1
    )
    assert report["files"] == {"read": 3, "used": 2, "kept out": {"no sector found": 1}}
    assert (report["images"], report["frames kept out"]) == (2, {"no sector found": 1})


def test_files_that_cannot_be_looked_at_are_passed_over_or_named_by_their_folder(tmp_path, monkeypatch):
    for name in ("a.dcm", "DOE^JANE.dcm"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    assert {path.name for _, path, _ in list_files(tmp_path, SECRET)} == {"DOE^JANE.dcm", "a.dcm"}
    look = Path.stat

    def refused(path, **options):
        if path.name == "DOE^JANE.dcm":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(OSError, match=rf"^{tmp_path}: cannot be read \(Permission denied\); give access"):
        [*list_files(tmp_path, SECRET)]
