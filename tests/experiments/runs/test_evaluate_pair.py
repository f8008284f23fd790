"""`train` and `evaluate` on the planes preset with tiny towers: own checkpoints, prompts and folders."""

import json
import sys

import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score

from datamodules import FetalPlanesDataModule
from datamodules.evaluation.protocol import Protocol
from datamodules.pairs.image_reading import read_image
from experiments import __main__ as command_line
from experiments.runs.cli import SonoDistillCLI
from models import load_student
from models.checkpoints.weights import read_entry
from tests.experiments.runs.documented import undocumented_keys, violations

TOWER = {
    "trunk": "repvit_m0_9", "trunk_args": {"embed_dim": [8, 8, 16, 16], "depth": [1, 1, 1, 1]},
    "embed_dim": 16, "image_size": 32, "context_length": 24,
    "text_width": 16, "text_layers": 1, "text_heads": 2,
}  # fmt: skip
CSV = {
    "class_path": "lightning.pytorch.loggers.CSVLogger",
    "init_args": {"save_dir": ".", "name": "", "version": ""},
}
SMALL = (
    "--data.init_args.batch_size=8", "--data.init_args.num_workers=0", "--data.init_args.pin_memory=false",
    "--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_progress_bar=false",
    f"--trainer.logger={json.dumps([CSV])}", "--planes.figures=false", "--biometry.figures=false",
)  # fmt: skip


def run(*arguments):
    command_line.run(list(arguments))


