"""Own benchmarks: which images they score, never trained patients, and mistakes in their settings."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from callbacks.tracking.wandb_run import may_upload_images
from datamodules import HC18DataModule, PairShardsDataModule, PhantomDataModule, TableDataModule
from datamodules.evaluation.own_benchmarks import OwnBenchmark
from datamodules.evaluation.protocol import DEFAULT_PROTOCOL
from experiments.commands import data as data_command
from experiments.commands import prompts as prompts_command
from metrics import benchmarks
from tests.datamodules.corpora.test_table_data import rows_of, write


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
        ({"name": "ga_days"}, "stands for something else"),
        ({"name": "plane_brain"}, "stands for something else"),
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
