"""Labels find their files and patients however a table writes them; mistakes are named by row."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from datamodules.ingest.labels import join_labels, keyed_labels, pseudonym
from tests.datamodules.ingest.test_archive import SECRET, run


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
            r"no row names a file of the source, the first is row 2; give paths below",
        ),
        (
            {"file": ["a.dcm", None], "patient": ["1", "2"], "plane": ["brain", "femur"]},
            r"row 3: file is empty; a picture is found by all of file, patient",
        ),
        ({"file": ["a.dcm", "./a.dcm"], "plane": ["brain", "brain"]}, "row 3: appears twice by file"),
        ({"patient": ["1"], "hc_mm": ["170"]}, "row 2: hc_mm needs a column file or plane"),
        (
            {"study": ["1", "2"], "hc_mm": ["170", "180"], "plane": ["brain", None]},
            "row 3: hc_mm needs a column file or plane",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_named_before_anything_is_decoded(columns, said):
    with pytest.raises(ValueError, match=f"^--labels[:,] {said}"):
        keyed_labels(labels_of(**columns), SECRET, [pseudonym(SECRET, "file", "a.dcm")])


def test_two_examinations_of_a_patient_have_labels_of_their_own():
    labels = pd.DataFrame({"patient": ["7", "7"], "study": ["1", "2"], "ga_days": ["120", "150"]})
    assert keyed_labels(labels, SECRET, [])["ga_days"].tolist() == [120, 150]


def test_an_age_by_patient_is_not_given_to_several_examinations():
    pictures = pd.DataFrame({"patient": [*"aab"], "study": [*"123"], "source": [*"xyz"]})
    labels = pd.DataFrame({"patient": ["b", "a"], "ga_days": [140, 150]}, index=[2, 3])
    with pytest.raises(
        ValueError, match=r"row 3: an age, but this patient has 2 studies .*add a column study"
    ):
        join_labels(pictures, labels)
    labels.loc[3, "ga_days"] = None
    joined, _ = join_labels(pictures, labels)
    assert joined["ga_days"].tolist()[2] == 140


def test_labels_may_name_either_copy_of_a_file(archive, secret, tmp_path, capfd):
    root, truth = archive
    names = [truth["file"][0], "Planted001_copy.dcm"]
    for name in names:
        (tmp_path / f"{len(name)}.csv").write_text(f"file;caption\n{name};a head\n")
        out = tmp_path / f"out{len(name)}"
        run(capfd, root, out, secret, f"--labels={tmp_path / f'{len(name)}.csv'}", "--labelled-only")
        table = pd.read_csv(out / "table.csv")
        assert table["source"].tolist() == [pseudonym(SECRET, "file", name)]
        report = json.loads((out / "ingest.json").read_text())
        assert report["rows of labels without an image"] == []
        assert report["images without a label, left out"] == len({*truth["file"]}) - 1


def test_labels_that_fit_nothing_leave_an_earlier_output_as_it_is(archive, secret, tmp_path, capfd):
    root, truth = archive
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for file in truth["file"][:2]:
        (source / Path(file).name).write_bytes((root / file).read_bytes())
    run(capfd, source, out, secret)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    next(source.iterdir()).unlink()
    (tmp_path / "labels.csv").write_text("patient;plane\nnobody;brain\n")
    with pytest.raises(ValueError, match="none of its rows fits an image by patient"):
        run(capfd, source, out, secret, f"--labels={tmp_path / 'labels.csv'}")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("Patient;GA_days\n1;999\n", r"row 2: ga_days is '999', expected ga_days from 28 to 315"),
        ("patient;split\n1;val\n2;training2\n", r"row 3: split is 'training2', expected one of"),
    ],
)
def test_label_values_are_checked_as_in_a_table(archive, secret, tmp_path, capfd, table, said):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=rf"labels\.csv, {said}"):
        run(capfd, archive[0], tmp_path / "out", secret, f"--labels={tmp_path / 'labels.csv'}")
    assert not (tmp_path / "out").exists()


def test_labels_may_have_names_of_their_own(archive, secret, tmp_path, capfd):
    root, truth = archive
    labels = tmp_path / "labels.csv"
    theirs = {"file": "Datei", "plane": "Ebene", "ga_days": "SSW-Tage"}
    # A column `plane` of other content gives way to the mapped one.
    truth[[*theirs]].rename(columns=theirs).assign(Plane="not this").to_csv(labels, index=False)
    mapped = [f"--column={ours}={their}" for ours, their in theirs.items()]
    run(capfd, root, tmp_path / "out", secret, f"--labels={labels}", *mapped)
    table = pd.read_csv(tmp_path / "out" / "table.csv").set_index("source")
    row = truth.iloc[-1]
    found = table.loc[pseudonym(SECRET, "file", row["file"])]
    assert (found["plane"], found["ga_days"]) == (row["plane"], row["ga_days"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--column=file=Datei"], "--column: names the columns of --labels=TABLE"),
        (
            ["--labels", "--column=image=Datei"],
            r"--column=image=Datei: no such column of labels; one of file, ",
        ),
        (
            ["--labels", "--column=file=datei"],
            r"labels\.csv: 0 columns called 'datei' .* it has Datei, Ebene",
        ),
        (["--labels", "--column=file=Ebene"], r"labels\.csv: 2 columns called 'Ebene'"),
    ],
)
def test_a_mapping_of_labels_that_cannot_be_is_one_line(archive, secret, tmp_path, capfd, options, said):
    labels = tmp_path / "labels.csv"
    labels.write_text("Datei,Ebene,Ebene\na.dcm,brain,brain\n")
    options = [f"--labels={labels}" if option == "--labels" else option for option in options]
    with pytest.raises(ValueError, match=said):
        run(capfd, archive[0], tmp_path / "out", secret, *options)
    assert not (tmp_path / "out").exists()


def test_a_file_name_of_another_encoding_has_an_id_and_can_be_printed(secret, tmp_path, capfd):
    (tmp_path / "source").mkdir()
    name = os.fsdecode(b"M\xfcller.dcm")
    (tmp_path / "source" / name).write_text("no scan")
    run(capfd, tmp_path / "source", tmp_path / "out", secret)
    report = json.loads((tmp_path / "out" / "ingest.json").read_text())
    assert report["files"]["read"] == 1
    _, path = run(
        capfd, tmp_path / "source", tmp_path / "out", secret, "--which", pseudonym(SECRET, "file", name)
    )
    assert path.strip().endswith(r"M\xfcller.dcm")
    path.encode()  # as a terminal would