@pytest.fixture
def workplace(tmp_path, tiny_planes, monkeypatch):
    """An empty folder for runs whose reports nobody reads."""
    monkeypatch.setattr("experiments.runs.cli.report_finished_run", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLANES_ROOT", str(tiny_planes))
    monkeypatch.delenv("SONODISTILL_RUN", raising=False)
    monkeypatch.setattr(sys, "argv", ["experiments"])
    return tmp_path


def test_a_benchmark_of_ones_own_is_scored_where_shards_have_no_other(workplace, tiny_planes, monkeypatch):
    monkeypatch.setattr("experiments.runs.cli.plots.write_all", lambda *_: None)
    run("data", "shards", str(tiny_planes), "shards", "--samples-per-shard=20")
    records = FetalPlanesDataModule(str(tiny_planes)).evaluation_records("planes", "all")
    rows = [{"image": str(one.image), "patient": one.patient, "plane": one.plane} for one in records]
    pd.DataFrame(rows).to_csv("mine.csv", index=False)
    own = json.dumps([{"name": "mine", "table": "mine.csv", "outside": True}])
    student = json.dumps({"class_path": "models.TimmEncoder", "init_args": TOWER})
    run(
        "train", "no-kd", "shards", "--run=made", *SMALL, f"--model.student={student}", "--model.teacher=null",
        "--data.urls=shards", "--data.planes_root=null", "--data.hc18_root=null", f"--data.init_args.benchmarks={own}",
        "--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=1",
    )  # fmt: skip
    metrics = json.loads((workplace / "outputs" / "no-kd" / "made" / "results.json").read_text())["metrics"]
    assert 0 < metrics["student/mine/n_scored"] < len(rows)


def test_a_trained_pair_is_scored_beyond_zero_shot(workplace, tiny_planes, capsys, monkeypatch):
    monkeypatch.setattr("callbacks.evaluation.answer_calibration.LEAST", 1)
    student = json.dumps({"class_path": "models.TimmEncoder", "init_args": TOWER})
    with monkeypatch.context() as patch:
        patch.setattr("experiments.runs.cli.plots.write_all", lambda *_: None)
        run(
            "train", "no-kd", "planes", "--run=made", *SMALL, f"--model.student={student}",
            "--model.teacher=null", "--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=1",
            "--data.init_args.val_share=0.4",
        )  # fmt: skip
    trained = workplace / "outputs" / "no-kd" / "made"
    metrics = json.loads((trained / "results.json").read_text())["metrics"]
    assert "student/planes/f1" in metrics
    answers = read_entry(trained / "checkpoints" / "best.ckpt", "answers")
    assert answers["prompts"] == Protocol.load().content()
    assert {"student/none/planes_auroc", "student/none/planes_false_accept"} <= metrics.keys()
    assert undocumented_keys(metrics) == []
    assert not any("probe" in name for name in metrics), "training leaves it out"
    checkpoint = trained / "checkpoints" / "best.ckpt"
    Protocol(
        planes={name: [f"{name} view"] for name in ("brain", "abdomen", "heart", "femur", "cervix")},
        subplanes={f"trans-{name}": ["v"] for name in ("thalamic", "cerebellum", "ventricular")},
        biometry=["{weeks} {days}"],
    ).save(workplace / "own.json")
    run(
        "evaluate", "planes", str(checkpoint), f"--teacher={checkpoint}", "--protocol=own.json", *SMALL,
        "--representation.probe_split=all", "--planes.test_split=all", "--biometry.test_split=all",
    )  # fmt: skip
    (results,) = (workplace / "outputs" / "evaluate").glob("*/results.json")
    record = json.loads(results.read_text())
    metrics = record["metrics"]
    assert not any("/none/" in name for name in metrics), "the calibration holds for other prompts"
    assert metrics["geometry/cka"] == pytest.approx(1, abs=1e-5), "the teacher is the student itself"
    assert metrics["geometry/off_diagonal_correlation"] == pytest.approx(1, abs=1e-5)
    assert metrics["student/probe/views_f1"] == metrics["teacher/probe/views_f1"]
    assert metrics["student/planes/f1"] == metrics["teacher/planes/f1"]
    table = pd.read_csv(next(tiny_planes.glob("*.csv")), sep=";")
    assert metrics["student/planes/n_scored"] == (table["Plane"].str.strip() != "Other").sum() > 0
    both = [record["details"]["student"][name]["samples"] for name in ("planes", "subplanes")]
    truth, guess = ([row[key] for rows in both for row in rows] for key in ("target", "prediction"))
    expected = f1_score(truth, guess, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert len(set(truth)) == 8
    assert metrics["student/eight_class/f1"] == pytest.approx(expected)
    assert metrics["student/eight_class/f1_ci_low"] < expected < metrics["student/eight_class/f1_ci_high"]
    assert metrics["student/composite"] == metrics["student/eight_class/f1"], "planes has no heads"
    assert {"teacher/eight_class/f1", "random/eight_class/f1_ci_low"} <= metrics.keys()
    assert undocumented_keys(metrics) == []
    assert violations(record) == [], "with probes, retrieval and geometry"
    own = Protocol.load("own.json").digest
    assert record["details"]["student"]["planes"]["protocol"] == own
    assert (results.parent / "plots" / "geometry-planes.png").is_file()
    printed = capsys.readouterr().out
    assert record["details"]["student"]["planes"]["split"] == "all"
    assert (results.parent / "plots" / "samples-planes.png").is_file()
    assert "evaluate on planes: all images" in " ".join(printed.split())
    assert "F1 over eight classes [95 % bootstrap interval over images]: teacher" in printed
    assert "linear CKA 1.000" in printed
    assert "linear probe, views F1" in printed
    assert "Test metric" not in printed, "Lightning's table of everything stands in results.json"

    # Lightning's own prediction of the test patients' images, with the checkpoint's weights.
    run(
        "predict", "--config", str(trained / "config.yaml"), f"--ckpt_path={checkpoint}", "--run=asked",
        "--experiment=no-kd",
    )  # fmt: skip
    table = pd.read_csv(workplace / "outputs" / "no-kd" / "asked" / "predictions.csv").set_index("image")
    loaded = load_student(checkpoint)
    data = FetalPlanesDataModule(str(workplace / "FETAL_PLANES_DB"))
    test = {record.name: record.image for record in data.split("test")}
    assert set(table.index) == set(test)
    expected = pd.DataFrame(
        loaded.planes([read_image(test[name]) for name in table.index]), index=table.index
    )
    shares = [f"plane_{name}" for name in Protocol.load().planes]
    # Batches of another size round differently, and a tower of one epoch hardly prefers a plane.
    pd.testing.assert_frame_equal(table[shares], expected[shares], check_dtype=False, rtol=1e-3)
    best = table[shares].idxmax(axis=1).str.removeprefix("plane_")
    assert ((table["plane"] == best) | (table["plane"] == "none")).all()


def test_the_published_teacher_is_never_random(workplace):
    with pytest.raises(ValueError, match="TEACHER=path/to/weights"):
        run("train", "srkd", "planes", "--run=refused", *SMALL)


@pytest.mark.parametrize("preset", ["planes", "shards"])
def test_real_presets_resolve_to_the_papers_recipe(workplace, monkeypatch, capsys, preset):
    monkeypatch.setenv("HC18_ROOT", "/x/HC18")
    monkeypatch.setenv("SHARDS", "/x/shards")
    with pytest.raises(SystemExit):
        run("train", "srkd", preset, "--print_config")
    config = yaml.safe_load(capsys.readouterr().out)
    data, trainer, model = config["data"]["init_args"], config["trainer"], config["model"]
    assert (data["batch_size"], data["pin_memory"]) == (512, True)
    assert (trainer["accumulate_grad_batches"], trainer["precision"]) == (2, "16-mixed")
    assert (model["learning_rate"], model["weight_decay"], model["betas"]) == (1e-5, 0.1, [0.9, 0.98])
    assert model["student"]["init_args"]["name"] == "MobileCLIP2-S0"
    assert model["teacher"]["init_args"]["name"] == "FetalCLIP"
    if preset == "shards":
        assert (trainer["max_epochs"], model["warmup_steps"]) == (20, 500)
        assert (data["urls"], data["hc18_root"]) == ("/x/shards", "/x/HC18")
    else:
        assert data["root"] == str(workplace / "FETAL_PLANES_DB")


class Settled(Exception):  # noqa: N818
    """The configuration is known, and nothing was built from it yet."""


@pytest.mark.parametrize("options", [["--paper_selection"], []])
def test_the_papers_selection_is_on_what_it_reports(workplace, monkeypatch, options):
    found = []

    def stop(cli):
        found.append(cli.config["fit"])
        raise Settled

    monkeypatch.setattr(SonoDistillCLI, "instantiate_classes", stop)
    student = json.dumps({"class_path": "models.TimmEncoder", "init_args": TOWER})
    with pytest.raises(Settled):
        run(
            "train", "no-kd", "planes", *SMALL, f"--model.student={student}", "--model.teacher=null", *options
        )
    expected = ("all", "all") if options else ("val", "test")
    for evaluation in (found[0].planes, found[0].biometry):
        assert (evaluation.selection_split, evaluation.test_split) == expected
