"""From an archive to a table: what comes out, what is kept out and why, and that nothing identifying comes out."""

from __future__ import annotations

import json
import os
import shutil

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from datamodules.ingest.archive import CRASH, IngestSettings, _Job, _results, pseudonym, read_secret
from experiments.commands.data import main
from models.files import digest
from tests.dicom_archive import (
    BANNER,
    MARGIN,
    banner,
    file_of,
    identify,
    planted,
    texts_in,
    write,
    write_archive,
)

SECRET = "a secret of twenty-eight signs"


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


def run(capfd, *arguments):
    code = main(["ingest", *map(str, arguments), "--workers=1"])
    return code, "".join(capfd.readouterr())


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "secret"
    file.write_text(SECRET + "\n")
    return f"--secret-file={file}"


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
    assert report["labels without an image"] >= 1
    assert "labels.csv: " in log
    assert report["files with text outside the region, cut off"] == len(truth) + 1
    bad = {entry["reason"] for entry in report["bad files"]}
    assert len(report["bad files"]) == 2
    assert "cannot be decoded as a cine loop" in bad
    assert log.count("bad file ") == 2
    assert cv2.imread(str(out / "contact-sheet.png")) is not None
    _, paths = run(capfd, root, out, secret, "--which", *(entry["id"] for entry in report["bad files"]))
    assert {line.rpartition("/")[2] for line in paths.split()} == {"Planted001_broken.dcm", "Planted001.mp4"}


def test_an_interrupted_run_goes_on_and_gives_the_same(archive, secret, tmp_path, capfd, monkeypatch):
    root, _ = archive
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(capfd, root, whole, secret)
    run(capfd, root, parts, secret)
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
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    left = pd.read_csv(parts / "table.csv")["image"]
    (parts / left[0]).unlink()  # the contact sheet showed a name in it
    run(capfd, root, parts, secret)
    assert list(pd.read_csv(parts / "table.csv")["image"]) == list(left[1:])
    assert json.loads((parts / "ingest.json").read_text())["deleted pictures"] == 1
    for arguments, reason in (([secret, "--frames=all"], "other settings"), ([], "another secret")):
        monkeypatch.setenv("SONODISTILL_SECRET", "x" * 20)
        with pytest.raises(ValueError, match=reason):
            run(capfd, root, parts, *arguments)


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
    with pytest.raises(
        ValueError, match=r"--labels, row 3: appears twice by file"
    ):  # before anything is decoded
        run(capfd, root, tmp_path / "out", f"--labels={tmp_path / 'labels.csv'}")
    for rows in ("", ";a head\n"):
        (tmp_path / "labels.csv").write_text(f"file;caption\n{rows}")
        with pytest.raises(ValueError, match=r"--labels: needs one of the columns .* with values"):
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
