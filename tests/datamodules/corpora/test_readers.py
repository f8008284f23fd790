"""Corpus readers accept common variants of the files and name the faults of others."""

from __future__ import annotations

import csv
import shutil

import pytest
from PIL import Image

from datamodules import FetalPlanesDataModule, HC18DataModule, read_fetal_planes, read_hc18
from datamodules.pairs.image_reading import read_image
from metrics.growth_chart import head_circumference_mm


def _rewrite(path, change):
    path.write_text(change(path.read_text()))


def _flagged(root, flag):
    """Return the images whose column Train has this flag; the set's authors mark their training set with 1."""
    with (root / "FETAL_PLANES_DB_data.csv").open(newline="") as table:
        rows = csv.DictReader(table, delimiter=";")
        return {row["Image_name"] for row in rows if row["Train "].strip() == flag}


def test_hc18_reads_its_official_layout(tiny_hc18):
    records = read_hc18(tiny_hc18)
    assert len(records) == 36
    assert len({record.patient for record in records}) == 30
    second = next(record for record in records if record.name == "005_2HC.png")
    assert second.patient == "005"
    assert second.pixel_size_mm == pytest.approx(0.11)
    assert head_circumference_mm(second.ga_days / 7) == pytest.approx(second.hc_mm, rel=0.005)


def test_hc18_patients_with_repeat_scans_stay_in_one_split(tiny_hc18):
    for seed in range(20):
        data = HC18DataModule(root=str(tiny_hc18), val_share=0.2, test_share=0.3, split_seed=seed)
        sides = {split: {r.name: r.patient for r in data.split(split)} for split in ("train", "val", "test")}
        assert sum(map(len, sides.values())) == 36
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            assert not set(sides[one].values()) & set(sides[other].values())
        for side in sides.values():
            assert ("010_HC.png" in side) == ("010_2HC.png" in side)


def test_real_hc18(hc18_root):
    records = read_hc18(hc18_root)
    names = {record.name for record in records}
    assert len(names) == len(records) >= 600
    assert any(name.endswith("_4HC.png") for name in names)
    assert 0.04 < min(r.pixel_size_mm for r in records) < max(r.pixel_size_mm for r in records) < 0.4
    data = HC18DataModule(root=str(hc18_root))
    patients = {split: {r.patient for r in data.split(split)} for split in ("train", "val", "test")}
    assert not patients["train"] & patients["val"]
    assert not patients["train"] & patients["test"]
    assert not patients["val"] & patients["test"]
    total = sum(map(len, patients.values()))
    assert len(patients["val"]) / total == pytest.approx(0.1, abs=0.04)
    assert len(patients["test"]) / total == pytest.approx(0.2, abs=0.05)
    several = {r.patient for r in records if "2HC" in r.name}
    assert any(patient in patients["test"] for patient in several)


def test_fetal_planes_reads_its_official_layout(tiny_planes):
    records = read_fetal_planes(tiny_planes)
    assert len(records) == 72
    assert {record.plane for record in records} == {"brain", "abdomen", "heart", "femur", "cervix", "other"}
    brains = [record for record in records if record.plane == "brain"]
    assert {record.brain_plane for record in brains} <= {
        "trans-thalamic",
        "trans-cerebellum",
        "trans-ventricular",
        "other",
    }
    assert all(record.brain_plane is None for record in records if record.plane != "brain")
    for split, flag in (("train", "1"), ("test", "0")):
        chosen = [record for record in records if record.split == split]
        assert {record.name for record in chosen} == _flagged(tiny_planes, flag)
        assert {int(record.patient) <= 18 for record in chosen} == {flag == "1"}
    assert records[0].operator == "Op. 1"
    assert records[0].machine == "Voluson E6"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: "\ufeff" + text, id="byte-order mark"),
        pytest.param(lambda text: text.replace(";", ","), id="commas"),
        pytest.param(lambda text: text.replace("Train ", "Train"), id="no trailing blank"),
        pytest.param(lambda text: text.replace("Fetal brain", "Fetal brain  "), id="trailing blanks"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="Windows line ends"),
        pytest.param(lambda text: text + "\n\n", id="empty lines"),
    ],
)
def test_variants_of_the_table_give_equal_records(tiny_planes, change):
    expected = read_fetal_planes(tiny_planes)
    _rewrite(tiny_planes / "FETAL_PLANES_DB_data.csv", change)
    assert read_fetal_planes(tiny_planes) == expected


def test_images_in_subfolders_and_other_extensions(tiny_planes):
    images = sorted((tiny_planes / "Images").iterdir())
    for number, path in enumerate(images[:6]):
        target = tiny_planes / "Images" / f"part{number % 2}" / path.with_suffix(".JPG").name
        target.parent.mkdir(exist_ok=True)
        Image.open(path).save(target, format="JPEG")
        path.unlink()
    records = {record.name: record for record in read_fetal_planes(tiny_planes)}
    assert records[images[0].stem].image.suffix == ".JPG"
    assert read_image(records[images[0].stem].image).shape == (44, 64)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Fetal femur", "Fetal foot", r"DB_data.csv, row \d+: Plane is 'Fetal foot', expected one"),
        ("Trans-thalamic", "Trans-galactic", "Brain_plane is 'Trans-galactic'"),
        ("Patient_num;", "Patient;", r"columns \['Patient_num'\] are missing; the header is"),
        (";1 \n", ";yes \n", "Train is 'yes'"),
    ],
)
def test_malformed_tables_are_errors(tiny_planes, old, new, message):
    _rewrite(tiny_planes / "FETAL_PLANES_DB_data.csv", lambda text: text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_fetal_planes(tiny_planes)


@pytest.mark.parametrize("value", ["-0.1", "0", "nan", "inf", "wide"])
def test_impossible_pixel_sizes_name_the_row(tiny_hc18, value):
    _rewrite(tiny_hc18 / "training_set_pixel_size_and_HC.csv", lambda text: text.replace("0.1020", value))
    with pytest.raises(ValueError, match=r"row 4: pixel size\(mm\) is"):
        read_hc18(tiny_hc18)


def test_a_cell_of_more_than_131072_characters_is_one_line(tiny_hc18):
    table = tiny_hc18 / "training_set_pixel_size_and_HC.csv"
    lines = table.read_text().splitlines()
    lines[3] = f"{'x' * 131_073},0.2,180"
    table.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"HC.csv: not a readable CSV file \(field larger than field limit"):
        read_hc18(tiny_hc18)


