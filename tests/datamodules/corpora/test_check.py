"""Corpus checks find every kind of fault and report nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from datamodules.corpora.check import (
    check_counts,
    check_duplicates,
    check_files,
    check_measurements,
    check_splits,
)
from datamodules.corpora.copies import scan_images
from datamodules.corpora.public import CORPORA
from experiments.commands.data import main
from tests.conftest import write_image


def _level(findings, check):
    return next(finding for finding in findings if finding.check == check)


def _scan(records):
    return scan_images(records, 1)


def _hc18(root):
    return CORPORA["hc18"].assign_splits(CORPORA["hc18"].read(root))


def test_a_valid_corpus_has_no_findings(tiny_hc18):
    records = _hc18(tiny_hc18)
    images = _scan(records)
    findings = [*check_files([], images), *check_splits(images), *check_duplicates(images)]
    findings += check_counts(records, {"images": 36, "patients": 30, "plane brain": 36})
    assert {finding.level for finding in findings} == {"ok"}


def test_missing_unreadable_and_blank_images_are_found(tiny_hc18):
    records = _hc18(tiny_hc18)
    records[3].image.write_text("broken")
    cv2.imwrite(str(records[5].image), np.zeros((9, 9), np.uint8))
    findings = check_files(["gone.png"], _scan(records))
    assert _level(findings, "missing images").detail == "1: gone.png"
    assert records[3].name in _level(findings, "unreadable images").detail
    assert _level(findings, "unreadable images").level == "error"
    assert _level(findings, "blank images").detail.startswith(f"1: {records[5].name}; ")


@pytest.mark.parametrize(("bits", "contrast"), [(8, 1), (12, 14), (16, None)])
def test_dark_sixteen_bit_images_are_found(tiny_hc18, bits, contrast):
    record = _hc18(tiny_hc18)[3]
    pixels = cv2.imread(str(record.image), cv2.IMREAD_GRAYSCALE).astype(np.float64)
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    assert cv2.imwrite(str(record.image), np.round(pixels * (2**bits - 1) * 0.9).astype(np.uint16))
    finding = _level(check_files([], _scan([record])), "nearly black or flat images")
    if contrast is None:
        assert finding.level == "ok"
    else:
        assert finding.level == "warning"
        assert finding.detail.startswith(
            f"1: {record.name} ({contrast}); 16-bit pixels are read as 0-65535: "
        )


def test_identical_pictures_are_found_in_any_format(tiny_hc18):
    records = _hc18(tiny_hc18)
    by_split = {split: [r for r in records if r.split == split] for split in ("train", "test")}
    source, target = by_split["train"][0], by_split["test"][0]
    colour = cv2.imread(str(source.image), cv2.IMREAD_COLOR)
    assert cv2.imwrite(str(target.image), colour, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert _scan([source, target])["pixel_digest"].nunique() == 1
    one = next(r for r in by_split["train"] if r.patient != source.patient)
    two = next(r for r in by_split["train"] if r.patient not in (source.patient, one.patient))
    shutil.copy(one.image, two.image)
    findings = check_duplicates(_scan(records))
    leak = _level(findings, "identical images across splits")
    assert leak.level == "error"
    assert {source.name, target.name} <= set(leak.detail.removeprefix("1: ").split(" = "))
    assert _level(findings, "identical images of several patients").level == "warning"
    assert _level(findings, "identical images of one patient").level == "ok"


def test_patients_in_several_splits_are_found(tiny_hc18):
    records = _hc18(tiny_hc18)
    torn = [replace(records[0], split="test"), replace(records[0], split="train", name="x")]
    finding = _level(check_splits(_scan(torn + records[4:])), "patients in several splits")
    assert finding.level == "error"
    assert finding.detail.startswith(f"1: patient {records[0].patient} (test, train")


def test_implausible_measurements_are_found(tiny_hc18):
    records = _hc18(tiny_hc18)
    records = [replace(record, pixel_size_mm=1.5, hc_mm=100.0) for record in records[:1]] + [
        replace(records[1], pixel_size_mm=0.2, hc_mm=900.0),
        replace(records[2], pixel_size_mm=0.02, hc_mm=200.0),
        replace(records[3], pixel_size_mm=0.5, hc_mm=50.0),
    ]
    findings = check_measurements(_scan(records))
    sizes, heads = (_level(findings, f"odd {name}") for name in ("pixel sizes", "head circumferences"))
    assert sizes.detail == f"2: {records[0].name} (1.5 mm), {records[2].name} (0.02 mm)"
    assert heads.detail == f"1: {records[1].name} (900 mm)"
    misfits = _level(findings, "heads larger than their image")
    assert misfits.level == "error"
    assert records[2].name in misfits.detail
    assert records[3].name not in misfits.detail
    assert check_measurements(_scan([replace(r, pixel_size_mm=None) for r in records])) == []


def test_the_command_prints_a_table_and_an_exit_code(tiny_planes, capsys):
    assert main(["check", "planes", str(tiny_planes), "--workers", "1"]) == 0
    assert main(["check", "planes", str(tiny_planes), "--workers", "1", "--strict"]) == 1  # other counts
    assert "72 of 12400" in capsys.readouterr().out
    for path in sorted((tiny_planes / "Images").iterdir())[:2]:
        path.unlink()
    assert main(["check", "planes", str(tiny_planes), "--workers", "2"]) == 1
    out = capsys.readouterr().out
    assert "70 of 12400" in out
    assert "2: Patient00001_Plane" in " ".join(out.split())


def test_the_command_lists_every_image_on_demand(tiny_planes, capsys):
    gone = sorted((tiny_planes / "Images").iterdir())[:7]
    for path in gone:
        path.unlink()
    lines = [f"missing images: {path.stem}" for path in gone]
    assert main(["check", "planes", str(tiny_planes), "--workers", "1"]) == 1
    assert not set(lines) & set(capsys.readouterr().out.splitlines())
    assert main(["check", "planes", str(tiny_planes), "--workers", "1", "--all"]) == 1
    assert set(lines) <= set(capsys.readouterr().out.splitlines())


def test_unknown_corpora_are_rejected(tmp_path):
    with pytest.raises(SystemExit):
        main(["check", "lungs", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        main(["check", "hc18", str(tmp_path / "nowhere")])


def test_african_patients_are_identified_by_country_and_number(tmp_path):
    rows = ["Filename,Patient_num,Plane,Train,Center"]
    for country, code in (("Egypt", "EGY"), ("Ghana", "GHA")):
        for plane, label in enumerate(("Fetal abdomen", "Fetal brain", "Fetal thorax")):
            name = f"patient001_{code}_plane{plane}"
            write_image(tmp_path / country / f"{name}.png", len(rows))
            rows.append(f"{name},1,{label},1,{country}")
    (tmp_path / "African_planes_database.csv").write_text("\n".join(rows))
    records = CORPORA["african"].read(tmp_path)
    assert {record.patient for record in records} == {"Egypt 1", "Ghana 1"}
    assert [record.plane for record in records[:3]] == ["abdomen", "brain", "heart"]
    assert {record.corpus for record in records} == {"african"}
