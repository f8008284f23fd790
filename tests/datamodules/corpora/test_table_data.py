"""A table trains, is checked and becomes shards as the public sets do."""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict

import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from datamodules import Record, TableDataModule
from datamodules.corpora.cells import separated
from datamodules.pairs.captions import caption_templates
from datamodules.record import PackedRecords, further_groups
from experiments.commands import data as data_command
from metrics.growth_chart import head_circumference_mm
from tests.conftest import write_image

PLANES = ("brain", "Fetal femur", "spine")


def rows_of(patients=20):
    return [
        {
            "image": f"{patient}_{shot}.png", "patient": f"p{patient}", "text": f"picture {shot} of {patient}",
            "plane": PLANES[patient % 3], "site": f"site {patient % 2}", "note": f"note {patient} {shot}",
        }
        for patient in range(patients)
        for shot in range(2)
    ]  # fmt: skip


def write(folder, rows, name="table.csv"):
    for number, row in enumerate(rows):
        if not (folder / row["image"]).exists():
            write_image(folder / row["image"], number)
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return folder / name


def splits_of(records):
    found = defaultdict(set)
    for record in records:
        found[record.patient].add(record.split)
    return found


def test_patients_are_split_whole_and_columns_kept(tmp_path):
    data = TableDataModule(str(write(tmp_path, rows_of(60))))
    splits = splits_of(data.records)
    assert all(len(sides) == 1 for sides in splits.values())
    assert {side for sides in splits.values() for side in sides} == {"train", "val", "test"}
    record = data.records[2]
    assert (record.plane, record.others) == ("femur", {"site": "site 1"})  # `note` has too many values
    assert caption_templates(record) == ("picture 0 of 1",)


def test_a_given_split_is_kept_and_gives_up_validation_patients(tmp_path):
    rows = [row | {"split": "test" if number < 20 else "train"} for number, row in enumerate(rows_of(60))]
    data = TableDataModule(str(write(tmp_path, rows)), val_share=0.3)
    assert {r.name for r in data.split("test")} == {row["image"] for row in rows[:20]}
    assert 0 < len(data.split("val")) < 60
    rows[21]["split"] = "test"
    with pytest.raises(
        ValueError, match=r"patient p10 is in several splits: 10_0.png in train, 10_1.png in test"
    ):
        _ = TableDataModule(str(write(tmp_path, rows))).records


def test_a_given_split_with_validation_patients_is_kept_without_a_test_split(tmp_path):
    rows = [row | {"split": "val" if row["patient"] in ("p3", "p8", "p11") else "train"} for row in rows_of()]
    data = TableDataModule(str(write(tmp_path, rows)))
    assert {record.name: record.split for record in data.records} == {r["image"]: r["split"] for r in rows}


def test_captions_are_written_from_columns(tmp_path):
    rows = [{"image": "a.png", "patient": "1", "hc_mm": "180", "pixel_size_mm": "0.2"}]
    (record,) = TableDataModule(str(write(tmp_path, rows))).records
    assert record.plane == "brain"
    assert head_circumference_mm(record.ga_days / 7) == pytest.approx(180, rel=0.005)
    weeks, days = divmod(record.ga_days, 7)
    assert f"fetal head at {weeks} weeks and {days} days, pixel spacing {{spacing}} mm" in caption_templates(
        record
    )
    rows = [{"image": "a.png", "patient": "1", "plane": "spine"}]
    with pytest.raises(
        ValueError, match=r"1 row of 1, such as a.png \(\w+\), without caption \(columns caption"
    ):
        _ = TableDataModule(str(write(tmp_path, rows))).records


@pytest.mark.parametrize(("split", "refused"), [("train", False), ("val", True), ("test", True)])
def test_only_training_images_may_lack_a_caption(tmp_path, split, refused):
    rows = [
        {"image": f"{s}.png", "patient": s, "split": s, "text": "a head"} for s in ("train", "val", "test")
    ]
    rows += [{"image": "x.png", "patient": "x", "split": split, "text": ""}]
    data = TableDataModule(str(write(tmp_path, rows)), on_error="skip")
    if refused:
        with pytest.raises(ValueError, match=rf"1 row of 4, such as x.png \({split}\), without caption"):
            _ = data.records
    else:
        assert len(data.records) == 4


def test_packed_records_are_the_same_records(tmp_path):
    record = Record(
        "table", "a", tmp_path / "a.png", "p", caption=("one", "two"), hc_mm=1.5, others={"site": "x"}
    )
    other = Record("hc18", "b", tmp_path / "b.png", "q", ga_days=7)
    packed = PackedRecords([record, other])
    assert list(packed) == [record, other]
    assert packed[-1] == other
    assert list(PackedRecords([])) == []


