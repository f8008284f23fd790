"""A table trains, is checked and becomes shards as the public sets do; own benchmarks score its labels or another's."""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from callbacks.tracking.wandb_run import may_upload_images
from datamodules import HC18DataModule, PairShardsDataModule, PhantomDataModule, Record, TableDataModule
from datamodules.corpora.cells import separated
from datamodules.evaluation.own_benchmarks import OwnBenchmark
from datamodules.evaluation.protocol import DEFAULT_PROTOCOL
from datamodules.pairs.captions import caption_templates
from datamodules.record import PackedRecords, further_groups
from experiments.commands import data as data_command
from experiments.commands import prompts as prompts_command
from metrics import benchmarks
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


def own(tmp_path, **settings):
    (tmp_path / "prompts.json").write_text(
        json.dumps({"brain": ["a head"], "Fetal femur": ["a thigh"], "spine": ["a back", "bones"]})
    )
    return OwnBenchmark(**{"name": "clinic", "prompts": str(tmp_path / "prompts.json"), **settings})


def test_a_class_whose_name_means_an_empty_cell_is_refused(tmp_path):
    (tmp_path / "findings.json").write_text(json.dumps({"cyst": ["a cyst"], "None": ["no finding"]}))
    benchmark = own(tmp_path, label="finding", prompts=str(tmp_path / "findings.json"))
    with pytest.raises(
        ValueError, match=r"findings\.json: 'None' cannot be a class: .* empty cell; rename it"
    ):
        benchmark.register()
    with pytest.raises(ValueError, match="clinic: exclude: 'n/a' cannot be a class"):
        own(tmp_path, exclude=("n/a",))