def test_all_missing_images_are_reported_at_once(tiny_hc18):
    for number in (1, 2, 3, 4, 6, 7, 8):
        (tiny_hc18 / "training_set" / f"00{number}_HC.png").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"7 of 36 images missing under .*: 001_HC.png, 002_HC.png, 003_HC.png, 004",
    ) as error:
        read_hc18(tiny_hc18)
    assert str(error.value).endswith(
        f", ...; to list all: make check-data DATA=hc18 ROOT={tiny_hc18} ARGS=--all"
    )


def test_an_image_of_that_name_in_another_folder_does_not_replace_a_missing_one(tiny_hc18):
    image = next((tiny_hc18 / "training_set").glob("*_HC.png"))
    (tiny_hc18 / "test_set").mkdir()
    image.rename(tiny_hc18 / "test_set" / image.name)
    with pytest.raises(FileNotFoundError, match=rf"1 of 36 images missing under .*: {image.name};"):
        read_hc18(tiny_hc18)


def test_an_empty_file_name_names_its_row(tiny_hc18, tiny_planes):
    hc18, planes = tiny_hc18 / "training_set_pixel_size_and_HC.csv", tiny_planes / "FETAL_PLANES_DB_data.csv"
    _rewrite(hc18, lambda text: text.replace("001_HC.png,", ",", 1))
    with pytest.raises(ValueError, match=r"HC.csv, row 4: filename is empty"):
        read_hc18(tiny_hc18)
    _rewrite(hc18, lambda text: text.replace("\n,", "\nhead.png,", 1))
    with pytest.raises(ValueError, match=r"HC.csv, row 4: no patient is recognised \(head.png\)"):
        read_hc18(tiny_hc18)
    name = planes.read_text().splitlines()[1].split(";")[0]
    _rewrite(planes, lambda text: text.replace(name, " ", 1))
    with pytest.raises(ValueError, match=r"data.csv, row 2: Image_name is empty"):
        read_fetal_planes(tiny_planes)


def test_a_missing_folder_names_the_expected_files_and_their_source(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"folder .*nowhere does not exist; expected .*grand-challenge"
    ):
        read_hc18(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no FETAL_PLANES_DB_data.csv; expected .*zenodo.org"):
        read_fetal_planes(tmp_path)


def test_an_ambiguous_image_is_an_error(tiny_hc18):
    source = tiny_hc18 / "training_set" / "007_HC.png"
    for folder in ("a", "b"):
        (source.parent / folder).mkdir()
        shutil.copy(source, source.parent / folder)
    read_hc18(tiny_hc18)  # training_set itself comes first
    source.unlink()
    with pytest.raises(ValueError, match=r"007_HC.png fits several files"):
        read_hc18(tiny_hc18)


def test_validation_patients_come_from_the_official_training_set(tiny_planes):
    data = FetalPlanesDataModule(root=str(tiny_planes), val_share=0.3)
    assert {record.name for record in data.split("test")} == _flagged(tiny_planes, "0")
    assert {record.name for record in data.split("train") + data.split("val")} == _flagged(tiny_planes, "1")
    train, val = ({r.patient for r in data.split(split)} for split in ("train", "val"))
    assert val
    assert not train & val


def test_a_patient_in_both_official_sets_is_named(tiny_planes):
    table = tiny_planes / "FETAL_PLANES_DB_data.csv"
    lines = table.read_text().splitlines()
    row = lines[1].split(";")
    assert row[-1].strip() == "1"
    name, patient = row[:2]
    other = next(line.split(";")[0] for line in lines if line.split(";")[-1].strip() == "0")
    moved = [line.replace(f"{other};{line.split(';')[1]};", f"{other};{patient};") for line in lines]
    table.write_text("\n".join(moved) + "\n")
    with pytest.raises(
        ValueError, match=f"patient {patient} is in several splits: .* in train, {other} in test"
    ):
        _ = FetalPlanesDataModule(str(tiny_planes)).records
    assert name != other


def test_splits_do_not_depend_on_the_other_patients(tiny_hc18):
    before = {record.name: record.split for record in HC18DataModule(root=str(tiny_hc18)).records}
    path = tiny_hc18 / "training_set_pixel_size_and_HC.csv"
    _rewrite(path, lambda text: "\n".join(text.splitlines()[:1] + text.splitlines()[10:]))
    after = {record.name: record.split for record in HC18DataModule(root=str(tiny_hc18), seed=5).records}
    assert after == {name: before[name] for name in after}


def test_a_sub_plane_of_a_picture_that_is_no_brain_does_not_count(tiny_planes):
    table = tiny_planes / "FETAL_PLANES_DB_data.csv"
    text = table.read_text()
    assert "Fetal femur;Not A Brain" in text
    table.write_text(text.replace("Fetal femur;Not A Brain", "Fetal femur;Trans-thalamic"))
    records = FetalPlanesDataModule(str(tiny_planes)).records
    assert {record.brain_plane for record in records if record.plane == "femur"} == {None}