def test_columns_that_number_images_are_no_subgroups(tmp_path):
    """Those of `data ingest`; each would be a group of one image."""
    numbers = {"study": "1", "source": "2", "frame": "3", "model": "V8"}
    assert further_groups([Record("table", "a", tmp_path / "a.png", "p", others=numbers)]) == {
        "model": ["V8"]
    }


def test_check_finds_the_faults_of_a_table(tmp_path, capsys):
    rows = rows_of()
    rows[0] |= {"text": "word " * 90}
    rows[2] |= {"text": "", "plane": "spine"}
    table = write(tmp_path, rows)
    (tmp_path / "3_0.png").write_bytes((tmp_path / "4_0.png").read_bytes())
    Image.new("L", (60, 40)).save(tmp_path / "5_1.png")
    (tmp_path / "6_0.png").write_bytes(b"no picture")
    (tmp_path / "7_0.png").unlink()
    sheet = tmp_path / "sheet.png"
    assert data_command.main(["check", "table", str(table), "--all", "--workers=1", f"--sheet={sheet}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "missing images: 7_0.png (row 16)" in lines
    assert "identical images of several patients: 3_0.png = 4_0.png" in lines
    assert "blank images: 5_1.png" in lines
    assert "images without caption: 1_0.png" in lines
    assert "captions beyond the context length: 0_0.png (92 tokens)" in lines
    assert any(line.startswith("unreadable images: ") and "6_0.png" in line for line in lines)
    assert Image.open(sheet).width > 500


def test_check_of_several_tables_finds_a_leak_between_them(tmp_path, capsys):
    first = write(tmp_path, [row | {"split": "train"} for row in rows_of(4)], "first.csv")
    second = write(tmp_path, [row | {"split": "test"} for row in rows_of(2)], "second.csv")
    assert data_command.main(["check", "table", str(first), str(second), "--workers=1", "--all"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "patients in several splits: patient p1 (test, train)" in lines
    assert f"identical images across splits: {first}: 1_0.png = {second}: 1_0.png" in lines


def test_check_of_several_tables_does_not_take_names_of_images_for_patients(tmp_path, capsys):
    tables = []
    for number, split in enumerate(("train", "test")):
        (tmp_path / split).mkdir()
        write_image(tmp_path / split / "0.png", number)
        tables.append(write(tmp_path / split, [{"image": "0.png", "split": split, "text": "a head"}]))
    assert data_command.main(["check", "table", *map(str, tables), "--workers=1", "--all"]) == 0
    assert f"patients unknown: {tables[1]}: 0.png" in capsys.readouterr().out.splitlines()


def test_check_names_rows_without_a_split(tmp_path, capsys):
    rows = [row | {"split": "train" if number else ""} for number, row in enumerate(rows_of(2))]
    assert data_command.main(["check", "table", str(write(tmp_path, rows)), "--workers=1", "--all"]) == 1
    assert "rows without a split: 0_0.png" in capsys.readouterr().out.splitlines()


def test_names_of_files_are_no_markup(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = [{"image": f"{name}.png", "patient": name, "text": "a head"} for name in ("[b]", "x[/b]")]
    table = write(tmp_path, rows, "[t].csv")
    for row in rows:
        (tmp_path / row["image"]).unlink()
    assert data_command.main(["check", "table", str(table), "--workers=1"]) == 1
    shown = capsys.readouterr().out
    assert "[b].png (row 2), x[/b].png (row 3)" in shown
    assert "[t].csv" in shown


def test_shards_of_a_table_hold_nothing_identifying(tmp_path):
    rows = [
        row | {"image": f"Doe_Jane_{row['image']}", "patient": f"MRN77{row['patient']}"} for row in rows_of()
    ]
    table = write(tmp_path, rows)
    note = PngImagePlugin.PngInfo()
    note.add_text("Patient", "Jane Doe")
    for row in rows:
        Image.open(tmp_path / row["image"]).save(tmp_path / row["image"], pnginfo=note)
    assert data_command.main(["shards", str(tmp_path / "out"), f"--table={table}"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["complete"]
    kept = manifest["sources"][0]["counts"]["images"]
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    with tarfile.open(tmp_path / "out" / "pairs-000000.tar") as tar:
        names = tar.getnames()
    assert 0 < kept < 40
    assert len({name.split(".")[0] for name in names}) == kept
    assert not any(secret in content for secret in (b"Doe", b"Jane", b"MRN"))


def test_separators_within_quotes_do_not_count(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('image;"GA (weeks, days, total)"\na.png;"20, 3, 143"\n')
    assert separated(path).to_dict("records") == [{"image": "a.png", "GA (weeks, days, total)": "20, 3, 143"}]