def test_separators_within_quotes_do_not_count(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('image;"GA (weeks, days, total)"\na.png;"20, 3, 143"\n')
    assert separated(path).to_dict("records") == [{"image": "a.png", "GA (weeks, days, total)": "20, 3, 143"}]


def test_a_benchmark_of_the_training_table_scores_its_patients(tmp_path):
    data = TableDataModule(
        str(write(tmp_path, rows_of(60))), benchmarks=[own(tmp_path, weight=5, exclude=("spine",))]
    )
    assert data.benchmarks == ("clinic",)
    scored = data.evaluation_records("clinic", "test")
    assert {r.name for r in scored} == {r.name for r in data.split("test") if r.plane != "spine"}
    benchmark = benchmarks.BENCHMARKS["clinic"]
    assert {benchmark.label_of(r) for r in scored} == {"brain", "Fetal femur"}  # as the prompt file has them
    assert benchmarks.composite_score({"clinic": 0.4, "planes": 0.8}) == pytest.approx(
        (5 * 0.4 + 5 * 0.8) / 10
    )
    saved = benchmarks.own_benchmarks(["clinic", "planes"])
    del benchmarks.BENCHMARKS["clinic"]
    benchmarks.register_saved(json.loads(json.dumps(saved)))
    assert benchmarks.BENCHMARKS["clinic"].title == "clinic F1"
    saved[0]["classes"]["brain"] = ["another text"]
    benchmarks.register_saved(saved)  # of another run, in one report
    assert benchmarks.BENCHMARKS["clinic"].classes["brain"] == ["a head"]
    with pytest.raises(ValueError, match="the name is used by one with other settings"):
        benchmarks.register_saved([saved[0] | {"kind": "biometry"}])


def test_a_benchmark_of_ones_own_makes_the_images_of_a_simulator_private(tmp_path):
    table = write(tmp_path, rows_of(20), "labels.csv")
    assert may_upload_images(None, PhantomDataModule(str(tmp_path)))
    assert not may_upload_images(
        None, PhantomDataModule(str(tmp_path), benchmarks=[own(tmp_path, table=str(table))])
    )


def test_a_benchmark_of_another_table_never_scores_trained_patients(tmp_path):
    training = write(tmp_path, rows_of(40))
    labels = write(tmp_path, rows_of(60)[40:], "labels.csv")
    data = TableDataModule(str(training), benchmarks=[own(tmp_path, table=str(labels))])
    trained = {record.patient for record in data.split("train")}
    scored = data.evaluation_records("clinic", "val") + data.evaluation_records("clinic", "test")
    assert {f"p{number}" for number in range(40, 60)} <= {record.patient for record in scored}
    assert not trained & {record.patient for record in scored}
    assert "labels.csv" not in {record.name for record in data.records}
    assert len(data.records) == 80


@pytest.mark.parametrize("given", [True, False])
def test_a_benchmark_of_a_table_in_the_shards_scores_the_patients_left_out_of_them(tmp_path, given):
    rows = rows_of(60)
    if given:
        rows = [row | {"split": "test" if row["patient"] in ("p3", "p7") else "train"} for row in rows]
    table = write(tmp_path, rows)
    shards, everybody = tmp_path / "shards", tmp_path / "everybody"
    assert data_command.main(["shards", str(shards), f"--table={table}"]) == 0
    benchmark = own(tmp_path, table=str(table))
    data = PairShardsDataModule(str(shards), benchmarks=[benchmark])
    left_out = {record.name for record in TableDataModule(str(table)).records if record.split != "train"}
    scored = data.evaluation_records("clinic", "val") + data.evaluation_records("clinic", "test")
    assert {record.name for record in scored} == left_out
    assert data_command.main(["shards", str(everybody), f"--table={table}", "--no-exclude-test"]) == 0
    data = PairShardsDataModule(str(everybody), benchmarks=[benchmark])
    with pytest.raises(ValueError, match=r"the training shards hold all patients of a table of this name"):
        data.evaluation_records("clinic", "test")


def test_images_of_a_public_set_keep_their_split_under_a_relative_root(tiny_hc18, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_hc18.parent)
    heads = HC18DataModule(tiny_hc18.name)
    rows = [
        {"image": str(r.image.resolve()), "patient": f"x{r.patient}", "plane": "brain"} for r in heads.records
    ]
    table = tmp_path / "labels.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    data = HC18DataModule(tiny_hc18.name, benchmarks=[own(tmp_path, table=str(table), outside=True)])
    trained = {record.image.resolve() for record in data.split("train")}
    scored = {Path(r.image) for name in ("val", "test") for r in data.evaluation_records("clinic", name)}
    assert scored
    assert not trained & scored


def test_an_image_of_the_same_name_in_another_folder_is_another_patient(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "patient"} for row in rows_of(20)]
    tables = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        tables.append(str(write(tmp_path / folder, rows)))
    data = TableDataModule(tables[0], benchmarks=[own(tmp_path, table=tables[1])])
    with pytest.warns(UserWarning, match="no patient column"):
        assert len(data.records) == len(rows)
    scored = data.evaluation_records("clinic", "val") + data.evaluation_records("clinic", "test")
    assert len(scored) == len(rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "planes"}, "benchmark planes: the name is used by one of this project's; choose another"),
        ({"name": "my clinic"}, "a name has letters, digits and _ only"),
        ({"name": "ages"}, "stands for something else"),
        ({"label": "site", "prompts": None}, r"clinic: label=site needs prompts=FILE"),
        ({"kind": "biometry"}, "prompts of ages are the protocol's"),
        ({"val_share": 1.0}, "val_share is between 0 and 1"),
        (
            {"label": "quality", "table": "table.csv"},
            "table.csv: no column quality, which benchmark clinic needs",
        ),
    ],
)
def test_mistakes_in_a_benchmark_are_one_line(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    table = write(tmp_path, rows_of(3))
    with pytest.raises(ValueError, match=message):
        _ = TableDataModule(str(table), benchmarks=[own(tmp_path, **settings)]).records


def test_prompts_check_names_labels_and_long_prompts(tmp_path, capsys):
    table = write(tmp_path, rows_of(3))
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"brain": ["a head", "very " * 80 + "long"], "Fetal femur": ["a thigh"]}))
    assert prompts_command.main(["prompts", "check", str(file), f"--table={table}"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "spine" in shown
    assert "has 83 tokens of 77" in shown
    file.write_text(json.dumps({"brain": ["a head"], "Fetal femur": ["a thigh"], "spine": ["a back"]}))
    assert prompts_command.main(["prompts", "check", str(file), f"--table={table}"]) == 0
    whole = json.loads(DEFAULT_PROTOCOL.read_text())
    file.write_text(json.dumps(whole))  # its sub-planes are no planes
    assert prompts_command.main(["prompts", "check", str(file), f"--table={table}"]) == 1
    write(tmp_path, [row | {"plane": "Fetal brain"} for row in rows_of(3)])
    assert prompts_command.main(["prompts", "check", str(file), f"--table={table}"]) == 0
    with pytest.raises(SystemExit):
        prompts_command.main(["prompts", "check", str(file), "--outside"])
    assert "--images, --column and --outside need --table=TABLE" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="6 of 6 images missing"):
        prompts_command.main(
            ["prompts", "check", str(file), f"--table={table}", f"--images={tmp_path / 'x'}"]
        )
    file.write_text(json.dumps({"brain": "a head", "spine": ["a back"]}))
    with pytest.raises(
        ValueError,
        match=r"prompts.json: brain: Input should be a valid list, not 'a head'; expected class -> list",
    ):
        prompts_command.main(["prompts", "check", str(file)])


def test_new_images_of_trained_patients_are_not_scored(tmp_path):
    training = write(tmp_path, rows_of(40))
    later = [row | {"image": f"later_{row['image']}"} for row in rows_of(40)]
    labels = write(tmp_path, later, "labels.csv")
    data = TableDataModule(str(training), benchmarks=[own(tmp_path, table=str(labels))])
    for split in ("val", "test"):
        expected = {record.patient for record in data.split(split)}
        assert {record.patient for record in data.evaluation_records("clinic", split)} == expected != set()


def test_patients_of_a_public_set_are_not_those_of_the_same_number_in_a_table(tiny_hc18, tmp_path):
    trained = sorted({record.patient for record in HC18DataModule(str(tiny_hc18)).split("train")})
    rows = [{"image": f"own_{name}.png", "patient": name, "plane": "brain"} for name in trained]
    table = str(write(tmp_path, rows, "labels.csv"))
    data = HC18DataModule(str(tiny_hc18), benchmarks=[own(tmp_path, table=table)])
    scored = data.evaluation_records("clinic", "val") + data.evaluation_records("clinic", "test")
    assert len(scored) == len(rows) > 5


def test_val_share_of_a_benchmarks_patients_selects_checkpoints(tmp_path):
    training = write(tmp_path, rows_of(20))
    others = [row | {"image": f"o{row['image']}", "patient": f"o{row['patient']}"} for row in rows_of(60)]
    table = str(write(tmp_path, others, "labels.csv"))
    data = TableDataModule(str(training), benchmarks=[own(tmp_path, table=table, val_share=0.2)])
    patients = {
        name: {r.patient for r in data.evaluation_records("clinic", name)} for name in ("val", "test")
    }
    assert len(patients["val"] | patients["test"]) == 60
    assert 3 <= len(patients["val"]) <= 24  # 12 expected, four standard deviations


def test_a_class_called_other_with_prompts_of_its_own_is_scored(tmp_path):
    own(tmp_path).register()
    assert benchmarks.BENCHMARKS["clinic"].exclude == ()
