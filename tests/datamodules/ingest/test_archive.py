"""From an archive to a table: what comes out, what is kept out and why, and that nothing identifying comes out."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from datamodules.ingest.archive import CRASH, IngestSettings, _Job, _results
from datamodules.ingest.scans import ScanError
from datamodules.ingest.source_files import pseudonym, read_secret
from experiments.commands.data import main
from models.files import digest
from tests.dicom_archive import (
    BANNER,
    MARGIN,
    SECRETS,
    banner,
    planted,
    region_item,
    texts_in,
    write_archive,
)

SECRET = SECRETS["SONODISTILL_SECRET"]


def run(capfd, *arguments):
    code = main(["ingest", *map(str, arguments), "--workers=1"])
    return code, "".join(capfd.readouterr())


def test_nothing_identifying_comes_out(archive, secret, tmp_path, capfd, caplog, monkeypatch):
    root, truth = archive
    for variable in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        (tmp_path / "home").mkdir(exist_ok=True)
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    code, log = run(capfd, root, out, secret, "--frames=all")
    assert code == 0
    secrets = {text.lower() for text in planted(truth)} | {SECRET}
    source = "".join(text for _, text in texts_in(root)).lower()
    assert all(text in source for text in secrets - {SECRET}), "the search finds what is there"
    for where, text in [("log", log), ("logging", caplog.text), *texts_in(tmp_path)]:
        assert not [planted for planted in secrets if planted in text.lower()], where

    # Pixels: each picture is the region of its frame, and no name's picture is anywhere in one.
    table = pd.read_csv(out / "table.csv")
    name = banner(np.zeros((1, 480), np.uint8), "Planted001^Jane001", "MRN-7700001")[10:32, 4:180]
    whole = pydicom.dcmread(root / truth["file"][0]).pixel_array
    assert likeness(whole[0], name) > 0.95
    for image in table["image"]:
        assert likeness(cv2.imread(str(out / image), 0), name) < 0.7
    assert likeness(cv2.imread(str(out / "contact-sheet.png"), 0), name) < 0.7
    patient = pseudonym(SECRET, "patient", truth["patient"][0])
    first = table[(table["patient"] == patient) & (table["frame"] == 2)].iloc[0]
    np.testing.assert_array_equal(cv2.imread(str(out / first["image"]), -1), whole[1, BANNER:, MARGIN:])


def likeness(picture, template):
    return float(cv2.matchTemplate(picture, template, cv2.TM_CCOEFF_NORMED).max())


def test_the_table_and_the_counts_by_reason(archive, secret, tmp_path, capfd):
    root, truth = archive
    out = tmp_path / "out"
    labels = tmp_path / "labels.csv"
    more = pd.concat([truth, pd.DataFrame({"file": ["no such file"]})])
    more[["file", "plane", "ga_days", "hc_mm", "name"]].to_csv(labels, index=False, sep=";")
    code, log = run(capfd, root, out, secret, "--frames=all", f"--labels={labels}")
    table = pd.read_parquet(out / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(out / "table.csv"), table, check_dtype=False)
    assert code == 0
    assert len(table) == 2 * len(truth), "the third frame repeats the first, and a copy counts once"
    assert set(table["patient"]) == {pseudonym(SECRET, "patient", p) for p in truth["patient"]}
    assert set(table["study"]) == {pseudonym(SECRET, "study", s) for s in truth["study"]}
    assert set(table["frame"]) == {1, 2}
    assert not table["colour_doppler"].any()
    assert "name" not in table, "only known labels are taken"
    wanted = {pseudonym(SECRET, "file", row.file): row for row in truth.itertuples()}
    labelled = table[table["source"].isin(wanted)]
    assert len(labelled) >= 2 * (len(truth) - 1)  # the first file may go by the name of its copy
    for row in labelled.itertuples():
        expected = wanted[row.source]
        assert row.pixel_size_mm == pytest.approx(expected.pixel_size_mm)
        assert (row.plane, row.ga_days) == (expected.plane, expected.ga_days)
    report = json.loads((out / "ingest.json").read_text())
    kept_out = report["files"]["kept out"]
    assert kept_out["burned-in annotation"] == kept_out["not ultrasound"] == 1
    assert kept_out["no ultrasound region"] == kept_out["text beside the sector"] == 1
    assert report["files"]["read"] == len(truth) + 8
    assert report["a copy of another file"] == 2
    assert len(more) + 1 in report["rows of labels without an image"]
    assert "labels.csv: " in log
    assert report["files with text outside the region, cut off"] == len(truth) + 1
    bad = {entry["reason"] for entry in report["bad files"]}
    assert len(report["bad files"]) == 2
    assert "cannot be decoded as a cine loop" in bad
    assert log.count("bad file ") == 2
    assert cv2.imread(str(out / "contact-sheet.png")) is not None
    _, paths = run(capfd, root, out, secret, "--which", *(entry["id"] for entry in report["bad files"]))
    assert {line.rpartition("/")[2] for line in paths.split()} == {"Planted001_broken.dcm", "Planted001.mp4"}


@pytest.fixture(scope="module")
def converted(archive, secret, tmp_path_factory):
    """What the command writes for the archive; tests must not change it."""
    out = tmp_path_factory.mktemp("converted") / "out"
    assert main(["ingest", str(archive[0]), str(out), secret, "--workers=1"]) == 0
    return out


def test_an_interrupted_run_goes_on_and_gives_the_same(
    archive, converted, secret, tmp_path, capfd, monkeypatch
):
    root, _ = archive
    parts = shutil.copytree(converted, tmp_path / "parts")
    journal = (parts / "files.jsonl").read_text()
    for path in root.rglob("*.dcm"):
        state = path.stat()
        assert digest([state.st_size, state.st_mtime_ns]) not in journal, (
            "who knows the size could find the time"
        )
    lines = journal.splitlines(keepends=True)
    (parts / "files.jsonl").write_text("".join(lines[:3]) + lines[3][:20])  # killed while writing
    for name in ("table.csv", "table.parquet", "ingest.json"):
        (parts / name).unlink()
    decoded = []
    from datamodules.ingest import archive as module

    convert = module._convert
    monkeypatch.setattr(module, "_convert", lambda *args: decoded.append(args[-1]) or convert(*args))
    run(capfd, root, parts, secret)
    assert len(decoded) == len(lines) - 3, "finished files are not read again"
    for name in ("table.csv", "ingest.json"):
        assert (parts / name).read_bytes() == (converted / name).read_bytes()
    left = pd.read_csv(parts / "table.csv")["image"]
    (parts / left[0]).unlink()  # the contact sheet showed a name in it
    run(capfd, root, parts, secret)
    assert list(pd.read_csv(parts / "table.csv")["image"]) == list(left[1:])
    assert json.loads((parts / "ingest.json").read_text())["deleted pictures"] == 1
    for arguments, reason in (([secret, "--frames=all"], "other settings"), ([], "another secret")):
        monkeypatch.setenv("SONODISTILL_SECRET", "x" * 20)
        with pytest.raises(ValueError, match=reason):
            run(capfd, root, parts, *arguments)


@pytest.fixture
def copied(archive, tmp_path):
    root, truth = archive
    return shutil.copytree(root, tmp_path / "source"), truth


def images(out):
    return {str(path.relative_to(out)) for path in (out / "images").rglob("*.png")}


def test_a_deleted_picture_stays_away(copied, converted, secret, tmp_path, capfd):
    """Also when its file is read again: with another time, or as a copy."""
    root, _ = copied
    out = shutil.copytree(converted, tmp_path / "out")
    name = pd.read_csv(out / "table.csv")["image"][0]
    (out / name).unlink()
    left = images(out)
    for path in root.rglob("*.dcm"):
        os.utime(path, (1, 1))
        shutil.copy(path, path.with_name(f"again_{path.name}"))
    for _ in range(2):
        run(capfd, root, out, secret)
        assert images(out) == left == set(pd.read_csv(out / "table.csv")["image"])


def test_pictures_of_a_withdrawn_patient_are_removed_and_come_back_with_the_files(
    copied, converted, secret, tmp_path, capfd
):
    root, truth = copied
    out, elsewhere = shutil.copytree(converted, tmp_path / "out"), tmp_path / "elsewhere"
    before = images(out)
    gone = pseudonym(SECRET, "patient", truth["patient"].iloc[-1])
    assert any(f"/{gone}/" in name for name in before)
    elsewhere.mkdir()
    for place, file in enumerate(truth[truth["patient"] == truth["patient"].iloc[-1]]["file"]):
        shutil.move(root / file, elsewhere / str(place))
    _, log = run(capfd, root, out, secret)
    assert "of files that are no longer in the source" in log
    assert images(out) == {name for name in before if f"/{gone}/" not in name}
    assert not [text for _, text in texts_in(out) if gone in text]
    for place, file in enumerate(truth[truth["patient"] == truth["patient"].iloc[-1]]["file"]):
        shutil.move(elsewhere / str(place), root / file)
    run(capfd, root, out, secret)
    assert images(out) == before


def test_no_frame_of_a_file_that_fails_later_stays(secret, tmp_path, capfd, monkeypatch):
    """A damaged loop gives its first frames before its error: no table and no contact sheet would show them."""
    from datamodules.ingest import archive as module

    root, read = tmp_path / "source", module.read_dicom
    damaged = root / write_archive(root, patients=2)["file"].iloc[0]

    def frames_until_damage(scan):
        yield next(iter(scan.frames))
        raise ScanError("the frame is cut off")

    def read_until_damage(path, *given):
        scan = read(path, *given)
        return replace(scan, frames=frames_until_damage(scan)) if path == damaged else scan

    monkeypatch.setattr(module, "read_dicom", read_until_damage)
    run(capfd, root, tmp_path / "out", secret)
    report = json.loads((tmp_path / "out" / "ingest.json").read_text())
    assert [entry["reason"] for entry in report["bad files"]] == ["the frame is cut off"]
    assert images(tmp_path / "out") == set(pd.read_csv(tmp_path / "out" / "table.csv")["image"]) != set()


def test_a_file_that_the_disk_could_not_read_is_tried_again(copied, secret, tmp_path, capfd, monkeypatch):
    root, _ = copied
    out = tmp_path / "out"
    read = pydicom.dcmread
    failing = sorted(root.rglob("*.dcm"))[0]

    def unreadable(path, *given, **options):
        if path == failing:
            raise OSError(5, "Input/output error")
        return read(path, *given, **options)

    monkeypatch.setattr(pydicom, "dcmread", unreadable)
    _, log = run(capfd, root, out, secret)
    assert "cannot be read (OSError)" in log
    monkeypatch.undo()
    _, log = run(capfd, root, out, secret)
    assert "cannot be read (OSError)" not in log


def test_a_folder_that_cannot_be_read_stops_the_command(copied, secret, tmp_path, capfd, monkeypatch):
    root, _ = copied
    (root / "locked").mkdir()
    scan = os.scandir

    def refused(path="."):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(OSError, match=r"locked: cannot be read \(Permission denied\); give access to it"):
        run(capfd, root, tmp_path / "out", secret)


def test_an_implausible_pixel_size_is_left_out(copied, secret, tmp_path, capfd):
    root, truth = copied
    path = root / truth["file"][0]
    dataset = pydicom.dcmread(path)
    for region in dataset.SequenceOfUltrasoundRegions:
        region.PhysicalDeltaX = region.PhysicalDeltaY = 0.00002
    dataset.save_as(path)
    out = tmp_path / "out"
    _, log = run(capfd, root, out, secret)
    assert "1 file with a pixel size that cannot be right" in log
    table = pd.read_csv(out / "table.csv")
    assert table.set_index("source")["pixel_size_mm"].isna()[pseudonym(SECRET, "file", truth["file"][0])]
    assert table["pixel_size_mm"].notna().any()


def test_what_is_kept_out_can_be_masked_or_taken(archive, secret, tmp_path, capfd):
    root, _ = archive
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(root / "Planted001_label.dcm", one)
    shutil.copy(root / "Planted001_whole.dcm", one)
    assert run(capfd, one, tmp_path / "drop", secret)[0] == 1, "nothing came out"
    _, log = run(capfd, one, tmp_path / "mask", secret, "--burned-in=mask")
    assert "--region=" in log
    (image,) = pd.read_csv(tmp_path / "mask" / "table.csv")["image"]
    picture = cv2.imread(str(tmp_path / "mask" / image), 0)
    assert picture[:30, :150].max() == 0, "the name is black"
    assert picture.max() > 0
    run(capfd, one, tmp_path / "keep", secret, "--burned-in=keep", f"--region={MARGIN},{BANNER},504,364")
    table = pd.read_csv(tmp_path / "keep" / "table.csv")
    assert len(table) == 2
    assert table["pixel_size_mm"].isna().sum() == 1, "without a region there is no pixel size"


def test_mistakes_are_one_line(archive, tmp_path, capfd, monkeypatch):
    root, _ = archive
    monkeypatch.delenv("SONODISTILL_SECRET", raising=False)
    with pytest.raises(ValueError, match="SONODISTILL_SECRET: the secret has 0 of at least 16 characters"):
        run(capfd, root, tmp_path / "out")
    monkeypatch.setenv("SONODISTILL_SECRET", SECRET)
    with pytest.raises(ValueError, match="lies in the source"):
        run(capfd, root, root / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="not empty"):
        run(capfd, root, tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(capfd, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "labels.csv").write_text("file;caption\na.dcm;a head\na.dcm;again\n")
    with pytest.raises(FileNotFoundError, match=r"missing: no such file; openssl rand"):
        read_secret(tmp_path / "missing", root, tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"--labels, row 3: appears twice by file"
    ):  # before anything is decoded
        run(capfd, root, tmp_path / "out", f"--labels={tmp_path / 'labels.csv'}")
    for rows in ("", ";a head\n"):
        (tmp_path / "labels.csv").write_text(f"file;caption\n{rows}")
        with pytest.raises(ValueError, match=r"--labels: needs one of .* with values.* --column=file=NAME"):
            run(capfd, root, tmp_path / "out", f"--labels={tmp_path / 'labels.csv'}")
    with pytest.raises(SystemExit):
        run(capfd, root, tmp_path / "out", "--region=10,20,300")
    assert "10,20,300: expected LEFT,TOP,RIGHT,BOTTOM or whole" in capfd.readouterr().err
    inside = tmp_path / "full" / "secret"
    inside.write_text(SECRET)
    with pytest.raises(ValueError, match="apart from the data"):
        read_secret(inside, root, tmp_path / "full")
    with pytest.raises(ValueError, match="every:N"):
        IngestSettings(frames="first")
    assert not (tmp_path / "out").exists()


def _crash(job):
    if job.path.name == "crash":
        os._exit(1)
    return {"name": job.path.name}


@pytest.mark.slow
def test_a_file_that_crashes_the_decoder_is_one_bad_file(tmp_path):
    jobs = [_Job(tmp_path / name, f"{name}-0", "") for name in ("a", "crash", "b", "c")]
    results = dict(_results(_crash, jobs, 2))
    assert results["crash-0"]["reason"] == CRASH
    assert {results[f"{name}-0"]["name"] for name in "abc"} == {"a", "b", "c"}


def test_without_a_patient_identifier_the_examination_stands_for_the_patient(secret, tmp_path, capfd):
    root = tmp_path / "source"
    for seed, folder in enumerate(("disc 1", "disc 2")):
        for file in write_archive(root / folder, patients=1, seed=seed)["file"]:
            dataset = pydicom.dcmread(root / folder / file)
            dataset.PatientID, dataset.StudyInstanceUID = "", "1.2.3"
            dataset.save_as(root / folder / file)
    run(capfd, root, tmp_path / "out", secret)
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert len(table) > 1
    assert set(table["patient"]) == {pseudonym(SECRET, "patient", "1.2.3")}


def test_a_grey_picture_with_a_region_of_colour_flow_counts_as_doppler(secret, tmp_path, capfd):
    root = tmp_path / "source"
    truth = write_archive(root, patients=1)
    for file in truth["file"]:
        dataset = pydicom.dcmread(root / file)
        dataset.SequenceOfUltrasoundRegions.append(region_item((60, 60, 90, 90), 0.2, RegionDataType=2))
        dataset.save_as(root / file)
    run(capfd, root, tmp_path / "out", secret)
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert len(table) == len(truth)
    assert table["colour_doppler"].all()
