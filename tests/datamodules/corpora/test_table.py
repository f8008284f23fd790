"""A user's table is read whatever its form, and each mistake in it is one line that names the row."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from datamodules import TableDataModule
from datamodules.corpora.table import corpus_name, read_table
from datamodules.pairs.image_reading import read_image
from experiments.commands.data import main
from tests.conftest import write_image

ROWS = [
    {"file_name": "img/a.png", "text": "a head, 20 weeks", "patient": "007", "ga_weeks": 20.5, "pixel_size_mm": 0.1},
    {"file_name": "img/b.png", "text": "femur", "patient": "007", "ga_weeks": 20.5, "pixel_size_mm": 0.2},
    {"file_name": "img/c.png", "text": 'a "long" bone', "patient": "8", "ga_weeks": 31.0, "pixel_size_mm": 0.3},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate("abc"):
        write_image(tmp_path / "img" / f"{name}.png", number)
    return tmp_path


def _write(folder: Path, suffix: str, rows=ROWS, name="table") -> Path:
    path = folder / f"{name}{suffix}"
    frame = pd.DataFrame(rows)
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        frame.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False)
    return path


def _csv(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text)
    return path


def test_columns_without_a_name_are_left_out(folder):
    rows = ("image;caption;;", "img/a.png;a head;;see Dr M", "img/b.png;femur;new")
    table = read_table(_csv(folder, "\n".join(rows)))
    assert list(table["caption"]) == [("a head",), ("femur",)]
    assert "" not in table.columns


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".jsonl", ".parquet"])
def test_every_form_gives_the_same_rows(folder, suffix):
    table = read_table(_write(folder, suffix))
    assert list(table.index) == ["img/a.png", "img/b.png", "img/c.png"]
    assert list(table["image"]) == [str(folder / "img" / f"{name}.png") for name in "abc"]
    assert list(table["caption"]) == [("a head, 20 weeks",), ("femur",), ('a "long" bone',)]
    assert list(table["patient"]) == ["007", "007", "8"]
    assert list(table["ga_days"]) == [round(20.5 * 7), round(20.5 * 7), 217]
    assert list(table["pixel_size_mm"]) == [0.1, 0.2, 0.3]
    assert table["hc_mm"].isna().all()
    assert table["plane"].isna().all()


def test_excel_in_german(folder):
    text = "\ufeffFile Name;Pixel Size (mm);GA-weeks;Patient ID\r\nimg\\a.png;0,25;20+3;5\r\n\r\n img/b.png ;;;6\r\n"
    table = read_table(_csv(folder, text), columns={"pixel_size_mm": "Pixel Size (mm)"})
    assert list(table["image"]) == [str(folder / "img" / f"{name}.png") for name in "ab"]
    assert table["pixel_size_mm"].tolist() == [0.25, pytest.approx(np.nan, nan_ok=True)]
    assert table["ga_days"].iloc[0] == 20 * 7 + 3


def test_empty_columns_at_the_end_are_no_columns(folder):
    table = read_table(_csv(folder, "image,patient,,\nimg/a.png,5,,\nimg/b.png,6,,\n,,,\n"))
    assert table["patient"].tolist() == ["5", "6"]
    pd.DataFrame([["image", "patient", None, None], ["img/a.png", "5", None, None]]).to_excel(
        folder / "t.xlsx", header=False, index=False
    )
    assert len(read_table(folder / "t.xlsx")) == 1


def test_captions_as_lists_and_further_columns(folder):
    rows = [
        ROWS[0] | {"text": ["one", " two "], "site": "north"},
        ROWS[1] | {"text": "[1] one", "site": None},
    ]
    for suffix in (".jsonl", ".csv"):
        text = json.dumps(rows[0]["text"]) if suffix == ".csv" else rows[0]["text"]
        table = read_table(_write(folder, suffix, [rows[0] | {"text": text}, rows[1]]))
        assert list(table["caption"]) == [("one", "two"), ("[1] one",)]
        assert table["site"].iloc[0] == "north"
        assert table["site"].isna().iloc[1]


def test_a_folder_as_hugging_face_has_it(folder):
    for split, name in (("train", "a"), ("validation", "b"), ("test", "c")):
        write_image(folder / split / f"{name}.png", 1)
        _write(
            folder / split, ".csv", [{"file_name": f"{name}.png", "text": name, "patient": name}], "metadata"
        )
    table = read_table(folder)
    assert list(zip(table.index, table["split"], strict=True)) == [
        ("test/c.png", "test"),
        ("train/a.png", "train"),
        ("validation/b.png", "val"),
    ]
    _write(folder, ".jsonl", ROWS, "metadata")  # beside the images, it is for all of them
    assert list(read_table(folder).index) == ["img/a.png", "img/b.png", "img/c.png"]


def test_a_split_column_outweighs_the_name_of_the_folder(folder):
    write_image(folder / "train" / "a.png", 1)
    rows = [{"file_name": "a.png", "patient": "a", "split": "test"}]
    _write(folder / "train", ".csv", rows, "metadata")
    assert list(read_table(folder)["split"]) == ["test"]


def test_ages_in_days_outweigh_ages_in_weeks(folder):
    table = read_table(_csv(folder, "image,patient,ga_days,ga_weeks\nimg/a.png,1,143,20\nimg/b.png,2,,21\n"))
    assert table["ga_days"].tolist() == [143, 147]


@pytest.mark.parametrize("days", range(7))
def test_ages_in_weeks_and_days(folder, days):
    lines = ("image,patient,ga_days,ga_weeks", f"img/a.png,1,20+{days},", f"img/b.png,2,,20w{days}d")
    assert read_table(_csv(folder, "\n".join(lines)))["ga_days"].tolist() == [140 + days] * 2


def test_rows_of_a_table_without_header_count_from_1(folder):
    path = _write(folder, ".parquet", [*ROWS[:2], ROWS[2] | {"pixel_size_mm": 12.0}])
    with pytest.raises(ValueError, match=r"table.parquet, row 3: pixel_size_mm is '12'"):
        read_table(path)


def test_a_folder_without_a_table(folder):
    with pytest.warns(UserWarning, match="no patient column; each image counts as a patient of its own"):
        table = read_table(folder)
    assert list(table.index) == list(table["patient"]) == ["img/a.png", "img/b.png", "img/c.png"]
    with pytest.raises(FileNotFoundError, match=r"neither images nor a table metadata.csv"):
        read_table(Path(__file__).parent)


def test_mapped_columns_and_another_folder_of_images(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("tables")
    rows = [{"bild": "a.png", "Befund": "Kopf", "text": "unused", "pat": "1"}]
    columns = {"image": "bild", "caption": "Befund", "patient": "pat"}
    table = read_table(_write(elsewhere, ".csv", rows), columns, images=folder / "img")
    assert table["image"].tolist() == [str(folder / "img" / "a.png")]
    assert table["caption"].tolist() == [("Kopf",)]
    assert table["text"].tolist() == ["unused"]


HEAD = "image,patient,split,hc_mm,pixel_size_mm,ga_days\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,patient\nimg/a.png,1\n", r"table.csv: no column of images \(image, file_name, .* it has picture"),
        (f"image,text\nimg/a.png,{'x' * 131_073}\n", r"table.csv: not a readable CSV file \(field larger than"),
        ("image,image\n", "two columns are called 'image'"),
        ("image,patient\n", "table.csv: no rows"),
        ("image,patient\n,1\n", r"table.csv, row 2: image is empty"),
        ("image,text\nimg/a.png,a head, at term\n", "row 2: 3 values where the header has 2; put"),
        ("image,patient\nimg/a.png,1\n\nimg/a.png,2\n", r"row 4: img/a.png is also in row 2; give an image's captions"),
        ("image,patient\nimg/x.dcm,1\n", "row 2: img/x.dcm is a DICOM file; sonodistill data ingest"),
        ("image,patient\n../img/a.png,1\n", "row 2: ../img/a.png is outside of .*; IMAGES=folder"),
        ("\n\nimage,hc_mm\nimg/a.png,17\n", "row 4: hc_mm is '17'"),
        (HEAD + "img/a.png,1,holdout,,,\n", "row 2: split is 'holdout', expected one of train"),
        (HEAD + "img/a.png,1,,,,\nimg/b.png,1,,,0.012,\n", "row 3: pixel_size_mm is '0.012', .* is it in centimetres?"),
        (HEAD + "img/a.png,1,,,120,\n", "row 2: pixel_size_mm is '120', .* is it in micrometres?"),
        (HEAD + "img/a.png,1,,,wide,\n", "row 2: pixel_size_mm is 'wide', expected pixel_size_mm from 0.02 to 2$"),
        (HEAD + "img/a.png,1,,,-0.1,\n", "row 2: pixel_size_mm is '-0.1', expected pixel_size_mm from 0.02 to 2$"),
        (HEAD + "img/a.png,1,,17.5,,\n", "row 2: hc_mm is '17.5', .* is it in centimetres?"),
        (HEAD + "img/a.png,1,,,,20\n", "row 2: ga_days is '20', .* is it in weeks?"),
        (HEAD + "img/a.png,1,,,,30\nimg/b.png,1,,,,41\n", "row 3: ga_days is '41', and none is larger; .* weeks?"),
        (HEAD.replace("days", "weeks") + "img/a.png,1,,,,143\n", "row 2: ga_weeks is '143', .* is it in days?"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_that_names_the_row(folder, text, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_table(_csv(folder, text))
    assert "\n" not in str(raised.value)


def test_missing_images_are_counted_or_left_out(folder):
    path = _csv(folder, "image,patient\nimg/a.png,1\nimg/x.png,2\nnowhere/y.png,3\n")
    message = r"table.csv: 2 of 3 images missing under .*: img/x.png \(row 3\), nowhere/y.png \(row 4\); IMAGES=folder "
    with pytest.raises(FileNotFoundError, match=message):
        read_table(path)
    missing = []
    assert list(read_table(path, missing=missing).index) == ["img/a.png"]
    assert missing == ["img/x.png (row 3)", "nowhere/y.png (row 4)"]


def test_links_out_of_the_folder_need_permission(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("secret")
    write_image(secret / "s.png", 9)
    (folder / "link").symlink_to(secret)
    (folder / "img" / "linked.png").symlink_to(secret / "s.png")
    (folder / "img" / "within.png").symlink_to(folder / "img" / "a.png")
    for name in ("link/s.png", "img/linked.png", str(secret / "s.png")):
        path = _csv(folder, f"image,patient\n{name},1\n")
        with pytest.raises(ValueError, match=f"row 2: {name} is outside of"):
            read_table(path)
        assert read_table(path, outside=True)["image"].tolist() == [str(secret / "s.png")]
    assert len(read_table(_csv(folder, "image,patient\nimg/within.png,1\n"))) == 1


def test_unknown_names_are_refused(folder):
    path = _write(folder, ".csv")
    with pytest.raises(ValueError, match=r"no column 'befund' \(columns.caption\); it has file_name, text"):
        read_table(path, {"caption": "befund"})
    with pytest.raises(ValueError, match=r"columns.captoin: no such column; one of image, caption"):
        read_table(path, {"captoin": "text"})
    with pytest.raises(FileNotFoundError, match=r"nothing.csv: no such table or folder"):
        read_table(folder / "nothing.csv")
    with pytest.raises(ValueError, match=r"a.png: not a table; its name must end with one of .csv"):
        read_table(folder / "img" / "a.png")
    for suffix in ("parquet", "xlsx"):
        (folder / f"broken.{suffix}").write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=rf"broken.{suffix}: not a readable {suffix} file \("):
            read_table(folder / f"broken.{suffix}")


def test_a_hundred_thousand_rows_take_one_listing_a_folder(folder, monkeypatch):
    lines = ["image,patient,text"]
    (folder / "many").mkdir()
    for number in range(1000):
        (folder / "many" / f"{number}.png").touch()
        lines.append(f"many/{number}.png,{number // 4},text {number}")
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_table(_csv(folder, "\n".join(lines)))
    assert len(table) == 1000
    assert listed == [folder / "many"]


FADA = {
    "Folder Name": "Abdomen", "Image Name": "1.png", "Q1: Anatomical Structures": "liver,\n stomach",
    "Q2: Fetal Orientation": "axial", "Q3: Imaging Plane": "Transverse plane", "Q4: Biometric Measurements": "AC",
    "Q5: Gestational Age": "20-24 weeks", "Q6: Image Quality": None, "Q7: Normality Assessment": "normal",
    "Q8: Clinical Recommendations": "monitor growth",
}  # fmt: skip


def test_fadas_answers_become_captions(tmp_path, tiny_hc18, tiny_planes, capsys):
    write_image(tmp_path / "fada" / "Abdomen" / "1.png", 500)
    copied = read_image(tiny_hc18 / "training_set" / "001_HC.png")
    cv2.imwrite(str(tmp_path / "fada" / "Abdomen" / "2.jpg"), copied)
    rows = [FADA, FADA, FADA | {"Image Name": "2.jpg"}, FADA | {"Image Name": "private.png"}]
    rows += [FADA | {"Image Name": "3.png", "Q1: Anatomical Structures": " "}]
    table = _write(tmp_path / "fada", ".xlsx", rows)
    missing: list[str] = []
    with pytest.warns(UserWarning, match="no patient column"):
        read = read_table(table, missing=missing)
    assert missing == ["Abdomen/private.png (row 5)"]
    assert dict(read["caption"]) == dict.fromkeys(
        ["Abdomen/1.png", "Abdomen/2.jpg"],
        (
            "Transverse plane; liver, stomach",
            "Transverse plane; axial; liver, stomach; AC",
            "Transverse plane; 20-24 weeks; normal",
        ),
    )
    write = ["shards", str(tmp_path / "shards"), f"--table={table}", "--skip-missing", "--no-exclude-test"]
    for more in ([], ["--column=plane=Q3: Imaging Plane"]):
        with (
            pytest.warns(UserWarning, match="no patient"),
            pytest.raises(ValueError, match="--exclude=hc18:FOLDER --exclude=planes:"),
        ):
            main([*write, *more])
    own = _write(tmp_path / "fada", ".csv", rows[:1], "own")
    with (
        pytest.warns(UserWarning, match="no pat"),
        pytest.raises(ValueError, match="FADA has images of the bench"),
    ):
        _ = TableDataModule(str(own)).records
    without = [f"--exclude=hc18:{tiny_hc18}", f"--exclude=planes:{tiny_planes}", "--workers=1"]
    with pytest.warns(UserWarning, match="no patient"):
        assert main([*write, *without]) == 0
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert [shard["samples"] for shard in manifest["shards"]] == [1]
    assert manifest["sources"][0]["benchmark_copies_left_out"] == {"hc18": 1}
    assert "1 row without an image file left out: Abdomen/private.png" in capsys.readouterr().out


def test_fadas_missing_answers_are_no_captions(tmp_path):
    write_image(tmp_path / "Abdomen" / "1.png", 1)
    nothing = {"Q4: Biometric Measurements": "None", "Q6: Image Quality": "N/A"}
    with pytest.warns(UserWarning, match="no patient column"):
        (captions,) = read_table(_write(tmp_path, ".csv", [FADA | nothing]))["caption"]
    assert captions[1:] == (
        "Transverse plane; axial; liver, stomach",
        "Transverse plane; 20-24 weeks; normal",
    )


def test_a_column_of_fadas_table_that_is_there_twice_is_named(tmp_path):
    pd.DataFrame([[*FADA.values(), "again"]], columns=[*FADA, "Image Name"]).to_excel(
        tmp_path / "a.xlsx", index=False
    )
    with pytest.raises(ValueError, match=r"a.xlsx: two columns are called 'Image Name'"):
        read_table(tmp_path / "a.xlsx")


def test_a_name_is_found_however_accents_are_written(tmp_path):
    write_image(tmp_path / "Mu\u0308ller.png", 1)
    write_image(tmp_path / "Jos\u00e9.png", 2)
    table = read_table(_csv(tmp_path, "image,patient\nM\u00fcller.png,1\nJose\u0301.png,2\n"))
    assert [Path(path).is_file() for path in table["image"]] == [True, True]


def test_a_folder_of_images_has_the_splits_of_its_folders_and_nothing_hidden(tmp_path):
    for name in ("train/a.png", "train/more/b.png", "Validation/c.png", "test/d.png", ".cache/x.png"):
        write_image(tmp_path / name, len(name))
    with pytest.warns(UserWarning, match="no patient column"):
        splits = read_table(tmp_path)["split"].to_dict()
    assert splits == {
        "Validation/c.png": "val", "test/d.png": "test", "train/a.png": "train", "train/more/b.png": "train"
    }  # fmt: skip
    write_image(tmp_path / "e.png", 5)
    with pytest.warns(UserWarning, match="no patient column"):
        assert read_table(tmp_path)["split"].isna().all()


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("clinic a/table.csv", "clinic_a"),
        ("b/metadata.jsonl", "b"),
        ("b/captions.csv", "captions"),
        ("frames", "frames"),
    ],
)
def test_a_table_with_a_common_name_has_that_of_its_folder(table, name):
    assert corpus_name(Path(table)) == name


def test_the_output_of_ingest_is_its_table(folder):
    (folder / "table.csv").write_text("image\nimg/a.png\n")
    assert len(read_table(folder)) > 1
    (folder / "ingest.json").write_text("{}")
    assert [*read_table(folder).index] == ["img/a.png"]
